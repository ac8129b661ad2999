"""A run from its options to its end: what `Artifact.tune`, `Run.resume` and `zofx tune` do.

    options ──prepare──▶ Prepared ──session──▶ pre-flight ──start──▶ folder ──train──▶ Outcome
                                                                               │
                                            callbacks ◀── messages, steps, evaluations

Everything that can be wrong with what is asked is found before an engine is loaded, and the folder
appears after the pre-flight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zofx.api.callbacks import Callback, Callbacks
from zofx.errors import UsageError
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import Observer, StepMetrics
from zofx.runs.preflight import measure, recall, remember
from zofx.runs.prepare import Origin, Prepared, prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.run_config import Engine
from zofx.runs.run_folder import (
    ACTIVATIONS,
    RunFolder,
    StepSelector,
    require_free,
)
from zofx.runs.trackers import TRACKERS, require_trackers
from zofx.runs.training_loop import Stop
from zofx.runs.tune import Outcome, start, train
from zofx.runtimes.host.activation_cache import ActivationCache
from zofx.session import Session, SharedSession
from zofx.tasks.data.pool import Pool
from zofx.tasks.types import Record
from zofx.zo.preflight import Preflight

NONE = "none"
"""The name of no folder."""


@dataclass(frozen=True)
class Procedure:
    """How a run is made; no bit of it depends on this.

    Attributes:
        out: the folder of a new run; None names one under runs/.
        resume: the folder of a run to go on with; None makes a new one.
        preflight: whether the ± gap and the round-off are measured first.
        strict: whether a run is refused where the gap is lost in round-off.
        on_collapse: "go", "stop" or "rewind": what to do when a run collapses or diverges.
        activations: where layers below the first that trains leave their results; None is a folder
            of the run, "none" nowhere.
        activation_limit: of that folder, GB.
        report_to: names of trackers that follow the run, see `zofx.runs.trackers`.
        origin: another run, whose θ a new one starts from; None starts from the artifact's.
        patience: evaluations on dev in a row without a better one that end the run; None for any.
    """

    out: Path | None = None
    resume: Path | None = None
    preflight: bool = True
    strict: bool = False
    on_collapse: str = "go"
    activations: str | None = None
    activation_limit: float = 16.0
    report_to: tuple[str, ...] = ()
    origin: Origin | None = None
    patience: int | None = None


def origin_of(text: str) -> Origin:
    """The run that "RUN" or "RUN@STEP" names; the step is best, last or a number.

    Raises:
        UsageError: there is no such run.
    """
    path, at, step = text.rpartition("@")
    words: dict[str, StepSelector] = {"best": "best", "last": "last"}
    if at and (step in words or step.isdecimal()):
        which = words[step] if step in words else int(step)
        return Origin(RunFolder.open(Path(path)), which)
    return Origin(RunFolder.open(Path(text)))


def trained(
    artifact: Path,
    options: Mapping[str, Any],
    procedure: Procedure,
    callbacks: Sequence[Callback] = (),
    *,
    own: Pool[Record] | None = None,
    stop: Stop = lambda: False,
) -> Outcome:
    """Make a run, or go on with one, until it has its steps or a callback stops it.

    Args:
        artifact: the folder.
        options: of `run_config.OPTIONS`, by name.
        procedure: how.
        callbacks: follow the run; each may stop it.
        own: the rows, where these are the task.
        stop: asked between steps and between the batches of an evaluation.

    Raises:
        ZofxError: the first thing that is wrong, with what to do; or the run diverges.
    """
    listeners = Callbacks(callbacks)
    require_trackers(procedure.report_to)
    prepared, procedure = _prepared(artifact, options, procedure, own)
    cache = _cache(procedure.activations, procedure.activation_limit, prepared)
    listeners.start(prepared.config, prepared.steps)
    listeners.message(announcement(prepared))
    for warning in (*_leak(prepared, procedure.origin), *_oddities(prepared)):
        listeners.message(f"data: {warning}")
    session = prepared.session()
    try:
        new = procedure.preflight and procedure.resume is None
        measured = _preflight(prepared, session, procedure, listeners) if new else recall(prepared)
        if procedure.out is not None:
            prepared = start(prepared, procedure.out)
        assert prepared.run is not None
        if procedure.activations is None:
            folder = str(prepared.run.path / ACTIVATIONS)
            cache = _cache(folder, procedure.activation_limit, prepared)
        outcome = train(
            prepared, session, _observers(prepared, procedure, listeners, session),
            _either(stop, listeners), cache,
            noise=measured.noise if measured else None, on_collapse=procedure.on_collapse,
            patience=procedure.patience,
            report=lambda finding: listeners.message(f"guard: {finding}"),
        )  # fmt: skip
        if isinstance(session, SharedSession):
            listeners.message(_of_workers(session))
    finally:
        session.close()
    if cache is not None and cache.disabled_reason is not None:
        listeners.message(
            f"{cache.disabled_reason}: rows that are not there were computed every time"
        )
    return outcome


def _prepared(
    artifact: Path, options: Mapping[str, Any], procedure: Procedure, own: Pool[Record] | None
) -> tuple[Prepared, Procedure]:
    """The run, and where it goes."""
    out = procedure.out
    if procedure.resume is not None:
        if out is not None:
            raise UsageError(
                "-o makes a new run and --resume goes on with one: give one of the two"
            )
        if procedure.origin is not None:
            raise UsageError(
                "--from starts a new run and --resume goes on with one: give one of the two"
            )
        return prepare_resumed(artifact, procedure.resume, options), procedure
    prepared = prepare(artifact, options, own, procedure.origin)
    seed = prepared.config.task.seed
    name = f"{artifact.resolve().name}-{prepared.workload.task.name}-seed{seed}"
    out = out or Path("runs") / name
    require_free(out)
    return prepared, replace(procedure, out=out)


def _cache(folder: str | None, gigabytes: float, prepared: Prepared) -> ActivationCache | None:
    """The folder of the frozen prefix's results; None where none are kept."""
    if folder in (None, NONE) or not prepared.model.manifest.cut:
        return None
    return ActivationCache(Path(str(folder)), round(gigabytes * 1e9))


class _WorkerNews:
    """Tells what happens to the workers of a fleet."""

    def __init__(self, session: SharedSession, listeners: Callbacks) -> None:
        self._session, self._listeners = session, listeners

    def step(self, metrics: StepMetrics) -> None:
        for text in self._session.messages():
            self._listeners.message(f"fleet: {text}")

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        self._listeners.message(_of_workers(self._session))

    def close(self) -> None:
        pass


def _of_workers(session: SharedSession) -> str:
    """How fast the workers are, and what they win."""
    rates = session.rows_per_second()
    each = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    return f"fleet: rows × probes per second: {each}; {session.speedup:.2f} at work at a time"


def _observers(
    prepared: Prepared, procedure: Procedure, listeners: Callbacks, session: Session
) -> list[Observer]:
    run = prepared.run
    assert run is not None  # `start` made it
    made = run.journal().next_step if procedure.report_to else 0
    trackers = [TRACKERS[name](run.path, run.config, made) for name in procedure.report_to]
    news = [_WorkerNews(session, listeners)] if isinstance(session, SharedSession) else []
    return [listeners, *news, *trackers]


def _either(stop: Stop, listeners: Callbacks) -> Callable[[], bool]:
    return lambda: listeners.stopped or stop()


def announcement(prepared: Prepared) -> str:
    """What is about to happen."""
    config = prepared.config
    evaluation, engine = config.evaluation, config.engine
    return (
        f"task {prepared.workload.task.name}: {config.drawn['train']} examples to train on, "
        f"{evaluation.eval_size} of {config.drawn['dev']} dev examples every "
        f"{evaluation.eval_every} steps\n"
        f"settings: {config.settings}, seed={config.task.seed}, objective={config.objective}\n"
        f"{_start_line(prepared)}"
        f"loading {config.folder} on {_place(engine)}, every file checked"
    )


def _place(engine: Engine) -> str:
    if engine.fleet in (None, "none"):
        return f"{engine.runtime} ({engine.device})"
    return f"a fleet ({engine.fleet})"


def _oddities(prepared: Prepared) -> tuple[str, ...]:
    return prepared.report.warnings if prepared.report else ()


def _leak(prepared: Prepared, origin: Origin | None) -> tuple[str, ...]:
    """Whether what is dev now may be what the other run was trained on."""
    if origin is None:
        return ()
    now, before = prepared.config.task, origin.run.config.task
    if now.name != before.name or now.seed == before.seed:
        return ()
    return (
        f"seed {now.seed} draws other examples than seed {before.seed} of {origin.run.path}: what "
        "is dev now may be what that run was trained on; leave --seed out to keep them apart",
    )


def _start_line(prepared: Prepared) -> str:
    start = prepared.config.start
    return "" if start is None else f"starting from step {start.step} of {start.run}\n"


def _preflight(
    prepared: Prepared, session: Session, procedure: Procedure, listeners: Callbacks
) -> Preflight | None:
    """Measure, or recall what was measured before.

    Raises:
        UsageError: the gap is lost, and that was to be refused.
    """
    before = recall(prepared)
    result = before or _measured(prepared, session, listeners)
    if result is None:
        listeners.message(
            "pre-flight: nothing to measure here: no ± gap, or losses of text that jump"
        )
        return None
    if procedure.strict and result.verdict == "below-noise":
        raise UsageError(f"--strict-preflight: {result}")
    listeners.message(f"pre-flight{'' if before is None else ' (measured before)'}: {result}")
    settings = prepared.config.settings
    limit = result.overshoot(settings.queries)
    if not settings.tensors and not settings.rays and settings.lr > limit:
        listeners.message(
            f"pre-flight: at --lr {settings.lr:g} a step overshoots: above {limit:.2g} the loss of "
            "its own batch rises; lower --lr"
        )
    return result


def _measured(prepared: Prepared, session: Session, listeners: Callbacks) -> Preflight | None:
    listeners.message("pre-flight: measuring the ± gap and the round-off of this graph")
    result = measure(
        prepared, session, lambda done, total: listeners.progress("pre-flight", done, total)
    )
    if result is not None:
        remember(prepared, result)
    return result

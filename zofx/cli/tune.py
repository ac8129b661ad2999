"""zofx tune: train an artifact on a task."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import Progress, RunProgress, interruptible, say
from zofx.cli.options import Artifact, Json, add_command, takes
from zofx.errors import UsageError
from zofx.runs.run_config import OPTIONS

if TYPE_CHECKING:
    from zofx.runs.prepare import Prepared
    from zofx.runs.tune import Outcome
    from zofx.runtimes.host.activation_cache import ActivationCache
    from zofx.session import Session
    from zofx.zo.preflight import Preflight

INTERRUPTED = 130
NONE = "none"


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "tune", tune)


@takes(OPTIONS)
def tune(  # noqa: PLR0913  a verb has many options
    artifact: Artifact,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="RUN", help="Run folder; runs/… if absent."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")
    ] = None,
    *,
    preflight: Annotated[
        bool, typer.Option("--preflight/--no-preflight", help="Measure ± gap and round-off first.")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict-preflight", help="Do not train where the gap is lost.")
    ] = False,
    on_collapse: Annotated[
        str,
        typer.Option(
            "--on-collapse",
            metavar="go|stop|rewind",
            help="When every dev answer is one class, or the loss diverges: report it, end the "
            "run, or end it at its best step on dev.",
        ),
    ] = "go",
    cache: Annotated[
        str | None,
        typer.Option(
            "--activation-cache",
            metavar="DIR",
            help="Where layers below the first that trains leave their results "
            "(`zofx compile --train-from-layer`): RUN/activations if absent, or none. Runs may "
            "share one.",
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option("--activation-limit", min=0, metavar="GB", help="Of that folder.")
    ] = 16,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write RUN/tensorboard too.")
    ] = False,
    json_: Json = False,
    **options: Any,
) -> None:
    """Train an artifact on a task, with forward passes only.

    Every step is in RUN/journal.bin before it counts: stop with Ctrl-C or kill it, and --resume
    goes on as if nothing had happened. What --lr and the others default to is the method's
    (`zofx explain METHOD`).

    A pre-flight of at most eight steps' time measures whether the probes stand clear of round-off;
    it is remembered in ART.preflight.jsonl. While the run goes, a guard reports a collapse to one
    class, a loss that diverges, probes that differ by round-off alone, and a learning rate that is
    too small or too large, at the step where it shows.

    Examples:
        zofx tune art --task trec --steps 2000 --schedule constant -o run
        zofx tune art --task my-task.jsonl --runtime torch
        zofx tune art --resume run --steps 4000
    """
    from zofx.runs.metrics_log import require_tensorboard
    from zofx.runs.preflight import recall
    from zofx.runs.prepare import prepare, prepare_resumed
    from zofx.runs.run_folder import ACTIVATIONS
    from zofx.runs.tune import start
    from zofx.runs.tune import train as train_

    if tensorboard:
        require_tensorboard()
    if resume is not None and out is not None:
        raise UsageError("-o makes a new run and --resume goes on with one: give one of the two")
    if resume is not None:
        prepared = prepare_resumed(artifact, resume, options)
    else:
        prepared = prepare(artifact, options)
        out = _new_folder(out, artifact, prepared)
    kept = None if cache is None else _activations(cache, limit, prepared)
    say(_announcement(prepared))
    session = prepared.session()
    try:
        new = preflight and resume is None
        measured = _preflight(prepared, session, strict) if new else recall(prepared)
        if out is not None:
            prepared = start(prepared, out)
        if cache is None and prepared.run is not None:
            kept = _activations(str(prepared.run.path / ACTIVATIONS), limit, prepared)
        with interruptible() as stop, Progress("tune") as bar:
            observers = [RunProgress(bar, prepared.steps), *_tensorboard(tensorboard, prepared)]
            outcome = train_(
                prepared, session, observers, stop, kept,
                noise=measured.noise if measured else None, on_collapse=on_collapse,
                report=lambda finding: say(f"guard: {finding}"),
            )  # fmt: skip
    finally:
        session.close()
    if kept is not None and kept.disabled_reason is not None:
        say(f"{kept.disabled_reason}: rows that are not there were computed every time")
    print(json.dumps(_summary(outcome), allow_nan=False) if json_ else _ending(artifact, outcome))
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


def _new_folder(out: Path | None, artifact: Path, prepared: "Prepared") -> Path:
    from zofx.runs.run_folder import require_free

    seed = prepared.config.task.seed
    name = f"{artifact.resolve().name}-{prepared.workload.task.name}-seed{seed}"
    chosen = out or Path("runs") / name
    require_free(chosen)
    return chosen


def _activations(folder: str, gigabytes: float, prepared: "Prepared") -> "ActivationCache | None":
    """Where what is below the cut is kept; None where nothing is."""
    if folder == NONE or not prepared.model.manifest.cut:
        return None
    from zofx.runtimes.host.activation_cache import ActivationCache

    return ActivationCache(Path(folder), round(gigabytes * 1e9))


def _announcement(prepared: "Prepared") -> str:
    config = prepared.config
    evaluation, engine = config.evaluation, config.engine
    return (
        f"task {prepared.workload.task.name}: {config.drawn['train']} examples to train on, "
        f"{evaluation.eval_size} of {config.drawn['dev']} dev examples every "
        f"{evaluation.eval_every} steps\n"
        f"settings: {config.settings}, seed={config.task.seed}, objective={config.objective}\n"
        f"loading {config.folder} on {engine.runtime} ({engine.device}), every file checked"
    )


def _preflight(prepared: "Prepared", session: "Session", strict: bool) -> "Preflight | None":
    from zofx.runs.preflight import measure, recall, remember

    before = recall(prepared)
    if before is None:
        say("pre-flight: measuring the ± gap and the round-off of this graph")
        with Progress("pre-flight") as bar:
            result = measure(prepared, session, bar)
        if result is None:
            say("pre-flight: nothing to measure here: no ± gap, or losses of text that jump")
            return None
        remember(prepared, result)
    else:
        result = before
    if strict and result.verdict == "below-noise":
        raise UsageError(f"--strict-preflight: {result}")
    say(f"pre-flight{'' if before is None else ' (measured before)'}: {result}")
    settings = prepared.config.settings
    limit = result.overshoot(settings.queries)
    if not settings.tensors and not settings.rays and settings.lr > limit:
        say(
            f"pre-flight: at --lr {settings.lr:g} a step overshoots: above {limit:.2g} the loss of "
            "its own batch rises; lower --lr"
        )
    return result


def _tensorboard(asked: bool, prepared: "Prepared") -> list[Any]:
    if not asked or prepared.run is None:
        return []
    from zofx.runs.metrics_log import TensorBoardLog
    from zofx.runs.run_folder import TENSORBOARD

    return [TensorBoardLog(prepared.run.path / TENSORBOARD)]


def _ending(artifact: Path, outcome: "Outcome") -> str:
    run, best = outcome.run.path, outcome.best
    lines = [f"{run}: {outcome.steps} of {outcome.wanted} steps"]
    if best is not None:
        by = outcome.run.config.evaluation.select_by
        rule = f" by {by}" if by else ""
        lines.append(f"best on dev{rule}: step {best}, {outcome.evaluations[best]}")
        classes = outcome.evaluations[best].classes
        lines += [] if classes is None else [f"warning: {text}" for text in classes.warnings]
    if outcome.interrupted:
        lines.append(f"to go on: zofx tune {_quoted(artifact)} --resume {_quoted(run)}")
    else:
        lines.append(f"next: zofx eval {_quoted(artifact)} --run {_quoted(run)}")
    return "\n".join(lines)


def _summary(outcome: "Outcome") -> dict[str, Any]:
    """The ending for programs."""
    evaluations = {step: result.to_dict() for step, result in outcome.evaluations.items()}
    return {
        "run": str(outcome.run.path), "steps": outcome.steps, "steps_wanted": outcome.wanted,
        "select_by": outcome.run.config.evaluation.select_by, "best_step": outcome.best,
        "evaluations": [{"step": step, **fields} for step, fields in evaluations.items()],
        "findings": [asdict(finding) for finding in outcome.findings],
    }  # fmt: skip


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))

"""The verb: train an artifact's trainables on a task.

    Prepared ──pre-flight──▶ run folder ──▶ journal ──steps (`training_loop`)──▶ Outcome

A new run is a resumed one with an empty journal, so an interrupted run and an uninterrupted one do
the same. All that can be wrong with the input is found before the folder is made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from zofx.errors import DivergenceError
from zofx.runs.evaluation import Evaluation
from zofx.runs.guard import Finding
from zofx.runs.metrics_log import (
    JsonlLog,
    Observer,
)
from zofx.runs.prepare import Prepared
from zofx.runs.rewind import cut_back
from zofx.runs.run_folder import RunFolder, require_free
from zofx.runs.training_loop import Stop, TrainingLoop
from zofx.runs.watch import CollapseError, Watch
from zofx.runtimes.host.activation_cache import ActivationCache
from zofx.runtimes.host.prefix import CutSession
from zofx.session import Session
from zofx.tasks.catalog.jsonl_task import ROWS
from zofx.zo.journal.writer import JournalWriter


@dataclass(frozen=True)
class Outcome:
    """How a call of `tune` ended.

    Attributes:
        run: the folder.
        steps: how many steps the run has made.
        wanted: how many it was to make.
        evaluations: step → evaluation on dev.
        best: the step that did best on dev; None without dev examples.
        findings: what the guard found in this call.
        out_of_patience: whether it ended because evaluations did not improve.
    """

    run: RunFolder
    steps: int
    wanted: int
    evaluations: Mapping[int, Evaluation]
    best: int | None
    findings: tuple[Finding, ...] = ()
    out_of_patience: bool = False

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before the last step."""
        return self.steps < self.wanted and not self.out_of_patience


def start(prepared: Prepared, out: Path) -> Prepared:
    """Make the folder of a new run.

    Raises:
        UsageError: the name is taken.
    """
    require_free(out)
    rows = prepared.workload.task.load() if prepared.config.task.name == ROWS else None
    run = RunFolder.create(out, prepared.config, rows, prepared.initial)
    return replace(prepared, run=run)


def train(  # noqa: PLR0913  what is trained, and how it may end
    prepared: Prepared,
    session: Session,
    observers: Sequence[Observer] = (),
    stop: Stop = lambda: False,
    activations: ActivationCache | None = None,
    *,
    noise: float | None = None,
    on_collapse: str = "go",
    patience: int | None = None,
    report: Callable[[Finding], None] = lambda finding: None,
) -> Outcome:
    """Make the steps that are missing, from wherever the journal ends.

    Args:
        prepared: with a folder.
        session: fresh, at the artifact's initial θ.
        observers: called after every step and evaluation.
        stop: asked between steps and between the batches of an evaluation.
        activations: the folder of the frozen prefix's results; no bit depends on it.
        noise: round-off of a loss, as a pre-flight measured it.
        on_collapse: one of ON_COLLAPSE.
        patience: evaluations on dev in a row without a better one that end the run; None for any.
        report: called with each finding of the guard, at the step where it shows.

    Raises:
        UsageError: there is no such way to go on after a collapse.
        DivergenceError: the loss is not finite, or the run has collapsed and is strict;
            says how to go back.
    """
    watch = Watch(prepared.config.settings, prepared.steps, noise, on_collapse, report)
    run = prepared.run
    assert run is not None, "start() or prepare_resumed() first"
    if activations is not None:
        cast(CutSession, session).keep_activations(activations)
    with run.locked():
        known = run.journal() if prepared.journal is None else prepared.journal
        writer, journal = JournalWriter.resume(run.journal_path, known)
        with writer:
            all_observers = (JsonlLog(run.metrics_path), *observers)
            loop = TrainingLoop(
                prepared, run, session, writer, all_observers, stop, watch, patience
            )
            try:
                steps = loop.go(journal)
            except Exception as error:
                writer.close()
                if writer.next_step == 0:
                    run.discard()
                raise _with_advice(error, run, rewind=on_collapse == "rewind") from error
            finally:
                for observer in observers:
                    observer.close()
    findings = tuple(watch.findings)
    out_of_patience = steps < prepared.steps and loop.out_of_patience
    return Outcome(
        run, steps, prepared.steps, run.evaluations(), run.best(), findings, out_of_patience
    )


def _with_advice(error: Exception, run: RunFolder, *, rewind: bool) -> Exception:
    """A divergence with the way back, in place of one without; other errors as they are."""
    if not isinstance(error, DivergenceError):
        return error
    if not run.path.exists():
        way = "No step was made, so there is no run folder. Lower --lr or --eps"
    elif rewind and isinstance(error, CollapseError):
        way = _rewound(run)
    else:
        way = _way_back(run, error.step)
    return DivergenceError(f"{error}\n{way}", error.step)


def _rewound(run: RunFolder) -> str:
    """Cut a run back to its best step; returns what to do then."""
    best = run.best()
    if best is None:
        return _way_back(run, run.journal().next_step)
    result, kept = run.evaluations()[best], cut_back(run, best)
    return (
        f"{run.path} ends at step {best} now, its best on dev: {result}. The steps after it are in "
        f"{kept}. Start a new run (-o) with a lower --lr"
    )


def _way_back(run: RunFolder, step: int) -> str:
    """What to do after a run diverged."""
    best = run.best()
    on_dev = "" if best is None else f"; the best on dev is step {best}: {run.evaluations()[best]}"
    return (
        f"{run.path} keeps every step before {step}{on_dev}. "
        f"`zofx eval {run.config.folder} --run {run.path} --step N` judges any of them. Start a "
        "new run (-o) with a lower --lr"
    )

"""The verb: train an artifact's trainables on a task.

    Prepared ──pre-flight──▶ run folder ──▶ journal ──fold──▶ θ ──┬─▶ every E steps: evaluate on dev
                                               ▲                  └─▶ batch(seed, cursor)
                                               └── record ◀── losses ◀── probes ◀──┘

A new run is a resumed one with an empty journal, so an interrupted run and an uninterrupted one do
the same. All that can be wrong with the input is found before the folder is made.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

from zofx.errors import DivergenceError
from zofx.runs.evaluate import evaluate
from zofx.runs.evaluation import Evaluation
from zofx.runs.exact_gradient import ExactGradient
from zofx.runs.guard import Finding
from zofx.runs.metrics_log import (
    JsonlLog,
    Observer,
    StepMetrics,
    metrics_again,
    peak_memory,
)
from zofx.runs.prepare import Prepared
from zofx.runs.rewind import cut_back
from zofx.runs.run_folder import STATE, RunFolder, require_free
from zofx.runs.snapshot_policy import EVERY, keep
from zofx.runs.watch import CollapseError, Watch
from zofx.runtimes.host.activation_cache import ActivationCache
from zofx.runtimes.host.prefix import CutSession
from zofx.session import ExactSession, Session, SharedSession
from zofx.tasks.catalog.jsonl_task import ROWS
from zofx.tasks.objectives import measurement
from zofx.tasks.rows import Encoded
from zofx.zo.driver import Driver, StepLog
from zofx.zo.journal.format import Journal
from zofx.zo.journal.writer import JournalWriter
from zofx.zo.types import ExactGradientFn, LossFn

Stop: TypeAlias = Callable[[], bool]


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
            loop = _Loop(prepared, run, session, writer, all_observers, stop, watch, patience)
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


class _Loop:
    """The steps of one call of `train`."""

    def __init__(
        self,
        prepared: Prepared,
        run: RunFolder,
        session: Session,
        writer: JournalWriter,
        observers: tuple[Observer, ...],
        stop: Stop,
        watch: Watch,
        patience: int | None,
    ) -> None:
        config = prepared.config
        self.prepared, self.run, self.session = prepared, run, session
        self.observers, self.stop, self.writer = observers, stop, writer
        self.watch, self.patience = watch, patience
        self.objective = prepared.workload.objective(config.objective)
        self.driver = Driver(config.settings.recipe(), session, config.task.seed, writer)
        self.dev = prepared.workload.splits.dev[: config.evaluation.eval_size]

    def go(self, journal: Journal) -> int:
        """Make steps until there are enough, or until `stop` is true; returns their number."""
        made: list[StepLog] = []
        saved = self.run.saved(journal) if self.saves else (0, {})
        step = self.driver.resume(journal, self._exact_gradient_at, made.append, saved)
        self.run.trim(step)
        self.run.restore_metrics([metrics_again(log) for log in made])
        self.watch.look_back(journal, self.run.evaluations())
        evaluated = set(self.run.evaluations())
        while not self.stop():
            if self._due(step) and step not in evaluated:
                self._evaluate(step)
            if step >= self.prepared.steps or self.stop() or self.out_of_patience:
                break
            self._step(step)
            step += 1
            if self.driver.saves and not self.saves:
                self._keep(step)
        self.run.save_snapshot("last", self.session.read(), step, self.writer.digest)
        self._save_state(step)
        return step

    def _keep(self, step: int) -> None:
        """A snapshot on the way, where one is due: reading θ copies it, so ask first."""
        if step % EVERY == 0:
            keep(self.run.path, self.session.read(), step, self.writer.digest)

    @property
    def out_of_patience(self) -> bool:
        """Whether the last evaluations brought nothing better than the best before them."""
        best = self.run.best()
        if self.patience is None or best is None:
            return False
        return sum(step > best for step in self.run.evaluations()) >= self.patience

    @property
    def saves(self) -> bool:
        """Whether the run keeps its state: exact gradients are in no journal of scalars."""
        return bool(self.prepared.model.manifest.exact) and self.driver.saves

    def _save_state(self, step: int) -> None:
        if self.saves:
            self.run.save_snapshot(STATE, self.driver.saved(), step, self.writer.digest)

    def _due(self, step: int) -> bool:
        ends = step == self.prepared.steps
        return bool(self.dev) and (ends or step % self.prepared.config.evaluation.eval_every == 0)

    def _step(self, step: int) -> None:
        began = time.perf_counter()
        cursor, after = map(self.prepared.config.settings.cursor, (step, step + 1))
        encoded = self.prepared.batch(cursor)
        gradient = self._exact_gradient(encoded)
        loss = self._loss(encoded, gradient)
        log = self.driver.step(step, loss, after, gradient)
        seconds = time.perf_counter() - began
        tokens = int(encoded.batch.attention_mask.sum())
        metrics = StepMetrics(
            step,
            log.loss,
            log.learning_rate,
            seconds,
            tokens,
            tokens / max(seconds, 1e-9),
            peak_memory(),
            self.session.rows_per_second() if isinstance(self.session, SharedSession) else None,
        )
        for observer in self.observers:
            observer.step(metrics)
        self.watch.after_step(step, log)

    def _loss(self, encoded: Encoded, gradient: ExactGradient | None) -> LossFn:
        estimator = self.prepared.config.settings.estimator
        if estimator == "exact" and gradient:
            return gradient.loss
        losses = measurement(self.objective, estimator)
        return lambda keys, matrix: losses(self.session, encoded, keys, matrix)

    def _exact_gradient(self, encoded: Encoded) -> ExactGradient | None:
        """Of a batch, where the artifact has tensors that train by exact gradients."""
        if not self.prepared.model.manifest.exact:
            return None
        return ExactGradient(cast(ExactSession, self.session), self.objective, encoded)

    def _exact_gradient_at(self, step: int) -> ExactGradientFn | None:
        if not self.prepared.model.manifest.exact:
            return None
        return self._exact_gradient(self.prepared.batch(self.prepared.config.settings.cursor(step)))

    def _evaluate(self, step: int) -> None:
        evaluation = self._judge(step)
        if evaluation is None:
            return
        best = self.run.best()
        self.run.add_evaluation(step, evaluation)
        by = self.prepared.config.evaluation.select_by
        if best is None or evaluation.rank(by) > self.run.evaluations()[best].rank(by):
            self.run.save_snapshot("best", self.session.read(), step, self.writer.digest)
        self._save_state(step)
        for observer in self.observers:
            observer.evaluation(step, evaluation)
        self.watch.after_evaluation(step, evaluation)

    def _judge(self, step: int) -> Evaluation | None:
        """Evaluate on dev; None when stopped half-way."""
        workload = self.prepared.workload

        def watch(done: int, total: int) -> None:
            if done < total and self.stop():
                raise _StoppedError

        try:
            return evaluate(
                self.session,
                workload.encoder,
                workload.task,
                self.dev,
                self.objective,
                batch_size=self.prepared.config.settings.batch_size,
                step=step,
                progress=watch,
            )
        except _StoppedError:
            return None


class _StoppedError(Exception):
    """`stop` became true within an evaluation."""


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

"""The steps of a run, its evaluations, and what is kept on the way.

    journal ──fold──▶ θ ──┬─▶ every E steps: evaluate on dev, keep the best
              ▲           ├─▶ every 500 steps: a snapshot, where they fit
              │           └─▶ batch(seed, cursor)
              └── record ◀── losses ◀── probes ◀──┘

θ moves after its record is in the journal: what is killed between the two is folded again.
"""

import time
from collections.abc import Callable
from typing import TypeAlias, cast

from zofx.runs.evaluate import evaluate
from zofx.runs.evaluation import Evaluation
from zofx.runs.exact_gradient import ExactGradient
from zofx.runs.metrics_log import (
    Observer,
    StepMetrics,
    metrics_again,
    peak_memory,
)
from zofx.runs.prepare import Prepared
from zofx.runs.run_folder import STATE, RunFolder
from zofx.runs.snapshot_policy import EVERY, keep
from zofx.runs.watch import Watch
from zofx.session import ExactSession, Session, SharedSession
from zofx.tasks.objectives import measurement
from zofx.tasks.rows import Encoded
from zofx.zo.driver import Driver, StepLog
from zofx.zo.journal.format import Journal
from zofx.zo.journal.writer import JournalWriter
from zofx.zo.types import ExactGradientFn, LossFn

Stop: TypeAlias = Callable[[], bool]


class TrainingLoop:
    """The steps of one call of `tune.train`; the arguments are its own."""

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

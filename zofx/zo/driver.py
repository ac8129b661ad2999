"""The driver: one loop for every method.

    every so many steps: theta.refresh                                  low-rank trainables
    probes(seed, step) → loss(keys, matrix) → losses f32[P]                 one forward
    losses → estimate → rules on rays → coefficients                      scalars
    coefficients → trial points → losses → the best of them               one more, where tried
    journal ← (step, cursor, learning rate, coefficients, losses)         before θ moves
    rays:     θ ← θ − learning rate · Σ coefficient · z                   theta.move
    tensors:  θ ← θ − learning rate · rule(Σ coefficient · z)             theta.write

What a step does is a pure function of the losses and the state before it. Losses are rounded to
float32 before anything sees them, so the journal holds all that the states depend on: resuming is
the same fold over the recorded losses, with no forward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from zofx.errors import ArtifactError, DivergenceError, UsageError
from zofx.zo.estimate import Estimate, Probes
from zofx.zo.journal.format import Header, Journal, Record
from zofx.zo.journal.replay import Mover
from zofx.zo.journal.writer import JournalWriter
from zofx.zo.recipe import Recipe
from zofx.zo.rules.saved_state import Arrays
from zofx.zo.theta import Theta
from zofx.zo.types import ExactGradientFn, FloatArray, LossFn, Ray

PATIENCE: Final = 10
"""Steps in a row without any slope before a run counts as collapsed."""

COEFFICIENT_TOLERANCE: Final = 1e-5
"""Relative; a recomputed coefficient may differ in its last bits where a schedule calls cos."""


@dataclass(frozen=True, eq=False)
class StepLog:
    """What a step did.

    Attributes:
        step: of the run, from 0.
        loss: the estimator's report, in the objective's units.
        learning_rate: as used.
        rays: what was journaled.
        losses: f32[P].
    """

    step: int
    loss: float
    learning_rate: float
    rays: tuple[Ray, ...]
    losses: FloatArray


@dataclass(frozen=True)
class _State:
    """All that a step inherits; a function of the journal."""

    rays: Any
    memory: Any = None
    flat: int = 0


class Driver:
    """Runs a recipe on θ.

    Args:
        recipe: the method's driven half.
        theta: to train, at the artifact's initial values.
        seed: of the run; with the step and the query it determines every direction.
        journal: where steps are recorded; None keeps no record.
        patience: steps in a row without any slope before the run stops.
    """

    def __init__(
        self,
        recipe: Recipe,
        theta: Theta,
        seed: int,
        journal: JournalWriter | None = None,
        patience: int = PATIENCE,
    ) -> None:
        if journal is not None:
            _require_same_run(recipe, seed, journal.header)
        self.recipe = recipe
        self.theta = theta
        self.seed = seed
        self.journal = journal
        self.patience = patience
        self._state = _State(recipe.rays.init())
        self._mover = Mover(
            theta, recipe.tensors, seed, recipe.refresh, recipe.exact, recipe.exact_rule
        )

    def step(
        self,
        step: int,
        loss: LossFn,
        cursor: int = 0,
        exact_gradient: ExactGradientFn | None = None,
    ) -> StepLog:
        """Evaluate, decide, record, move.

        Args:
            step: of the run, from 0, increasing.
            loss: of the step's batch under some probes.
            cursor: where the data stream stands after this batch; only recorded.
            exact_gradient: of the same batch, for the tensors that train by them.

        Raises:
            DivergenceError: a loss or a coefficient is not finite, or the losses of the probes are
                equal to round-off. θ and the journal are as they were before the step.
        """
        self._mover.begin_step(step)
        probes = self.recipe.estimator.probes(self.seed, step)
        rate = float(np.float32(self.recipe.learning_rate(step)))
        losses = self._losses(step, loss, probes, self.recipe.estimator.evaluations)
        if self.recipe.trial:
            tried, _, _ = self._propose(step, losses, rate)
            points = Probes(probes.keys, self.recipe.trial.matrix(_coefficients(tried.rays)))
            more = self._losses(step, loss, points, len(points.matrix))
            losses = np.concatenate([losses, more])
        log, state = self._decide(step, losses, rate)
        if state.flat >= self.patience:
            raise DivergenceError(_collapsed(step, self.patience), step)
        exact = exact_gradient() if exact_gradient else None
        record = Record(step, cursor, rate, self._padded(log.rays), losses)
        if self.journal is not None:
            self.journal.append(record)
        self._state = state
        self._mover.move(log.rays, rate, exact)
        return log

    @property
    def saves(self) -> bool:
        """Whether `saved` stands for all steps before it: not under a rule on probes' gradients."""
        return self._mover.saves

    def saved(self) -> Arrays:
        """θ and what a rule on exact gradients remembers: what no journal of scalars records."""
        return self._mover.saved()

    def resume(
        self,
        journal: Journal,
        exact_gradient: Callable[[int], ExactGradientFn | None] = lambda step: None,
        each: Callable[[StepLog], None] = lambda log: None,
        after: tuple[int, Arrays] = (0, {}),
    ) -> int:
        """Bring a fresh driver and θ to where a journal ends; evaluates no probe.

        Args:
            journal: of the run.
            exact_gradient: step → exact gradients of its batch; they are in no journal, so they are
                computed again.
            each: called with the log of every step, as it was when the step was made.
            after: what was saved after so many steps: these move nothing again.

        Returns:
            The next step.

        Raises:
            UsageError: the journal is of another recipe or seed; nothing has moved.
            ArtifactError: the recipe does not lead to the recorded coefficients.
        """
        _require_same_run(self.recipe, self.seed, journal.header)
        if after[0]:
            self._mover.restore(after[1])
        for record in journal:
            log, self._state = self._decide(record.step, record.losses, record.learning_rate)
            replayed = self._padded(log.rays)
            if not np.allclose(replayed, record.coefficients, rtol=COEFFICIENT_TOLERANCE, atol=0):
                raise ArtifactError(
                    f"the journal and its recipe disagree at step {record.step}: the recorded "
                    f"losses lead to coefficients {replayed}, recorded are "
                    f"{record.coefficients}; resume with the version of zofx that wrote it"
                )
            each(log)
            if record.step < after[0]:
                continue
            self._mover.begin_step(record.step)
            again = exact_gradient(record.step)
            exact = again() if again else None
            self._mover.move(record.rays(journal.header), record.learning_rate, exact)
        return journal.next_step

    def _losses(self, step: int, loss: LossFn, probes: Probes, expected: int) -> FloatArray:
        """The losses of some probes on the batch, f32[expected]."""
        with np.errstate(over="ignore"):  # an infinite loss is refused below, with a message
            losses = np.asarray(loss(*probes)).astype(np.float32)
        _require_losses(step, losses, expected)
        return losses

    def _decide(self, step: int, losses: FloatArray, rate: float) -> tuple[StepLog, _State]:
        """Losses → rays and the state after; touches neither θ nor the journal."""
        evaluations, trial = self.recipe.estimator.evaluations, self.recipe.trial
        _require_losses(step, losses, self.recipe.evaluations)
        estimate, rule_state, sloped = self._propose(step, losses[:evaluations], rate)
        if trial:
            chosen = trial.choose(estimate.coefficients, losses[evaluations:])
            estimate = estimate.with_coefficients(chosen)
        _require_finite(step, "coefficients", _coefficients(estimate.rays), losses)
        flat = 0 if sloped else self._state.flat + 1
        log = StepLog(step, estimate.loss, rate, estimate.rays, losses)
        memory = self.recipe.estimator.remember(losses[:evaluations], self._state.memory)
        return log, _State(rule_state, memory, flat)

    def _propose(self, step: int, losses: FloatArray, rate: float) -> tuple[Estimate, Any, bool]:
        """(scaled estimate, next rule state, whether any projected gradient is nonzero)."""
        estimator = self.recipe.estimator
        keys = estimator.probes(self.seed, step).keys
        raw = estimator.estimate(keys, losses, self._state.memory)
        estimate, rule_state = self.recipe.rays.update(raw, self._state.rays, step)
        if self.recipe.tensors is None:
            estimate = estimate.with_coefficients(-rate * estimate.coefficients)
        sloped = not estimator.queries or bool(np.any(raw.coefficients))
        return estimate, rule_state, sloped

    def _padded(self, rays: tuple[Ray, ...]) -> FloatArray:
        """The coefficients of a record: zeros where the past does not reach back far enough."""
        whole = np.zeros(self.recipe.estimator.rays * self.recipe.rays.window, np.float32)
        whole[: len(rays)] = _coefficients(rays)
        return whole


def _coefficients(rays: tuple[Ray, ...]) -> FloatArray:
    return np.array([ray.coefficient for ray in rays], dtype=np.float32)


def _require_same_run(recipe: Recipe, seed: int, header: Header) -> None:
    if (str(recipe), seed) != (header.recipe, header.seed):
        raise UsageError(
            f"the journal belongs to seed {header.seed} and recipe {header.recipe}; this run has "
            f"seed {seed} and recipe {recipe}: give both as they were, or start a new journal"
        )


def _require_losses(step: int, losses: FloatArray, evaluations: int) -> None:
    if losses.shape != (evaluations,):
        raise UsageError(
            f"the objective returned losses of shape {losses.shape} at step {step}; it must return "
            f"one per probe, ({evaluations},)"
        )
    _require_finite(step, "losses", losses, losses)


def _require_finite(step: int, what: str, values: FloatArray, losses: FloatArray) -> None:
    if np.isfinite(values).all():
        return
    raise DivergenceError(
        f"{what} of step {step} are not finite: {values} from losses {losses}. Nothing was moved "
        "or journaled for it. A learning rate or eps that is too large does this: replay the "
        f"journal up to a step well before {step} and start a new run there with smaller ones",
        step,
    )


def _collapsed(step: int, patience: int) -> str:
    return (
        f"the probes of {patience} steps in a row, the last of them step {step}, gave exactly "
        "equal losses, so no step has a direction. Either eps is so small that θ ± eps · z rounds "
        "to the same scores in this graph's precision, or the objective does not depend on θ here "
        "(saturated, or constant on the batch): run the pre-flight, raise eps, keep the head and "
        "the loss in float32, or use a larger batch. The journal holds every earlier step"
    )

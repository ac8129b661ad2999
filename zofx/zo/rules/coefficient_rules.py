"""Rules on rays: they change the coefficients of an estimate and keep scalars only.

    update : (Estimate, state, step) → (Estimate, state)          init : () → state

A rule on rays needs no memory per weight, is the same on every runtime, and replays from
the journal. The shape is that of optax's gradient transformations. Rules that need the materialised
gradient are another type (`zofx.zo.rules.gradient_rules`), so that chaining one here is an error of
types.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from zofx.errors import UsageError
from zofx.zo.estimate import Coefficients, Estimate
from zofx.zo.rules.schedule import Schedule

S = TypeVar("S")


@dataclass(frozen=True)
class RayRule(Generic[S]):
    """A pure update rule on the coefficients.

    Attributes:
        text: how the recipe spells it.
        init: the state before the first step.
        update: one step.
        window: how many steps' directions its estimates are made of, with their own.
    """

    text: str
    init: Callable[[], S]
    update: Callable[[Estimate, S, int], tuple[Estimate, S]]
    window: int = 1


def chain(*rules: RayRule[Any]) -> RayRule[tuple[Any, ...]]:
    """The rules one after another; none leaves the estimate as it is."""

    def update(
        estimate: Estimate, states: tuple[Any, ...], step: int
    ) -> tuple[Estimate, tuple[Any, ...]]:
        after = []
        for rule, state in zip(rules, states, strict=True):
            estimate, state = rule.update(estimate, state, step)
            after.append(state)
        return estimate, tuple(after)

    if any(rule.window > 1 for rule in rules[:-1]):
        raise UsageError("a rule on past rays comes last: those before it change this step's own")
    text = " > ".join(rule.text for rule in rules)
    window = max((rule.window for rule in rules), default=1)
    return RayRule(text, lambda: tuple(rule.init() for rule in rules), update, window)


def stateless(text: str, change: Callable[[Coefficients, int], Coefficients]) -> RayRule[None]:
    """A rule that is a function of the coefficients f64[Q] and the step."""

    def update(estimate: Estimate, state: None, step: int) -> tuple[Estimate, None]:
        return estimate.with_coefficients(change(estimate.coefficients, step)), None

    return RayRule(text, lambda: None, update)


def scale_by_schedule(schedule: Schedule) -> RayRule[None]:
    """Multiply by schedule(step); the learning rate itself is the recipe's, which journals it."""
    return stateless(f"scale_by_schedule({schedule})", lambda c, step: c * schedule(step))


def clip(limit: float) -> RayRule[None]:
    """Bound every coefficient to [−limit, limit], loss per unit of z (QZO: limit = 100)."""
    if not limit > 0:
        raise UsageError(f"clip({limit}): the limit must be positive")
    return stateless(f"clip({limit})", lambda c, step: np.clip(c, -limit, limit))


def sign() -> RayRule[None]:
    """Keep only the sign of each coefficient: ±1, or 0 where there is no slope.

    This is the sign of the scalar, as in ZO-Bench's code, not of the gradient's coordinates.
    """
    return stateless("sign()", lambda c, step: np.sign(c))


def normalise_by_spread() -> RayRule[None]:
    """Divide by the standard deviation of the projected gradients across the step's queries.

    The sample deviation, Q − 1 below. No spread (all equal) leaves the estimate as it is. After
    `OneSided` this is FZOO's step up to a constant: FZOO divides by the spread of the losses, which
    is ε times this one, so its learning rate η is η / ε here.
    """

    def change(coefficients: Coefficients, step: int) -> Coefficients:
        queries = coefficients.size
        if queries < 2:
            raise UsageError(
                "normalise_by_spread() needs at least two queries per step to have a spread; "
                f"this estimator makes {queries}: raise its queries or drop the rule"
            )
        # The coefficients hold the 1 / Q of the average; the projected gradients do not.
        spread = float(np.std(coefficients, ddof=1)) * queries
        return coefficients / spread if spread > 0 else coefficients

    return stateless("normalise_by_spread()", change)


def scale_by_rms(decay: float = 0.999, eps: float = 1e-8) -> RayRule[tuple[float, float]]:
    """Divide by the root of a running mean of c²: Adam's second moment as a single number.

    v ← decay · v + (1 − decay) · mean(c²), unbiased by 1 − decayᵗ; the state is (v, decayᵗ).
    """
    if not 0 <= decay < 1:
        raise UsageError(f"scale_by_rms(decay={decay}): decay must be in [0, 1)")

    def update(
        estimate: Estimate, state: tuple[float, float], step: int
    ) -> tuple[Estimate, tuple[float, float]]:
        mean, power = state
        mean = decay * mean + (1 - decay) * float(np.mean(estimate.coefficients**2))
        power *= decay
        size = float(np.sqrt(mean / (1 - power))) + eps
        return estimate.with_coefficients(estimate.coefficients / size), (mean, power)

    return RayRule(f"scale_by_rms({decay}, {eps})", lambda: (0.0, 1.0), update)


def past_momentum(beta: float = 0.9, window: int = 20) -> RayRule[tuple[Estimate, ...]]:
    """Heavy ball without a tensor of state: the last rays are walked again, weighted betaʲ.

    m = Σ_j betaʲ · c_{t−j} z_{t−j} over the last `window` steps; what is cut off weighs
    beta^window / (1 − beta) of a gradient. A step makes `window` times the directions.
    Source: Malladi et al. 2023, arXiv 2305.17333, appendix B.2.
    """
    if not 0 <= beta < 1 or window < 1:
        raise UsageError(f"past_momentum({beta}, {window}): beta in [0, 1), window at least 1")

    def update(
        estimate: Estimate, past: tuple[Estimate, ...], step: int
    ) -> tuple[Estimate, tuple[Estimate, ...]]:
        known = (estimate, *past)
        keys = tuple(key for one in known for key in one.keys)
        weighted = [one.coefficients * beta**age for age, one in enumerate(known)]
        moved = Estimate(estimate.loss, keys, np.concatenate(weighted))
        return moved, known[: window - 1]

    return RayRule(f"past_momentum({beta}, {window})", tuple, update, window)

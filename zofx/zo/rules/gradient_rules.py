"""Rules on tensors: the gradient is materialised, and state may be kept per weight.

    g = Σ_q coefficient_q · z_q  per trainable                  float32, ray by ray in order
    update : (g, θ, state) → (direction, state)                 θ ← θ − learning rate · direction

Trainables are small when sparse, and so is the state. All arithmetic is elementwise float32, + − ×
÷ √, each correctly rounded by IEEE 754, so a replay of the journal gives the same bits on every
machine. No trainable depends on another: a run gives a rule one at a time, with a state of its own,
so that a step holds the temporaries of one (`zofx.zo.journal.replay`); a rule does the same to all
of them at once. A rule never writes to what it is given. Those that remember are in
`zofx.zo.rules.stateful_rules`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from zofx.errors import UsageError
from zofx.zo.random.direction_spec import Noise
from zofx.zo.types import FloatArray, Key, Ray

S = TypeVar("S")

Tensors: TypeAlias = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Gradient:
    """A step's gradient; nothing is made before it is asked for.

    Attributes:
        rays: of this step; their coefficients are those of the estimate.
        past: the rays of the steps before, newest first; as many as the rule's window asks for.
        direction: z of a key, per trainable.
        given: the gradient itself, once a rule has changed it.
    """

    rays: tuple[Ray, ...]
    past: tuple[tuple[Ray, ...], ...]
    direction: Callable[[Key], Tensors]
    given: Tensors | None = None

    @cached_property
    def tensors(self) -> Tensors:
        """Σ coefficient · z, ray by ray in order."""
        return self._sum(self.rays) if self.given is None else self.given

    def steps(self) -> Iterator[Tensors]:
        """This step's gradient, then those before it; one at a time."""
        yield self.tensors
        for rays in self.past:
            yield self._sum(rays)

    def _sum(self, rays: Sequence[Ray]) -> Tensors:
        total: dict[str, FloatArray] = {}
        for ray in rays:
            for name, z in self.direction(ray.key).items():
                step = np.float32(ray.coefficient) * z
                total[name] = total[name] + step if name in total else step
        return total


@dataclass(frozen=True)
class TensorRule(Generic[S]):
    """A pure update rule on materialised gradients.

    Attributes:
        text: how the recipe spells it.
        init: θ → the state before the first step.
        update: (gradient, θ, state) → (direction to go down along, state); names of the trainables.
        window: how many steps' rays it asks for, with this one's.
        curved: whether it asks for the curvature along the direction, which `SpsaWithCurvature`
        measures.
        exposes: state → tensors of the session that it sets (the scales of directions).
        refreshed: (state, factors before, factors after, noise) → state, where low-rank trainables
            have a new basis; None where the state is of coordinates and cannot follow.
    """

    text: str
    init: Callable[[Tensors], S]
    update: Callable[[Gradient, Tensors, S], tuple[Tensors, S]]
    window: int = 1
    curved: bool = False
    exposes: Callable[[S], Tensors] = lambda state: {}
    refreshed: Callable[[S, Tensors, Tensors, Noise], S] | None = None


def chain_tensors(*rules: TensorRule[Any]) -> TensorRule[tuple[Any, ...]]:
    """The rules one after another."""

    def update(
        gradient: Gradient, theta: Tensors, states: tuple[Any, ...]
    ) -> tuple[Tensors, tuple[Any, ...]]:
        after = []
        for rule, state in zip(rules, states, strict=True):
            changed, state = rule.update(gradient, theta, state)
            gradient = replace(gradient, given=changed)
            after.append(state)
        return gradient.tensors, tuple(after)

    def exposes(states: tuple[Any, ...]) -> Tensors:
        shown: dict[str, FloatArray] = {}
        for rule, state in zip(rules, states, strict=True):
            shown |= rule.exposes(state)
        return shown

    carries = [rule.refreshed for rule in rules if rule.refreshed]

    def refreshed(
        states: tuple[Any, ...], old: Tensors, new: Tensors, noise: Noise
    ) -> tuple[Any, ...]:
        pairs = zip(carries, states, strict=True)
        return tuple(carry(state, old, new, noise) for carry, state in pairs)

    if any(rule.window > 1 or rule.curved for rule in rules[1:]):
        raise UsageError(
            "a rule on past rays, or on curvature, comes first: it reads rays, not what "
            "a rule before it has made of them"
        )
    return TensorRule(
        " > ".join(rule.text for rule in rules),
        lambda theta: tuple(rule.init(theta) for rule in rules),
        update,
        max((rule.window for rule in rules), default=1),
        any(rule.curved for rule in rules),
        exposes,
        refreshed if len(carries) == len(rules) else None,
    )


def decay(rate: float, exempt: Sequence[str] = ()) -> TensorRule[None]:
    """Add rate · θ to the gradient: weight decay.

    Chained before a moment rule it is L2 regularisation, after it decoupled decay.

    Args:
        rate: the strength; the learning rate multiplies it too.
        exempt: trainables whose name contains one of these are left alone (MeZO: "bias",
            "layer_norm", "layernorm").
    """
    factor = np.float32(rate)

    def update(gradient: Gradient, theta: Tensors, state: None) -> tuple[Tensors, None]:
        return {
            name: g if any(part in name for part in exempt) else g + factor * theta[name]
            for name, g in gradient.tensors.items()
        }, None

    text = f"decay({rate}, exempt={list(exempt)})" if exempt else f"decay({rate})"
    return _stateless(text, update)


def sign_coordinates() -> TensorRule[None]:
    """The sign of every coordinate of the gradient: ±1, or 0 where it is 0.

    Source: Liu et al. 2019, signSGD via Zeroth-Order Oracle, ICLR.
    """

    def update(gradient: Gradient, theta: Tensors, state: None) -> tuple[Tensors, None]:
        return {name: np.sign(g) for name, g in gradient.tensors.items()}, None

    return _stateless("sign_coordinates()", update)


def _stateless(
    text: str, update: Callable[[Gradient, Tensors, None], tuple[Tensors, None]]
) -> TensorRule[None]:
    """A rule that remembers nothing, so that a new basis is nothing to it."""
    return TensorRule(
        text, lambda theta: None, update, refreshed=lambda state, old, new, noise: None
    )

"""Rules on tensors: the gradient is materialised on the slices, and state may be kept per weight.

    g = Σ_q coefficient_q · z_q  per slice                      float32, ray by ray in order
    update : (g, θ, state) → (direction, state)                 θ ← θ − learning rate · direction

Slices are small when sparse, and so is the state. All arithmetic is elementwise float32, + − × ÷ √,
each correctly rounded by IEEE 754, so a replay of the journal gives the same bits on every machine.
A rule never writes to what it is given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from zofx.errors import UsageError
from zofx.zo.types import FloatArray

S = TypeVar("S")

Tensors: TypeAlias = Mapping[str, FloatArray]


@dataclass(frozen=True)
class TensorRule(Generic[S]):
    """A pure update rule on materialised gradients.

    Attributes:
        text: how the recipe spells it.
        init: θ → the state before the first step.
        update: (gradient, θ, state) → (direction to go down along, state); same names and shapes.
    """

    text: str
    init: Callable[[Tensors], S]
    update: Callable[[Tensors, Tensors, S], tuple[Tensors, S]]


def chain_tensors(*rules: TensorRule[Any]) -> TensorRule[tuple[Any, ...]]:
    """The rules one after another."""

    def update(
        gradient: Tensors, theta: Tensors, states: tuple[Any, ...]
    ) -> tuple[Tensors, tuple[Any, ...]]:
        after = []
        for rule, state in zip(rules, states, strict=True):
            gradient, state = rule.update(gradient, theta, state)
            after.append(state)
        return gradient, tuple(after)

    text = " > ".join(rule.text for rule in rules)
    return TensorRule(text, lambda theta: tuple(rule.init(theta) for rule in rules), update)


def decay(rate: float, exempt: Sequence[str] = ()) -> TensorRule[None]:
    """Add rate · θ to the gradient: weight decay.

    Chained before a moment rule it is L2 regularisation, after it decoupled decay.

    Args:
        rate: the strength; the learning rate multiplies it too.
        exempt: slices whose name contains one of these are left alone (MeZO: "bias", "layer_norm",
            "layernorm").
    """
    factor = np.float32(rate)

    def update(gradient: Tensors, theta: Tensors, state: None) -> tuple[Tensors, None]:
        return {
            name: g if any(part in name for part in exempt) else g + factor * theta[name]
            for name, g in gradient.items()
        }, None

    text = f"decay({rate}, exempt={list(exempt)})" if exempt else f"decay({rate})"
    return TensorRule(text, lambda theta: None, update)


def momentum(beta: float = 0.9) -> TensorRule[Tensors]:
    """Heavy ball without dampening: m ← beta · m + g; go along m."""
    _require_fraction("momentum", beta)
    keep = np.float32(beta)

    def update(gradient: Tensors, theta: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        moved = {name: keep * state[name] + g for name, g in gradient.items()}
        return moved, moved

    return TensorRule(f"momentum({beta})", _zeros, update)


class AdamState(NamedTuple):
    """Both moments and the powers βᵗ, kept as running products: pow() differs between machines."""

    first: Tensors
    second: Tensors
    power1: float
    power2: float


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> TensorRule[AdamState]:
    """Adam: m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  go along m̂ / (√v̂ + eps), x̂ = x / (1 − βᵗ).

    Source: Kingma and Ba 2015, algorithm 1.
    """
    _require_fraction("adam", beta1)
    _require_fraction("adam", beta2)
    keep1, take1 = np.float32(beta1), np.float32(1 - beta1)
    keep2, take2 = np.float32(beta2), np.float32(1 - beta2)
    offset = np.float32(eps)

    def update(gradient: Tensors, theta: Tensors, state: AdamState) -> tuple[Tensors, AdamState]:
        first = {name: keep1 * state.first[name] + take1 * g for name, g in gradient.items()}
        second = {name: keep2 * state.second[name] + take2 * g * g for name, g in gradient.items()}
        power1, power2 = state.power1 * beta1, state.power2 * beta2
        unbias1, unbias2 = np.float32(1 - power1), np.float32(1 - power2)

        def direction(name: str) -> FloatArray:
            size: FloatArray = np.sqrt(second[name] / unbias2) + offset
            along: FloatArray = np.divide(first[name] / unbias1, size)
            return along

        after = AdamState(first, second, power1, power2)
        return {name: direction(name) for name in gradient}, after

    return TensorRule(
        f"adam({beta1}, {beta2}, {eps})",
        lambda theta: AdamState(_zeros(theta), _zeros(theta), 1.0, 1.0),
        update,
    )


def _zeros(theta: Tensors) -> Tensors:
    return {name: np.zeros_like(values) for name, values in theta.items()}


def _require_fraction(rule: str, beta: float) -> None:
    if not 0 <= beta < 1:
        raise UsageError(f"{rule}: beta {beta} must be in [0, 1)")

"""Rules on tensors: the gradient is materialised on the slices, and state may be kept per weight.

    g = Σ_q coefficient_q · z_q  per slice                      float32, ray by ray in order
    update : (g, θ, state) → (direction, state)                 θ ← θ − learning rate · direction

Slices are small when sparse, and so is the state. All arithmetic is elementwise float32, + − × ÷ √,
each correctly rounded by IEEE 754, so a replay of the journal gives the same bits on every machine.
A rule never writes to what it is given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from zofx.errors import UsageError
from zofx.zo.bases import carried
from zofx.zo.laws import SCALE, Noise
from zofx.zo.types import FloatArray, Key, Ray

S = TypeVar("S")

Tensors: TypeAlias = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Gradient:
    """A step's gradient; nothing is made before it is asked for.

    Attributes:
        rays: of this step; their coefficients are those of the estimate.
        past: the rays of the steps before, newest first; as many as the rule's window asks for.
        direction: z of a key, per slice.
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
        update: (gradient, θ, state) → (direction to go down along, state); names of the slices.
        window: how many steps' rays it asks for, with this one's.
        curved: whether it asks for the curvature along the direction, which `Curved` tells.
        exposes: state → tensors of the session that it sets (the scales of directions).
        refreshed: (state, factors before, factors after, noise) → state, where low-rank slices have
            a new basis; None where the state is of coordinates and cannot follow.
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
        exempt: slices whose name contains one of these are left alone (MeZO: "bias", "layer_norm",
            "layernorm").
    """
    factor = np.float32(rate)

    def update(gradient: Gradient, theta: Tensors, state: None) -> tuple[Tensors, None]:
        return {
            name: g if any(part in name for part in exempt) else g + factor * theta[name]
            for name, g in gradient.tensors.items()
        }, None

    text = f"decay({rate}, exempt={list(exempt)})" if exempt else f"decay({rate})"
    return _stateless(text, update)


def momentum(beta: float = 0.9) -> TensorRule[Tensors]:
    """Heavy ball without dampening: m ← beta · m + g; go along m."""
    _require_fraction("momentum", beta)
    keep = np.float32(beta)

    def update(gradient: Gradient, theta: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        moved = {name: keep * state[name] + g for name, g in gradient.tensors.items()}
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

    def update(gradient: Gradient, theta: Tensors, state: AdamState) -> tuple[Tensors, AdamState]:
        g = gradient.tensors
        first = {name: keep1 * state.first[name] + take1 * g[name] for name in g}
        second = {name: keep2 * state.second[name] + take2 * g[name] * g[name] for name in g}
        power1, power2 = state.power1 * beta1, state.power2 * beta2
        unbias1, unbias2 = np.float32(1 - power1), np.float32(1 - power2)

        def direction(name: str) -> FloatArray:
            size: FloatArray = np.sqrt(second[name] / unbias2) + offset
            along: FloatArray = np.divide(first[name] / unbias1, size)
            return along

        after = AdamState(first, second, power1, power2)
        return {name: direction(name) for name in g}, after

    return TensorRule(
        f"adam({beta1}, {beta2}, {eps})",
        lambda theta: AdamState(_zeros(theta), _zeros(theta), 1.0, 1.0),
        update,
    )


def sign_coordinates() -> TensorRule[None]:
    """The sign of every coordinate of the gradient: ±1, or 0 where it is 0.

    Source: Liu et al. 2019, signSGD via Zeroth-Order Oracle, ICLR.
    """

    def update(gradient: Gradient, theta: Tensors, state: None) -> tuple[Tensors, None]:
        return {name: np.sign(g) for name, g in gradient.tensors.items()}, None

    return _stateless("sign_coordinates()", update)


def past_adam(
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, window: int = 20
) -> TensorRule[int]:
    """Adam without a tensor of state: both moments from the last `window` gradients, made again.

    Weights are those of `adam`, cut off after the window and divided by their sum, which is what
    unbiasing does. A step makes `window` times the directions.
    Source: Malladi et al. 2023, arXiv 2305.17333, appendix B.2.
    """
    _require_fraction("past_adam", beta1)
    _require_fraction("past_adam", beta2)
    if window < 1:
        raise UsageError(f"past_adam: window {window} must be at least 1")
    offset = np.float32(eps)

    def update(gradient: Gradient, theta: Tensors, state: int) -> tuple[Tensors, int]:
        first, second = _zeros(gradient.tensors), _zeros(gradient.tensors)
        weight1 = weight2 = 0.0
        power1 = power2 = 1.0
        for g in gradient.steps():
            for name in first:
                first[name] += np.float32(power1) * g[name]
                second[name] += np.float32(power2) * g[name] * g[name]
            weight1, weight2 = weight1 + power1, weight2 + power2
            power1, power2 = power1 * beta1, power2 * beta2
        along: dict[str, FloatArray] = {}
        for name, m in first.items():
            size = np.sqrt(second[name] / np.float32(weight2)) + offset
            along[name] = np.divide(m / np.float32(weight1), size)
        return along, state + 1

    text = f"past_adam({beta1}, {beta2}, {eps}, {window})"
    return TensorRule(text, lambda theta: 0, update, window)


def low_rank_momentum(beta: float = 0.9) -> TensorRule[Tensors]:
    """An average of gradients that is carried over to a new basis: m ← beta · m + (1 − beta) · g.

    The first gradient is taken whole. A low-rank slice's average is of coordinates in its basis; at
    a refresh it becomes its least-squares reading in the new one (`zofx.zo.bases.carried`).
    Source: Chen et al. 2025, arXiv 2410.07698, algorithm 2 (LOZO-M).
    """
    _require_fraction("low_rank_momentum", beta)
    keep, take = np.float32(beta), np.float32(1 - beta)

    def update(gradient: Gradient, theta: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        moved = {
            name: keep * state[name] + take * g if name in state else g
            for name, g in gradient.tensors.items()
        }
        return moved, moved

    def refreshed(state: Tensors, old: Tensors, new: Tensors, noise: Noise) -> Tensors:
        read = dict(state)
        for name, basis in noise.bases.items():
            if name in state and basis.base is not None:  # another basis stays as it is
                read[name] = carried(state[name], basis, old, new)
        return read

    return TensorRule(f"low_rank_momentum({beta})", lambda theta: {}, update, refreshed=refreshed)


def diagonal_hessian(smooth: float = 1e-6) -> TensorRule[Tensors]:
    """Precondition by a running diagonal Hessian, which also scales the directions (HiZOO).

    H ← (1 − smooth) · H + smooth · h · H ⊙ u²        u = z · √H, the draw behind the direction z
    go along c · u / √H;   scale of the next directions 1 / √H

    After `Curved`, whose coefficients are the slope c and the curvature h.
    Source: Zhao et al. 2025, Second-Order Fine-Tuning without Pain for LLMs, arXiv 2402.15173.
    """
    _require_fraction("diagonal_hessian", smooth)
    keep, take = np.float32(1 - smooth), np.float32(smooth)
    one = np.float32(1)

    def update(gradient: Gradient, theta: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        slope, curvature = (np.float32(ray.coefficient) for ray in gradient.rays)
        hessian: dict[str, FloatArray] = {}
        along: dict[str, FloatArray] = {}
        for name, z in gradient.direction(gradient.rays[0].key).items():
            before = state[name]
            u = z * np.sqrt(before)
            hessian[name] = np.add(keep * before, take * curvature * before * u * u)
            along[name] = np.multiply(slope, u / np.sqrt(hessian[name]))
        return along, hessian

    def init(theta: Tensors) -> Tensors:
        scales = {name: values for name, values in theta.items() if name.endswith(SCALE)}
        if not scales:
            raise UsageError(
                "diagonal_hessian() sets the scales of directions, and this artifact's have none: "
                "compile with a method that does, such as hizoo (the pass scale-directions)"
            )
        return {name.removesuffix(SCALE): np.ones_like(values) for name, values in scales.items()}

    return TensorRule(
        f"diagonal_hessian({smooth})",
        init,
        update,
        curved=True,
        exposes=lambda state: {
            f"{name}{SCALE}": np.divide(one, np.sqrt(h)) for name, h in state.items()
        },
    )


def _stateless(
    text: str, update: Callable[[Gradient, Tensors, None], tuple[Tensors, None]]
) -> TensorRule[None]:
    """A rule that remembers nothing, so that a new basis is nothing to it."""
    return TensorRule(
        text, lambda theta: None, update, refreshed=lambda state, old, new, noise: None
    )


def _zeros(theta: Tensors) -> Tensors:
    return {name: np.zeros_like(values) for name, values in theta.items()}


def _require_fraction(rule: str, beta: float) -> None:
    if not 0 <= beta < 1:
        raise UsageError(f"{rule}: beta {beta} must be in [0, 1)")

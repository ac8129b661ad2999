"""Rules on tensors that remember: averages of gradients, of their squares, of the curvature.

    momentum            m ← β·m + g                          one tensor per trainable
    low_rank_momentum   m ← β·m + (1 − β)·g                  one, carried over to a new basis
    adam                m, v ← averages of g and g²          two
    past_adam           the same over the last steps' rays   none: their gradients are made again
    diagonal_hessian    H ← average of h·H ⊙ u²              one, which also scales directions

A state of coordinates belongs to the basis of a low-rank trainable; where it cannot be read in a
new one, `refreshed` is None.
"""

from typing import NamedTuple

import numpy as np

from zofx.errors import UsageError
from zofx.zo.random.direction_spec import Noise, scale_name
from zofx.zo.random.low_rank_bases import carried
from zofx.zo.rules.gradient_rules import Gradient, TensorRule, Tensors
from zofx.zo.types import FloatArray


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

    The first gradient is taken whole. A low-rank trainable's average is of coordinates in its
    basis; at a refresh it becomes its least-squares reading in the new one
    (`zofx.zo.random.low_rank_bases.carried`).
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

    After `SpsaWithCurvature`, whose coefficients are the slope c and the curvature h.
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
        scales = {name: theta[scale_name(name)] for name in theta if scale_name(name) in theta}
        if not scales:
            raise UsageError(
                "diagonal_hessian() sets the scales of directions, and this artifact's have none: "
                "compile with a method that does, such as hizoo (the pass scale-directions)"
            )
        return {name: np.ones_like(values) for name, values in scales.items()}

    return TensorRule(
        f"diagonal_hessian({smooth})",
        init,
        update,
        curved=True,
        exposes=lambda state: {
            scale_name(name): np.divide(one, np.sqrt(h)) for name, h in state.items()
        },
    )


def _zeros(theta: Tensors) -> Tensors:
    return {name: np.zeros_like(values) for name, values in theta.items()}


def _require_fraction(rule: str, beta: float) -> None:
    if not 0 <= beta < 1:
        raise UsageError(f"{rule}: beta {beta} must be in [0, 1)")

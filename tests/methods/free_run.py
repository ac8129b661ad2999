"""A whole run of the textbook, and how far a compiled run may be from it.

    θ' = θ − η·Σ_q c_q(θ)·z_q / Q                  textbook, at its own θ throughout
    e' = J·e + Σ_q s_q·z_q + r                     e = θ₃₂ − θ

    J·e  = e − η/Q·Σ_q (∇c_q·e)·z_q                ∇c_q = (∇f(θ + εz_q) − ∇f(θ − εz_q)) / 2ε
    |s_q| ≤ η/Q·(δ₊ + δ₋) / 2ε                     rounding of the two losses
    |r|  ≤ γₖ·(|θ| + Σ |η·c·z / Q|)                rounding of the move

Every s is a number along a known direction, so each such direction is carried through the later
steps, with its sign, by the measured ∇c; their absolute values are added up at the end only. The r
are known by size alone, so J takes absolute values there. To first order in e, which is some 10⁻⁶:
as the losses' own bound is to first order in u.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.methods.bounds import rounding_of_move
from tests.methods.reference import Loss, Method, Tensors


@dataclass
class FreeRun:
    """A method on its own losses.

    Attributes:
        method: whose step is the sum above; it is run.
        sources: (bound on |s|, its direction as it is by now).
        rest: |r| by now.
    """

    method: Method
    sources: list[tuple[float, Tensors]] = field(default_factory=list)
    rest: Tensors = field(default_factory=dict)

    @property
    def theta(self) -> Tensors:
        """Where the textbook is."""
        return self.method.theta

    def step(self, t: int, loss: Loss, allowed: Tensor, roundings: int) -> Tensors:
        """One step.

        Args:
            t: the step.
            loss: of its batch.
            allowed: δ f64[2Q] of zofx's losses.
            roundings: k.

        Returns:
            The bound on |θ₃₂ − θ| after it, by name.
        """
        method = self.method
        along = [method.direction(t, query) for query in range(method.queries)]
        rays = [(z, self._bend(z, loss)) for z in along]
        rate = method.lr / method.queries
        self.sources = [(s, _carried(w, rays, rate)) for s, w in self.sources]
        rest = _carried(self.rest, [(_sizes(z), _sizes(bend)) for z, bend in rays], -rate)
        before = {name: method.theta[name].clone() for name in method.trained}
        method.step(t, loss)
        slack = rate * allowed.view(-1, 2).sum(1) / (2 * method.eps)
        self.sources += zip(slack.tolist(), along, strict=True)
        moved = rounding_of_move(before, method, roundings)
        self.rest = {name: rest.get(name, 0) + rounded for name, rounded in moved.items()}
        return self._bound()

    def _bound(self) -> Tensors:
        return {
            name: rest + sum((s * w[name].abs() for s, w in self.sources), torch.zeros_like(rest))
            for name, rest in self.rest.items()
        }

    def _bend(self, z: Tensors, loss: Loss) -> Tensors:
        """∇c along a direction."""
        eps, ends = self.method.eps, []
        for by in (eps, -eps):
            at = {n: w + by * z[n] if n in z else w for n, w in self.method.theta.items()}
            ends.append(loss.gradient(at, list(z)))
        return {name: (ends[0][name] - ends[1][name]) / (2 * eps) for name in z}


def _carried(w: Tensors, rays: Sequence[tuple[Tensors, Tensors]], rate: float) -> Tensors:
    """w − rate · Σ (∇c_q·w)·z_q, of the pairs (z_q, ∇c_q)."""
    result = dict(w)
    for z, bend in rays:
        change = rate * sum((bend[n] * w[n]).sum() for n in w)
        result = {n: v - change * z[n] for n, v in result.items()}
    return result


def _sizes(values: Tensors) -> Tensors:
    return {name: value.abs() for name, value in values.items()}

"""Gauss–Newton in the span of a few probes: the step that needs no learning rate.

    s_b(θ + Σ_q a_q z_q) ≈ s_b + J_b a              J_b from one-sided probes, or exact tangents
    loss of example b    ≈ ℓ_b + g_bᵀa + ½ aᵀG_b a   g_b = J_bᵀ∇ℓ,  G_b = J_bᵀ ∇²ℓ J_b ⪰ 0
    coefficients         = (G + λ I)⁻¹ g             G, g: means over the batch

The Q directions see only a few dozen effective dimensions of the loss, so G is ill-conditioned and
a batch determines its small eigenvalues badly: undamped the step diverges. λ = r · trace(G) / Q,
and r is what predicts best: for each r of a fixed grid, the step from all examples but one is
judged by the quadratic of the one that was left out, averaged over the batch,

    v_r = mean_b ( g_bᵀa + ½ aᵀG_b a ),   a = −(G₋b + λ_r I)⁻¹ g₋b

and over the steps so far with weights DECAYᵗ. The r of the least v is taken.

A step records what it measured, f32[1 + Q + Q(Q+1)/2 + R]: the loss, g, the upper triangle of G
row by row, and v. Coefficients are a function of these numbers and those of the steps before, so a
run resumes from its journal as with any other estimator.

Source: Levenberg 1944, Marquardt 1963 (damping); Schraudolph 2002, Fast Curvature Matrix-Vector
Products (the generalised Gauss–Newton matrix). Choosing λ by leave-one-out is zofx's own.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zofx.errors import UsageError
from zofx.zo.estimate import Coefficients, Estimate, Probes
from zofx.zo.estimators import direction_keys, require_usable
from zofx.zo.types import FloatArray, Key

DoubleArray = NDArray[np.float64]

RATIOS: Final = tuple(2.0**power for power in range(-2, 9))
"""λ over the mean of G's diagonal."""

DECAY: Final = 0.9
"""Weight of what the steps before say of each ratio, against the present one."""


@dataclass(frozen=True, eq=False)
class Quadratics:
    """A batch's loss as a quadratic of the coefficients of Q directions, example by example.

    Attributes:
        loss: at θ; the mean over the examples.
        gradients: f64[B, Q]; their mean is the gradient of the loss.
        curvatures: f64[B, Q, Q], positive semidefinite; their mean is G.
    """

    loss: float
    gradients: DoubleArray
    curvatures: DoubleArray

    def measured(self) -> DoubleArray:
        """What a step records: loss, g, the upper triangle of G, v; f64[1 + Q + Q(Q+1)/2 + R].

        Raises:
            UsageError: fewer than two examples, so that none can be left out.
        """
        examples, queries = self.gradients.shape
        if examples < 2:
            raise UsageError(
                "gauss-newton chooses its damping by leaving one example of a batch out, and this "
                "batch has a single one: use --batch-size 2 or more"
            )
        gradient, curvature = self.gradients.mean(0), self.curvatures.mean(0)
        upper = curvature[np.triu_indices(queries)]
        return np.concatenate([[self.loss], gradient, upper, self._left_out()])

    def _left_out(self) -> DoubleArray:
        """The change v that each ratio predicts, f64[R]."""
        others = len(self.gradients) - 1
        gradients = (self.gradients.sum(0) - self.gradients) / others
        curvatures = (self.curvatures.sum(0) - self.curvatures) / others
        steps = np.array([-damped(curvatures, gradients, ratio) for ratio in RATIOS])
        linear = np.einsum("rbq,bq->rb", steps, self.gradients)
        curved = np.einsum("rbp,bpq,rbq->rb", steps, self.curvatures, steps)
        changes: DoubleArray = (linear + curved / 2).mean(1)
        return changes


class _Parts(NamedTuple):
    """A record, taken apart."""

    loss: float
    gradient: DoubleArray
    curvature: DoubleArray
    changes: DoubleArray


@dataclass(frozen=True)
class GaussNewton:
    """The damped Gauss–Newton step of the batch in the span of Q directions; reports f(θ).

    Attributes:
        eps: the distance of a probe from θ, in units of z; of no effect on exact tangents.
        queries: directions of a step.
        exact: whether a program in forward mode gives the derivatives of the scores.
    """

    eps: float = 1e-3
    queries: int = 8
    exact: bool = False

    def __post_init__(self) -> None:
        require_usable(self, self.eps, self.queries)

    @property
    def rays(self) -> int:
        """Q."""
        return self.queries

    @property
    def evaluations(self) -> int:
        """How many numbers `Quadratics.measured` has."""
        return 1 + self.queries + self._triangle + len(RATIOS)

    @property
    def _triangle(self) -> int:
        return self.queries * (self.queries + 1) // 2

    def probes(self, seed: int, step: int) -> Probes:
        """θ and +ε along each direction, f32[Q + 1, Q]; of exact tangents the directions alone."""
        keys = direction_keys(seed, step, self.queries)
        if self.exact:
            return Probes(keys, np.eye(self.queries, dtype=np.float32))
        matrix = np.eye(self.queries + 1, self.queries, k=-1, dtype=np.float32)
        return Probes(keys, matrix * np.float32(self.eps))

    def estimate(
        self, keys: tuple[Key, ...], losses: FloatArray, memory: DoubleArray | None
    ) -> Estimate:
        """(G + λI)⁻¹ g, with the λ that has predicted best so far."""
        parts = self._parts(losses)
        changes = self.remember(losses, memory)
        ratio = RATIOS[int(np.argmin(changes))] if changes.min() < 0 else RATIOS[-1]
        coefficients: Coefficients = damped(parts.curvature, parts.gradient, ratio)
        return Estimate(parts.loss, keys, coefficients)

    def remember(self, losses: FloatArray, memory: DoubleArray | None) -> DoubleArray:
        """The running v, f64[R]."""
        changes = self._parts(losses).changes
        return changes if memory is None else DECAY * memory + (1 - DECAY) * changes

    def _parts(self, losses: FloatArray) -> _Parts:
        places = np.cumsum([1, self.queries, self._triangle])
        loss, gradient, upper, changes = np.split(losses.astype(np.float64), places)
        curvature = np.zeros((self.queries, self.queries))
        curvature[np.triu_indices(self.queries)] = upper
        curvature += np.triu(curvature, 1).T
        return _Parts(float(loss[0]), gradient, curvature, changes)


def damped(curvature: DoubleArray, gradient: DoubleArray, ratio: float) -> DoubleArray:
    """(G + λI)⁻¹ g with λ = ratio · trace(G) / Q; zero where G is.

    Args:
        curvature: f64[…, Q, Q].
        gradient: f64[…, Q].
        ratio: positive; the condition number is at most 1 + Q / ratio.

    Returns:
        f64[…, Q].
    """
    queries = gradient.shape[-1]
    mean = np.trace(curvature, axis1=-2, axis2=-1)[..., None, None] / queries
    flat = mean <= 0
    whole = curvature + (ratio * mean + flat) * np.eye(queries)
    solved: DoubleArray = np.linalg.solve(whole, gradient[..., None])[..., 0]
    step: DoubleArray = solved * ~flat[..., 0]
    return step

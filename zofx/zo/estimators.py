"""Estimators: which probes to evaluate, and the gradient that follows from their losses.

    probe p evaluates       f(θ + Σ_q C[p, q] · z_q)
    the estimate is         Σ_q coefficient_q · z_q  ≈  ∇f(θ)

    Spsa       C = ε · [[1], [−1]] per query      coefficient_q = (f₊ − f₋) / (2 ε Q)
    OneSided   C = [0; ε I]                       coefficient_q = (f_q − f₀) / (ε Q)
    OnePoint   C = [[ε]]                          coefficient   = (f_t − f_{t−1}) / ε
    SpsaWithCurvature     C = ε · [1; −1; 0]                 a second one, |f₊ + f₋ − 2 f₀| / (2 ε²)
    ForwardGradient     C = I                              coefficient_q = (∇f · z_q) / Q, exact
    NoProbes            C = [[]]: f(θ) alone               none: the gradient is exact

An estimator is a frozen dataclass without state. What it knows of the past is a fold over the
recorded losses (`remember`), so that the journal, which holds them, restores it exactly.
Gauss–Newton steps are in `zofx.zo.gauss_newton`.
Source: Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes" (two-point and
averaged SPSA, one-point residual feedback); Zhao et al. 2025, HiZOO, arXiv 2402.15173 (curvature);
Baydin et al. 2022, Gradients without Backpropagation, arXiv 2202.08587 (slopes).
"""

from dataclasses import dataclass

import numpy as np

from zofx.errors import UsageError
from zofx.zo.estimate import Estimate, Estimator, Probes
from zofx.zo.types import QUERY_BITS, FloatArray, Key


class _Forgetful:
    """Knows nothing of the past."""

    def remember(self, losses: FloatArray, memory: None) -> None:
        """Nothing."""


class _OneRayPerQuery(_Forgetful):
    """What most estimators have in common."""

    queries: int

    @property
    def rays(self) -> int:
        """Q."""
        return self.queries


@dataclass(frozen=True)
class Spsa(_OneRayPerQuery):
    """Two-point differences; reports the mean of all probes, which is f(θ) up to O(ε²).

    Attributes:
        eps: half the distance between the two points, in units of z.
        queries: directions averaged per step; row 2q is + and row 2q + 1 is −.
        average: whether slopes are averaged; where directions do not overlap, each is for itself.
    """

    eps: float = 1e-3
    queries: int = 1
    average: bool = True

    def __post_init__(self) -> None:
        require_usable(self, self.eps, self.queries)

    @property
    def evaluations(self) -> int:
        """2 Q."""
        return 2 * self.queries

    def probes(self, seed: int, step: int) -> Probes:
        """±ε along each direction."""
        matrix = np.zeros((self.evaluations, self.queries), dtype=np.float32)
        query = np.arange(self.queries)
        matrix[2 * query, query] = self.eps
        matrix[2 * query + 1, query] = -self.eps
        return Probes(direction_keys(seed, step, self.queries), matrix)

    def estimate(
        self, keys: tuple[Key, ...], losses: FloatArray, memory: FloatArray | None
    ) -> Estimate:
        """Half the slope of each pair, averaged over the queries."""
        wide = losses.astype(np.float64)
        slopes = (wide[0::2] - wide[1::2]) / (2 * self.eps)
        return Estimate(float(wide.mean()), keys, slopes / (self.queries if self.average else 1))


@dataclass(frozen=True)
class OneSided(_OneRayPerQuery):
    """Forward differences that share f(θ): Q + 1 probes instead of 2 Q; reports f(θ) itself.

    Attributes:
        eps: the distance from θ, in units of z.
        queries: directions averaged per step; row 0 is θ, row q + 1 is direction q.
    """

    eps: float = 1e-3
    queries: int = 1

    def __post_init__(self) -> None:
        require_usable(self, self.eps, self.queries)

    @property
    def evaluations(self) -> int:
        """Q + 1."""
        return self.queries + 1

    def probes(self, seed: int, step: int) -> Probes:
        """θ, then +ε along each direction."""
        matrix = np.eye(self.evaluations, self.queries, k=-1, dtype=np.float32)
        return Probes(direction_keys(seed, step, self.queries), matrix * np.float32(self.eps))

    def estimate(
        self, keys: tuple[Key, ...], losses: FloatArray, memory: FloatArray | None
    ) -> Estimate:
        """The slope from θ to each point, averaged over the queries."""
        wide = losses.astype(np.float64)
        slopes = (wide[1:] - wide[0]) / self.eps
        return Estimate(float(wide[0]), keys, slopes / self.queries)


@dataclass(frozen=True)
class OnePoint:
    """Residual feedback: one forward a step, compared with the last one; reports f(θ + εz).

    The first step only looks. It takes far more steps than `Spsa` to the same accuracy, because the
    two points belong to different batches.

    Attributes:
        eps: the distance from θ, in units of z.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        require_usable(self, self.eps, self.queries)

    @property
    def queries(self) -> int:
        """One."""
        return 1

    @property
    def rays(self) -> int:
        """One."""
        return 1

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    def probes(self, seed: int, step: int) -> Probes:
        """+ε along one direction."""
        return Probes(direction_keys(seed, step, 1), np.full((1, 1), self.eps, dtype=np.float32))

    def estimate(
        self, keys: tuple[Key, ...], losses: FloatArray, memory: FloatArray | None
    ) -> Estimate:
        """The change since the last step over ε; zero at the first."""
        wide = losses.astype(np.float64)
        before = wide if memory is None else memory.astype(np.float64)
        return Estimate(float(wide[0]), keys, (wide - before) / self.eps)

    def remember(self, losses: FloatArray, memory: FloatArray | None) -> FloatArray:
        """The losses of the step before."""
        return losses


@dataclass(frozen=True)
class SpsaWithCurvature(_Forgetful):
    """Two-point differences and the curvature along the direction; reports f(θ).

    The second coefficient is of no direction: it is |f₊ + f₋ − 2 f₀| / (2 ε²) = ½ |zᵀ∇²f z|, for a
    rule on tensors that estimates a diagonal Hessian from it (`hizoo`).

    Attributes:
        eps: half the distance between the outer points, in units of z.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        require_usable(self, self.eps, self.queries)

    @property
    def queries(self) -> int:
        """One."""
        return 1

    @property
    def rays(self) -> int:
        """Slope and curvature."""
        return 2

    @property
    def evaluations(self) -> int:
        """Three."""
        return 3

    def probes(self, seed: int, step: int) -> Probes:
        """±ε along one direction, and θ."""
        matrix = np.array([[self.eps], [-self.eps], [0]], dtype=np.float32)
        return Probes(direction_keys(seed, step, 1), matrix)

    def estimate(
        self, keys: tuple[Key, ...], losses: FloatArray, memory: FloatArray | None
    ) -> Estimate:
        """Slope and curvature, under keys of their own."""
        plus, minus, here = losses.astype(np.float64)
        slope = (plus - minus) / (2 * self.eps)
        curvature = abs(plus + minus - 2 * here) / (2 * self.eps**2)
        both = direction_keys(keys[0].seed, keys[0].step, 2)
        return Estimate(float(here), both, np.array([slope, curvature]))


@dataclass(frozen=True)
class ForwardGradient(_OneRayPerQuery):
    """Exact directional derivatives, from a program in forward mode; reports f(θ).

    Attributes:
        queries: directions averaged per step.
    """

    queries: int = 1

    def __post_init__(self) -> None:
        require_usable(self, 1.0, self.queries)

    @property
    def evaluations(self) -> int:
        """f(θ), and Q slopes."""
        return self.queries + 1

    def probes(self, seed: int, step: int) -> Probes:
        """Each direction by itself; a row is a tangent here, not a point."""
        return Probes(
            direction_keys(seed, step, self.queries), np.eye(self.queries, dtype=np.float32)
        )

    def estimate(
        self, keys: tuple[Key, ...], losses: FloatArray, memory: FloatArray | None
    ) -> Estimate:
        """The slopes themselves, averaged over the queries."""
        wide = losses.astype(np.float64)
        return Estimate(float(wide[0]), keys, wide[1:] / self.queries)


@dataclass(frozen=True)
class NoProbes(_OneRayPerQuery):
    """The loss at θ, for runs in which every tensor trains by its exact gradient."""

    queries: int = 0

    @property
    def evaluations(self) -> int:
        """1."""
        return 1

    def probes(self, seed: int, step: int) -> Probes:
        """θ alone."""
        return Probes((), np.zeros((1, 0), np.float32))

    def estimate(
        self, keys: tuple[Key, ...], losses: FloatArray, memory: FloatArray | None
    ) -> Estimate:
        """No directions, so nothing moves along them."""
        return Estimate(float(losses[0]), (), np.zeros(0))


def direction_keys(seed: int, step: int, queries: int) -> tuple[Key, ...]:
    """The keys of a step, query by query."""
    return tuple(Key(seed, step, query) for query in range(queries))


def require_usable(estimator: Estimator, eps: float, queries: int) -> None:
    """Refuse numbers that no probe can be made of.

    Raises:
        UsageError: eps is not positive, or there are too few or too many queries.
    """
    if not 0 < eps < np.inf:
        raise UsageError(f"{estimator}: eps must be a positive number")
    if not 1 <= queries <= 1 << QUERY_BITS:
        raise UsageError(f"{estimator}: queries must be between 1 and {1 << QUERY_BITS}")

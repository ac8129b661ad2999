"""The words of the driver: keys, rays, and the probe matrix.

    probe p evaluates  θ + Σ_q C[p, q] · z(key_q)          C: f32[P, Q]
    a ray moves        θ ← θ + coefficient · z(key)        multiply, round to f32, add, round to f32

A key and the name of a trainable determine z: see `zofx.zo.random.noise`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.errors import UsageError

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

SEED_BITS = 64
STEP_BITS = 48
QUERY_BITS = 16


@dataclass(frozen=True)
class Key:
    """What determines a direction z, together with the name of the trainable.

    Attributes:
        seed: the run's seed, 0 ≤ seed < 2⁶⁴.
        step: the step of the run, 0 ≤ step < 2⁴⁸.
        query: which direction of the step, 0 ≤ query < 2¹⁶.
    """

    seed: int
    step: int
    query: int = 0

    def __post_init__(self) -> None:
        bounds = (("seed", SEED_BITS), ("step", STEP_BITS), ("query", QUERY_BITS))
        for field, bits in bounds:
            value = getattr(self, field)
            if not 0 <= value < 1 << bits:
                raise UsageError(
                    f"{self} names no direction: {field} must be at least 0 and below 2^{bits}"
                )

    def words(self) -> tuple[int, int]:
        """The two 64-bit key words of Philox4x64-10: (seed, step · 2¹⁶ + query)."""
        return self.seed, (self.step << QUERY_BITS) | self.query


@dataclass(frozen=True)
class Ray:
    """A step along z(key).

    Attributes:
        key: the direction.
        coefficient: how far, in units of z; already rounded to float32.
    """

    key: Key
    coefficient: float


def key_words(keys: tuple[Key, ...]) -> NDArray[np.uint64]:
    """The keys as the array a graph takes, u64[Q, 2]."""
    return np.array([key.words() for key in keys], dtype=np.uint64).reshape(-1, 2)


Losses: TypeAlias = NDArray[np.floating[Any]]

LossFn: TypeAlias = Callable[[tuple[Key, ...], FloatArray], Losses]
"""(keys, matrix f32[P, Q]) → losses [P] of a batch at θ + matrix · z, lower is better. Where an
estimator asks for slopes, [1 + P]: the loss at θ, then its slope along each row of the matrix."""

ExactGradientFn: TypeAlias = Callable[[], Mapping[str, FloatArray]]
"""Exact gradients of a batch's loss at θ, for the tensors that train by them."""

Objective: TypeAlias = Callable[[FloatArray], Losses]
"""logprob f32[P, N, C] → one loss per probe [P], lower is better; any host function will do."""

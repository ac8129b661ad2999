"""What passes between an estimator, the rules and the driver: probes, and a gradient in rays.

Estimator ──Probes──▶ losses ──Estimator──▶ Estimate ──rules──▶ Estimate ──▶ rays
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.zo.types import FloatArray, Key, Ray

Coefficients: TypeAlias = NDArray[np.float64]


class Probes(NamedTuple):
    """What a session is asked to evaluate.

    Attributes:
        keys: Q directions.
        matrix: f32[P, Q], row p is the combination of directions added to θ.
    """

    keys: tuple[Key, ...]
    matrix: FloatArray


@dataclass(frozen=True, eq=False)
class Estimate:
    """A gradient as a combination of directions; rules on rays map it to another one.

    Attributes:
        loss: what is reported for the step, in the objective's units.
        keys: Q directions.
        coefficients: f64[Q], loss per unit of z; their float32 form exists only in `rays`.
    """

    loss: float
    keys: tuple[Key, ...]
    coefficients: Coefficients

    def with_coefficients(self, coefficients: Coefficients) -> Self:
        """The same directions, weighted anew (f64[Q])."""
        return replace(self, coefficients=coefficients)

    @property
    def rays(self) -> tuple[Ray, ...]:
        """The finished rays: the only place where coefficients are rounded to float32."""
        with np.errstate(over="ignore"):  # an infinite coefficient is the caller's to refuse
            rounded = self.coefficients.astype(np.float32)
        return tuple(Ray(key, float(c)) for key, c in zip(self.keys, rounded, strict=True))


class Estimator(Protocol):
    """Probes in, a gradient out."""

    @property
    def queries(self) -> int:
        """Q, the number of directions of a step."""
        ...

    @property
    def rays(self) -> int:
        """How many coefficients an estimate has: Q, or more where they measure more than slopes."""
        ...

    @property
    def evaluations(self) -> int:
        """How many numbers a step measures and records, all from one forward: P losses, or more."""
        ...

    def probes(self, seed: int, step: int) -> Probes:
        """What to evaluate at a step of a run."""
        ...

    def estimate(self, keys: tuple[Key, ...], losses: FloatArray, memory: Any) -> Estimate:
        """Turn losses into a gradient.

        Args:
            keys: those of the probes.
            losses: f32[evaluations], finite.
            memory: what `remember` returned at the step before; None at the first step.
        """
        ...

    def remember(self, losses: FloatArray, memory: Any) -> Any:
        """What the next step's estimate needs of this one's losses and memory."""
        ...

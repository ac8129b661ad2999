"""A straight line through measured points, and what speaks against one.

    line        s ≈ a + b·x               least squares
    parabola    s ≈ a′ + b′·x + c·x²      curvature = c·x² / s at the largest x
    power       s ≈ a″ + e·xᵏ             exponent k, 1 on a line: the best of 0.25, 0.26 … 3

A line also fits points that do not differ, so a sweep has to grow: `growth` is the share of the
largest point that the smallest does not have.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]

POINTS: Final = 4
"""A parabola goes through any three."""

EXPONENTS: Final = tuple(hundredth / 100 for hundredth in range(25, 301))

EXPLAINED: Final = 0.98
CURVATURE: Final = 0.10
GROWTH: Final = 1 / 3


@dataclass(frozen=True)
class Fit:
    """What least squares say of a sweep.

    Attributes:
        intercept: a, seconds.
        slope: b, seconds per unit of x.
        r2: share of the variance that the line explains.
        residual: the largest |s − line| / s.
        curvature: c·x² of the parabola at the largest x, as a share of its value there; below 0
            where later units cost less.
        parabola_r2: share of the variance that the parabola explains.
        exponent: k; it says nothing where the cost hardly grows.
        growth: b · (largest x − smallest x), as a share of the line at the largest x.
    """

    intercept: float
    slope: float
    r2: float
    residual: float
    curvature: float
    parabola_r2: float
    exponent: float
    growth: float

    @classmethod
    def of(cls, x: Sequence[float], seconds: Sequence[float]) -> Self:
        """Fit.

        Raises:
            UsageError: fewer than four different x.
        """
        if len(set(x)) < POINTS:
            raise UsageError(
                f"a sweep over {sorted(set(x))} has {len(set(x))} points; a straight line differs "
                f"from a curve by {POINTS} or more"
            )
        s, largest = np.asarray(seconds, np.float64), float(max(x))
        u = np.asarray(x, np.float64) / largest  # in (0, 1]: powers stay of one size
        (a, b), line = _least_squares(u, s, 1)
        (_, _, c), parabola = _least_squares(u, s, 1, 2)
        return cls(
            intercept=a,
            slope=b / largest,
            r2=_explained(s, line),
            residual=float(np.max(np.abs(s - line) / s)),
            curvature=c / float(parabola[np.argmax(u)]),
            parabola_r2=_explained(s, parabola),
            exponent=_exponent(u, s),
            growth=b * float(u.max() - u.min()) / (a + b),
        )

    def to_dict(self) -> dict[str, Any]:
        """As in results."""
        return asdict(self)


def bars(fit: Fit, *, straight: bool = True) -> list[dict[str, Any]]:
    """What is claimed of a sweep, and whether it is kept.

    Args:
        fit: of the sweep.
        straight: whether it is to be a line; otherwise a parabola, whose curvature is shown only.
    """
    result = [_bar(f"grows by ≥ {GROWTH:.0%} of the largest", fit.growth, fit.growth >= GROWTH)]
    if not straight:
        kept = fit.parabola_r2 >= EXPLAINED
        return [*result, _bar(f"R² of a parabola ≥ {EXPLAINED}", fit.parabola_r2, kept)]
    bent = abs(fit.curvature)
    return [
        *result,
        _bar(f"R² of a line ≥ {EXPLAINED}", fit.r2, fit.r2 >= EXPLAINED),
        _bar(f"|quadratic part| ≤ {CURVATURE:.0%}", bent, bent <= CURVATURE),
    ]


def _bar(text: str, value: float, kept: bool) -> dict[str, Any]:
    return {"bar": text, "value": value, "kept": bool(kept)}


def _least_squares(u: Floats, s: Floats, *powers: float) -> tuple[list[float], Floats]:
    """Coefficients of 1 and of these powers of u, and the values they give."""
    columns = np.stack([u**power for power in (0, *powers)], axis=1)
    solution = np.asarray(np.linalg.lstsq(columns, s, rcond=None)[0], np.float64)
    return solution.tolist(), columns @ solution


def _explained(s: Floats, fitted: Floats) -> float:
    """R²; 0 where there is nothing to explain."""
    whole = float(np.sum((s - s.mean()) ** 2))
    return 1 - float(np.sum((s - fitted) ** 2)) / whole if whole else 0.0


def _exponent(u: Floats, s: Floats) -> float:
    """The power of u whose curve comes nearest."""
    return min(EXPONENTS, key=lambda k: float(np.sum((s - _least_squares(u, s, k)[1]) ** 2)))

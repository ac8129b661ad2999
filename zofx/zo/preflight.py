"""Pre-flight: can the ± gap be told from the round-off of this graph?

On each of a few directions, the nine points θ + t ε z with t = 0, ±⅛, ±¼, ±½, ±1 are scored in one
forward, then again with the rows of the batch in reverse order.

    gap           l(1) − l(−1)                                        the signal of a two-point step
    jitter        (l(−1) − 4 l(−½) + 6 l(0) − 4 l(½) + l(1)) / √70     round-off between near points
    order         (l − l reversed) / √2                                round-off of equal problems
    nonlinearity  (gap(ε) − 2 gap(ε/2)) / gap(ε)                       0 where the loss is straight

The fourth difference of independent errors of variance σ² has variance 70 σ², that of a smooth loss
is O(ε⁴). So what is left on a short line is what the engine's rounding, or the quantization of
activations, adds. Should the same difference on a line a quarter as long all but vanish (256 times
smaller if smooth, at most twice if rounding), it was curvature, and the short line's is taken.
All are root mean squares over the directions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.errors import UsageError
from zofx.zo.types import FloatArray, IntArray, Key, Objective

Verdict: TypeAlias = Literal["good", "noisy", "below-noise", "too-nonlinear"]
Losses: TypeAlias = NDArray[np.float64]

RowScores: TypeAlias = Callable[[IntArray, Sequence[Key], FloatArray], FloatArray]
"""(rows of a batch, keys, matrix f32[P, Q]) → their scores f32[P, rows, C]."""

POINTS: Final = np.array([-1, -1 / 2, -1 / 4, -1 / 8, 0, 1 / 8, 1 / 4, 1 / 2, 1])
LONG: Final = [0, 1, 4, 7, 8]
SHORT: Final = [2, 3, 4, 5, 6]
FOURTH_DIFFERENCE: Final = np.array([1.0, -4.0, 6.0, -4.0, 1.0])
ERROR_GAIN: Final = math.sqrt(70)
CURVED: Final = 16.0
"""Jitter on the long line over that on the short one, above which it is curvature."""

GOOD_RATIO: Final = 10.0
LOST_RATIO: Final = 6.0
"""A gap that is a single rounding step somewhere between the points reads as at most 5.9 to 1."""

STRAIGHT: Final = 0.5

FEW: Final = 4
"""Rows whose memory is of no account, and enough for one to have a neighbour."""

ADVICE: Final[dict[Verdict, str]] = {
    "good": "the gap stands clear of round-off",
    "noisy": "round-off is a visible part of every step: raise eps or use a larger batch",
    "below-noise": "steps would follow round-off, not the loss: raise eps, or keep more of the "
    "graph in float32",
    "too-nonlinear": "the loss is far from straight within eps, so differences are no slopes: "
    "lower eps",
}


@dataclass(frozen=True)
class Preflight:
    """What was measured, in units of the loss; see the module for the formulas.

    Attributes:
        eps: that was tried.
        gap: signal, at ±ε.
        noise: the round-off of one loss: the larger of jitter and order.
        nonlinearity: relative departure from a straight line.
    """

    eps: float
    gap: float
    noise: float
    nonlinearity: float

    @property
    def ratio(self) -> float:
        """Signal to noise of a two-point difference; infinite where no round-off was seen."""
        return self.gap / (math.sqrt(2) * self.noise) if self.noise > 0 else math.inf

    @property
    def verdict(self) -> Verdict:
        """What to think of it; `ADVICE` says what to do."""
        if self.gap == 0 or self.ratio < LOST_RATIO:
            return "below-noise"
        if self.ratio < GOOD_RATIO:
            return "noisy"
        return "good" if self.nonlinearity < STRAIGHT else "too-nonlinear"

    def __str__(self) -> str:
        return (
            f"{self.verdict}: at eps {self.eps:g} the ± gap is {self.gap:.3g}, the round-off "
            f"{self.noise:.3g} (signal-to-noise {self.ratio:.3g}), nonlinearity "
            f"{self.nonlinearity:.2f}; "
            f"{ADVICE[self.verdict]}"
        )


def preflight(
    scores: RowScores,
    rows: int,
    objective: Objective,
    eps: float,
    seed: int = 0,
    directions: int = 4,
) -> Preflight:
    """Measure; θ is not moved.

    Args:
        scores: of a batch of the run, at the point to start from.
        rows: of that batch.
        objective: the run's.
        eps: the one to judge.
        seed: of the directions that are tried.
        directions: how many; each costs two forwards of nine probes.

    Raises:
        UsageError: eps or directions is not positive.
    """
    if not eps > 0 or directions < 1:
        raise UsageError(f"preflight needs eps > 0 and directions >= 1, not {eps}, {directions}")
    keys = [Key(seed, 0, query) for query in range(directions)]
    order = np.arange(rows)
    forward = _lines(scores, order, objective, eps, keys)
    again = _lines(scores, order[::-1], lambda reversed_: objective(reversed_[:, ::-1]), eps, keys)
    noise = max(_jitter(np.concatenate([forward, again])), _rms(forward - again) / math.sqrt(2))
    gaps, halves = forward[:, 8] - forward[:, 0], forward[:, 7] - forward[:, 1]
    gap = _rms(gaps)
    nonlinearity = _rms(gaps - 2 * halves) / gap if gap > 0 else 0.0
    return Preflight(eps, gap, noise, nonlinearity)


def _lines(
    scores: RowScores, order: IntArray, objective: Objective, eps: float, keys: Sequence[Key]
) -> Losses:
    """Losses at the points of every direction, f64[directions, 9].

    Some rows at a time, so that nine probes take the memory of the two of a step.
    """
    matrix: FloatArray = (POINTS * eps).astype(np.float32)[:, None]
    at_once = max(FEW, math.ceil(2 * len(order) / len(POINTS)))
    parts = np.array_split(order, math.ceil(len(order) / at_once))
    lines = [
        objective(np.concatenate([scores(part, [key], matrix) for part in parts], axis=1))
        for key in keys
    ]
    # The driver rounds losses to float32, so that is part of what it can tell apart.
    return np.array(lines).astype(np.float32).astype(np.float64)


def _rms(values: NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _jitter(lines: Losses) -> float:
    """Round-off between neighbouring points."""
    far = _rms(lines[:, LONG] @ FOURTH_DIFFERENCE) / ERROR_GAIN
    near = _rms(lines[:, SHORT] @ FOURTH_DIFFERENCE) / ERROR_GAIN
    # Exactly nothing on the short line is rounding too: all its points fell on one value.
    return near if 0 < CURVED * near < far else far

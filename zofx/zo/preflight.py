"""Pre-flight: does the ± gap stand out of the round-off of this graph, in the time of a few steps?

    line        θ + t ε z, t = 0, ±⅛, ±¼, ±½, ±1, in one forward; as many lines as the budget holds
    more        ±1 alone, along other directions, with what is left
    again       t = 0, ±1 of the first line, the rows of the batch in reverse order

    gap           l(1) − l(−1)                                        the signal of a two-point step
    jitter        (l(−2h) − 4 l(−h) + 6 l(0) − 4 l(h) + l(2h)) / √70   h = ⅛, ¼, ½: round-off
    order         (l − l reversed) / √2                                round-off of equal problems
    nonlinearity  (gap(ε) − 2 gap(ε/2)) / gap(ε)                       0 where the loss is straight
    curvature     (l(1) − 2 l(0) + l(−1)) / ε²                         zᵀ∇²f z

The fourth difference of independent errors of variance σ² has variance 70 σ², that of a smooth loss
is O(h⁴). So what is left on the shortest h is what the engine's rounding, or the quantization of
activations, adds. A longer h counts, too, unless its difference is 8 times that of half of h or
more (16 times if smooth, at most twice if rounding): then it is curvature. All are root mean
squares over what was tried, but the curvature, which is a mean.
The driver rounds losses to float32, so that rounding is part of the noise.
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
LEVELS: Final = ([2, 3, 4, 5, 6], [1, 2, 4, 6, 7], [0, 1, 4, 7, 8])
"""Places in POINTS of 0, ±h, ±2h; the shortest h first."""

ENDS: Final = [0, 8]
AGAIN: Final = [0, 4, 8]
FOURTH_DIFFERENCE: Final = np.array([1.0, -4.0, 6.0, -4.0, 1.0])
ERROR_GAIN: Final = math.sqrt(70)
SECOND_GAIN: Final = math.sqrt(6)
"""Of errors in l(1) − 2 l(0) + l(−1)."""

CURVED: Final = 8.0
"""Fourth difference over that of half the h, above which it is curvature."""

STEPS: Final = 8
"""What a pre-flight may cost, in steps of the run."""

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
        curvature: along a direction, loss per unit of z squared; 0 where it does not stand out of
            the noise.
    """

    eps: float
    gap: float
    noise: float
    nonlinearity: float
    curvature: float = 0.0

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

    def overshoot(self, queries: int) -> float:
        """The learning rate above which a plain step raises the loss of its own batch.

        Along −(lr / Q) Σ g_q z_q a quadratic falls while lr < 2 Q / (zᵀ∇²f z); infinite where the
        loss does not bend upwards.
        """
        return 2 * queries / self.curvature if self.curvature > 0 else math.inf

    def __str__(self) -> str:
        return (
            f"{self.verdict}: at eps {self.eps:g} the ± gap is {self.gap:.3g}, the round-off "
            f"{self.noise:.3g} (signal-to-noise {self.ratio:.3g}), "
            f"nonlinearity {self.nonlinearity:.2f}; {ADVICE[self.verdict]}"
        )


def nothing(done: int, total: int) -> None:
    """Report no progress."""


def preflight(
    scores: RowScores,
    rows: int,
    objective: Objective,
    eps: float,
    seed: int = 0,
    probes: int = 2 * STEPS,
    progress: Callable[[int, int], None] = nothing,
) -> Preflight:
    """Measure; θ is not moved.

    Args:
        scores: of a batch of the run, at the point to start from.
        rows: of that batch.
        objective: the run's.
        eps: the one to judge.
        seed: of the directions that are tried.
        probes: of that batch, which this may cost: at least 12.
        progress: called with forwards, (done, total).

    Raises:
        UsageError: eps is not positive, or the budget too small.
    """
    lines = (probes - len(AGAIN)) // len(POINTS)
    if not eps > 0 or lines < 1:
        least = len(POINTS) + len(AGAIN)
        raise UsageError(f"preflight needs eps > 0 and probes >= {least}, not {eps}, {probes}")
    ends = (probes - len(AGAIN) - lines * len(POINTS)) // len(ENDS)
    keys = [Key(seed, 0, query) for query in range(lines + ends)]
    order = np.arange(rows)
    line = _Lines(scores, objective, eps, _Counter(progress, _forwards(rows, lines, ends)))
    whole = np.array([line(key, POINTS, order) for key in keys[:lines]])
    more = np.array([line(key, POINTS[ENDS], order) for key in keys[lines:]]).reshape(ends, 2)
    again = line(keys[0], POINTS[AGAIN], order[::-1])
    noise = max(_jitter(whole), _rms(whole[0, AGAIN] - again) / math.sqrt(2))
    gaps = whole[:, 8] - whole[:, 0]
    gap = _rms(np.concatenate([gaps, more[:, 1] - more[:, 0]]))
    bends = gaps - 2 * (whole[:, 7] - whole[:, 1])
    nonlinearity = _rms(bends) / _rms(gaps) if gaps.any() else 0.0
    second = float(np.mean(whole[:, 8] - 2 * whole[:, 4] + whole[:, 0]))
    clear = abs(second) > 3 * SECOND_GAIN * noise / math.sqrt(lines)
    return Preflight(eps, gap, noise, nonlinearity, second / eps**2 if clear else 0.0)


class _Counter:
    """Forwards done, of how many."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


@dataclass(frozen=True)
class _Lines:
    """Losses at points of a direction."""

    scores: RowScores
    objective: Objective
    eps: float
    counter: _Counter

    def __call__(self, key: Key, points: NDArray[np.float64], order: IntArray) -> Losses:
        """f64[points], some rows at a time, so that they take the memory of a two-point step."""
        matrix: FloatArray = (points * self.eps).astype(np.float32)[:, None]
        parts = []
        for part in np.array_split(order, _parts(len(order), len(points))):
            parts.append(self.scores(part, [key], matrix))
            self.counter()
        whole = np.concatenate(parts, axis=1)
        inverse = np.argsort(order)
        return np.asarray(self.objective(whole[:, inverse])).astype(np.float32).astype(np.float64)


def _parts(rows: int, points: int) -> int:
    at_once = max(FEW, math.ceil(2 * rows / points))
    return math.ceil(rows / at_once)


def _forwards(rows: int, lines: int, ends: int) -> int:
    counts = ((lines, POINTS), (ends, ENDS), (1, AGAIN))
    return sum(count * _parts(rows, len(points)) for count, points in counts)


def _rms(values: NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _jitter(lines: Losses) -> float:
    """Round-off between neighbouring points: the largest of the levels that show no curvature."""
    short, middle, long = (_rms(lines[:, at] @ FOURTH_DIFFERENCE) / ERROR_GAIN for at in LEVELS)
    # Exactly nothing on a shorter line is rounding, too: all its points fell on one value.
    if not 0 < CURVED * middle < long:
        return max(short, middle, long)
    return short if 0 < CURVED * short < middle else max(short, middle)

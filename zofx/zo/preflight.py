"""Pre-flight: can the ± gap be told from the round-off of this graph?

On each of a few directions, the five points θ + t ε z with t = −1, −½, 0, ½, 1 are scored in one
forward, then again with the rows of the batch in reverse order.

    gap      l(1) − l(−1)                                           the signal of a two-point step
    jitter   (l(−1) − 4 l(−½) + 6 l(0) − 4 l(½) + l(1)) / √70       round-off between near points
    order    (l − l reversed) / √2                                  round-off of equal problems
    bend     (gap(ε) − 2 gap(ε/2)) / gap(ε)                         0 where the loss is straight

The fourth difference of a smooth loss is O(ε⁴), and that of independent errors of variance σ² has
variance 70 σ²: what is left on so short a line is what the engine's rounding (or the quantization
of activations) adds. All are root mean squares over the directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.errors import UsageError
from zofx.zo.recipe import Objective
from zofx.zo.types import FloatArray, Key

if TYPE_CHECKING:  # zofx.runtime imports zofx.zo.types: at run time the arrow points one way
    from zofx.runtime import Batch, Session

Verdict: TypeAlias = Literal["good", "noisy", "lost", "bent"]
Losses: TypeAlias = NDArray[np.float64]

POINTS: Final = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
FOURTH_DIFFERENCE: Final = np.array([1.0, -4.0, 6.0, -4.0, 1.0])
GOOD_RATIO: Final = 10.0
LOST_RATIO: Final = 2.0
STRAIGHT: Final = 0.5

ADVICE: Final[dict[Verdict, str]] = {
    "good": "the gap stands clear of round-off",
    "noisy": "round-off is a visible part of every step: raise eps or use a larger batch",
    "lost": "steps would follow round-off, not the loss: raise eps, or keep more of the graph in "
    "float32",
    "bent": "the loss is far from straight within eps, so differences are no slopes: lower eps",
}


@dataclass(frozen=True)
class Preflight:
    """What was measured, in units of the loss; see the module for the formulas.

    Attributes:
        eps: that was tried.
        gap: signal, at ±ε.
        noise: the round-off of one loss: the larger of jitter and order.
        bend: relative departure from a straight line.
        verdict: "good", "noisy", "lost" or "bent".
    """

    eps: float
    gap: float
    noise: float
    bend: float
    verdict: Verdict

    @property
    def ratio(self) -> float:
        """Signal to noise of a two-point difference; infinite where no round-off was seen."""
        return self.gap / (np.sqrt(2.0) * self.noise) if self.noise > 0 else np.inf

    def __str__(self) -> str:
        return (
            f"{self.verdict}: at eps {self.eps:g} the ± gap is {self.gap:.3g}, the round-off "
            f"{self.noise:.3g} ({self.ratio:.3g} to 1), the bend {self.bend:.2f}; "
            f"{ADVICE[self.verdict]}"
        )


def preflight(
    session: "Session",
    batch: "Batch",
    objective: Objective,
    eps: float,
    seed: int = 0,
    directions: int = 4,
) -> Preflight:
    """Measure; θ is not moved.

    Args:
        session: at the point to start from.
        batch: one of the run's.
        objective: the run's.
        eps: the one to judge.
        seed: of the directions that are tried.
        directions: how many; each costs two forwards of five probes.

    Raises:
        UsageError: eps or directions is not positive.
    """
    if not eps > 0 or directions < 1:
        raise UsageError(f"preflight needs eps > 0 and directions >= 1, not {eps}, {directions}")
    keys = [Key(seed, 0, query) for query in range(directions)]
    reverse = slice(None, None, -1)
    backwards = replace(batch, **{name: rows[reverse] for name, rows in batch.named().items()})
    forward = _lines(session, batch, objective, eps, keys)
    again = _lines(session, backwards, lambda scores: objective(scores[:, reverse]), eps, keys)
    jitter = _rms(np.concatenate([forward, again]) @ FOURTH_DIFFERENCE) / np.sqrt(70.0)
    noise = max(jitter, _rms(forward - again) / np.sqrt(2.0))
    gap = _rms(forward[:, 4] - forward[:, 0])
    half = forward[:, 3] - forward[:, 1]
    bend = _rms(forward[:, 4] - forward[:, 0] - 2 * half) / gap if gap > 0 else 0.0
    return Preflight(eps, gap, noise, bend, _judge(gap, noise, bend))


def _lines(
    session: "Session", batch: "Batch", objective: Objective, eps: float, keys: Sequence[Key]
) -> Losses:
    """Losses at the five points of every direction, f64[directions, 5]."""
    matrix: FloatArray = (POINTS * eps).astype(np.float32)[:, None]
    lines = [objective(session.evaluate(batch, [key], matrix)) for key in keys]
    return np.array(lines, dtype=np.float64)


def _rms(values: NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _judge(gap: float, noise: float, bend: float) -> Verdict:
    ratio = gap / (np.sqrt(2.0) * noise) if noise > 0 else np.inf
    if gap == 0 or ratio < LOST_RATIO:
        return "lost"
    if ratio < GOOD_RATIO:
        return "noisy"
    return "good" if bend < STRAIGHT else "bent"

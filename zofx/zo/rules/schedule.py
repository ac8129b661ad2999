"""Schedules: step → value.

    value(step) = peak · (step + 1) / warmup                  while step < warmup
                  floor + (peak − floor) · shape(progress)    afterwards
    shape       : constant 1  ·  linear 1 − progress  ·  cosine (1 + cos(π · progress)) / 2

Progress runs from 0 at the end of the warm-up to 1 at `steps`, where it stays. A schedule is data:
a recipe's text holds it.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from zofx.errors import UsageError

SHAPES: Final[Mapping[str, Callable[[float], float]]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


@dataclass(frozen=True)
class Schedule:
    """A value per step, described by data.

    Attributes:
        shape: "constant", "linear" or "cosine".
        peak: the value after the warm-up.
        steps: when the decay ends; of no effect on "constant".
        warmup: steps of linear rise from peak / warmup to peak.
        floor: the value from `steps` on; of no effect on "constant".

    Example:
        >>> rate = Schedule("linear", peak=1.0, steps=10, warmup=2)
        >>> [rate(step) for step in (0, 1, 2, 6, 10, 99)]
        [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    shape: str
    peak: float
    steps: int = 0
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            near = difflib.get_close_matches(self.shape, SHAPES, n=1) or list(SHAPES)
            raise UsageError(
                f"there is no schedule '{self.shape}'; did you mean {' or '.join(near)}?"
            )
        if self.warmup < 0 or (self.shape != "constant" and self.steps <= self.warmup):
            raise UsageError(
                f"{self}: it needs 0 <= warmup < steps, so that there are steps left to decay over"
            )

    def __call__(self, step: int) -> float:
        """The value at a step counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.shape == "constant":
            return self.peak
        progress = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.floor + (self.peak - self.floor) * SHAPES[self.shape](progress)


def constant(value: float) -> Schedule:
    """The same value at every step: what zeroth-order fine-tuning mostly uses."""
    return Schedule("constant", value)

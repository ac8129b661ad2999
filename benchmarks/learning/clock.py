"""A training clock that stands still while a contestant is judged.

    start ─▶ step … step ─▶ mark: pause, accuracy on test, resume ─▶ …

A mark is due at the first step at or after each of the asked seconds, so all contestants are judged
at the same times of their own. What a contestant prepares in its process (loading aside) counts.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.step.turns import peak_bytes
from zofx.runs.evaluation import Evaluation


@dataclass
class Clock:
    """Training seconds so far, and the points that were printed.

    Attributes:
        marks: seconds at which the contestant is judged, ascending.
        judge: the accuracy on test at the present weights.
    """

    marks: Sequence[float]
    judge: Callable[[int], Evaluation]
    _spent: float = 0.0
    _since: float = field(default_factory=time.perf_counter)
    _next: int = 0
    _peak: int | None = None
    _last: tuple[int, int] | None = None

    @property
    def seconds(self) -> float:
        """Of training."""
        return self._spent + time.perf_counter() - self._since

    @property
    def done(self) -> bool:
        """Whether the last mark was made."""
        return self._next == len(self.marks)

    def tick(self, step: int, row_forwards: int) -> None:
        """Call after every step: judges the contestant if a mark is due, off the clock."""
        self._last = (step, row_forwards)
        if not self.done and self.seconds >= self.marks[self._next]:
            self._judge()

    def finish(self) -> None:
        """Call after the last step: judges it, unless a mark was due there."""
        if self._last is not None:
            self._judge()

    def _judge(self) -> None:
        assert self._last is not None
        (step, row_forwards), self._last = self._last, None
        self._spent = self.seconds
        # Judging may take more memory than training: the peak is read before it.
        self._peak = self._peak or peak_bytes()
        while not self.done and self.marks[self._next] <= self._spent:
            self._next += 1
        judged = self.judge(step).to_dict()
        point = judged | {
            "step": step, "seconds": self._spent, "row_forwards": row_forwards,
            "peak_bytes": self._peak, "judging_seconds": judged.get("seconds"),
        }  # fmt: skip
        print(json.dumps(point), flush=True)
        self._since = time.perf_counter()


def last_point(lines: str) -> list[dict[str, Any]]:
    """The points that a contestant printed."""
    return [json.loads(line) for line in lines.splitlines() if line.startswith("{")]

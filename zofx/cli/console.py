"""What a person at the command line sees while something runs.

    results            stdout    text or JSON, nothing else
    progress, errors   stderr    a bar on a terminal, a line now and then elsewhere

Nothing is shown for what takes less than two seconds.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from zofx.runs.evaluation import Evaluation
    from zofx.runs.metrics_log import StepMetrics

QUIET: Final = 2.0
"""Seconds before anything is shown."""

EVERY: Final = 10.0
"""Seconds between two plain lines."""


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere; use it as a context manager.

    Args:
        what: is being done.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._next = time.monotonic() + QUIET

    def __call__(self, done: int, total: int, note: str = "", what: str | None = None) -> None:
        """So much is done; `what` renames the thing."""
        self._what = what or self._what
        if self._bar is not None:
            said = {"description": self._what, "completed": done, "total": total}
            self._bar.update(self._bar.task_ids[0], **said, note=note)
        elif time.monotonic() >= self._next:
            if sys.stderr.isatty():
                self._open()
                self(done, total, note)
            else:
                self._next = time.monotonic() + EVERY
                say(f"{self._what} {done}/{total}  {note}".rstrip())

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.add_task(self._what, note="")
        self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class RunProgress:
    """Shows a training run: an observer.

    Args:
        bar: where steps are shown.
        steps: how many there will be.
    """

    def __init__(self, bar: Progress, steps: int) -> None:
        self._bar = bar
        self._steps = steps

    def step(self, metrics: "StepMetrics") -> None:
        """Move the bar."""
        note = f"loss {metrics.loss:.4f}, {metrics.tokens_per_second:,.0f} tokens/s"
        self._bar(metrics.step + 1, self._steps, note)

    def evaluation(self, step: int, evaluation: "Evaluation") -> None:
        """A line that stays."""
        say(f"step {step:>{len(str(self._steps))}}  dev {evaluation}")

    def close(self) -> None:
        """The bar belongs to the caller."""


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C ask and the second one insist.

    Yields:
        Whether it was asked.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("finishing this step; Ctrl-C again stops at once (no finished step is lost)")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def columns(rows: Sequence[tuple[str, ...]], indent: str = "") -> str:
    """Rows as aligned text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def size(count: int) -> str:
    """Bytes for people."""
    for unit, worth in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= worth:
            return f"{count / worth:.1f} {unit}"
    return f"{count} B"

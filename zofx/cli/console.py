"""What a person at the command line sees while something runs.

    results            stdout    text or JSON, nothing else
    progress, errors   stderr    a bar on a terminal; elsewhere, lines with the time of day

Nothing is shown for what takes less than two seconds.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from zofx.api.callbacks import Callback

if TYPE_CHECKING:
    from zofx.runs.evaluation import Evaluation
    from zofx.runs.metrics_log import StepMetrics
    from zofx.runs.run_config import RunConfig

QUIET: Final = 2.0
"""Seconds before anything is shown."""

EVERY: Final = 10.0
"""Seconds between two plain lines."""


def say(text: str) -> None:
    """A line of progress; where it goes to a log, with the time."""
    print(text if sys.stderr.isatty() else f"{stamp()}  {text}", file=sys.stderr, flush=True)


def stamp() -> str:
    """Now, as a log has it."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere; use it as a context manager.

    Args:
        what: is being done.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._next = time.monotonic() + QUIET
        self._pace: tuple[str, int, float] = ("", 0, 0.0)

    def __call__(self, done: int, total: int, note: str = "", what: str | None = None) -> None:
        """So much is done; `what` renames the thing."""
        self._what = what or self._what
        if self._pace[0] != self._what or done < self._pace[1]:
            self._pace = (self._what, done, time.monotonic())
        if self._bar is not None:
            progress = {"description": self._what, "completed": done, "total": total}
            self._bar.update(self._bar.task_ids[0], **progress, note=note)
        elif time.monotonic() >= self._next:
            if sys.stderr.isatty():
                self._open()
                self(done, total, note)
            else:
                self._next = time.monotonic() + EVERY
                left = self._left(done, total)
                say(f"{self._what} {done}/{total}  {left}{note}".rstrip())

    def _left(self, done: int, total: int) -> str:
        """The time that is left at the pace since the first call: a resumed run begins late."""
        _, first, began = self._pace
        if not first < done < total:
            return ""
        seconds = (time.monotonic() - began) * (total - done) / (done - first)
        return f"{timedelta(seconds=round(seconds))} left  "

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


class RunProgress(Callback):
    """Shows a run: messages and evaluations as lines, steps on a bar.

    Args:
        bar: where steps are shown.
    """

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._steps = 0

    def on_start(self, config: "RunConfig", steps: int) -> None:
        """There will be so many steps."""
        self._steps = steps

    def on_message(self, text: str) -> None:
        """A line that stays."""
        say(text)

    def on_progress(self, what: str, done: int, total: int) -> None:
        """The bar, of something else."""
        self._bar(done, total, what=what)

    def on_step(self, metrics: "StepMetrics") -> None:
        """Move the bar."""
        note = f"loss {metrics.loss:.4f}, {metrics.tokens_per_second:,.0f} tokens/s"
        self._bar(metrics.step + 1, self._steps, note, what="tune")

    def on_evaluation(self, step: int, evaluation: "Evaluation") -> None:
        """A line that stays."""
        say(f"step {step:>{len(str(self._steps))}}  dev {evaluation}")


class Stop:
    """Whether a signal asked to stop.

    Attributes:
        signal: the number of the first one; None before it.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Whether it was asked."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """As shells have it: 128 and the number of the signal."""
        return 128 + (self.signal or signal.SIGINT)

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Take a signal.

        Raises:
            KeyboardInterrupt: it is the second one.
        """
        if self():
            raise KeyboardInterrupt
        self.signal = number
        # A terminal that hung up takes no more lines.
        with contextlib.suppress(OSError):
            say("finishing this step; Ctrl-C again stops at once (no finished step is lost)")


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP ask and the second one insist.

    Yields:
        Whether it was asked.
    """
    stop = Stop()
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # One that is ignored stays so: `nohup` starts programs with SIGHUP ignored.
    before = {
        n: signal.signal(n, stop.ask) for n in numbers if signal.getsignal(n) != signal.SIG_IGN
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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

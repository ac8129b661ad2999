"""The child's end of the pipe: one line asks for a step, one line says how long it took.

    parent ─▶ child   JOB | "step" | end of file
    child  ─▶ parent  {"ready": …} | {"seconds": …, "losses": …, …} | {"error": …}

A contestant calls `wait`, takes a step, calls `done`; the time is that between the two. Standard
output belongs to the protocol: what anything prints goes to standard error.
"""

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Self

from zofx.runs.metrics_log import peak_memory

STATUS: Final = Path("/proc/self/status")


class Turns:
    """A contestant's turns.

    Args:
        asked: lines of the parent.
        answers: lines to it.
    """

    def __init__(self, asked: IO[str], answers: IO[str]) -> None:
        self._asked = asked
        self._answers = answers
        self._ready: dict[str, Any] | None = {}
        self._began = 0.0
        self._since = (time.perf_counter(), time.process_time())
        self._idle = (0.0, 0.0)

    @classmethod
    def claim(cls) -> Self:
        """Take standard input and output for the protocol."""
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        return cls(sys.stdin, answers)

    def job(self) -> str:
        """The first line.

        Raises:
            SystemExit: there is none.
        """
        return self._read()

    def introduce(self, **message: Any) -> None:
        """What "ready" will say; call it before the first turn."""
        assert self._ready is not None, "a turn was taken already"
        self._ready |= message

    def wait(self) -> None:
        """Return when it is this contestant's turn.

        Raises:
            SystemExit: there will be no more.
        """
        if self._ready is not None:
            self._say({"ready": self._ready})
            self._ready = None
            self._since = time.perf_counter(), time.process_time()
        self._read()
        now, used = time.perf_counter(), time.process_time()
        self._idle = now - self._since[0], used - self._since[1]
        self._began = time.perf_counter()

    def done(self, losses: Sequence[float], shares: Mapping[str, float] | None = None) -> None:
        """The step is over.

        Args:
            losses: what it evaluated, or their mean.
            shares: seconds of its parts, by name.
        """
        seconds = time.perf_counter() - self._began
        waited, used = self._idle
        self._say(
            {
                "seconds": seconds,
                "losses": [float(loss) for loss in losses],
                "shares": dict(shares or {}),
                "peak_bytes": peak_bytes(),
                "waited": waited,
                "cpu_while_waiting": used,
            }
        )
        self._since = time.perf_counter(), time.process_time()

    def fail(self, error: BaseException) -> None:
        """Say what went wrong."""
        self._say({"error": f"{type(error).__name__}: {error}"})

    def _read(self) -> str:
        line = self._asked.readline()
        if not line:
            raise SystemExit(0)
        return line

    def _say(self, message: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()


def peak_bytes() -> int:
    """The largest resident set of this process so far.

    Linux: VmHWM, which begins with the program; what `getrusage` says may be its parent's.
    """
    return status_bytes("VmHWM") or int((peak_memory() or 0) * 2**20)


def status_bytes(name: str) -> int:
    """A size of /proc/self/status; 0 where there is none."""
    text = STATUS.read_text() if STATUS.is_file() else ""
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0

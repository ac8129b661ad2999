"""A case in a process of its own: what crashes, hangs or raises there is an outcome here.

    case ─fork─▶ "harmless" | "refused" (a ZofxError) | "lost: …" (anything else)

The parent has imported the engines and started none of their threads, so a fork is safe and cheap.
"""

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from zofx.errors import ZofxError

HARMLESS, REFUSED, LOST = 0, 10, 11
SECONDS = 120.0


@dataclass
class Row:
    """What came of a campaign.

    Attributes:
        name: of the campaign.
        tried: cases.
        harmless: cases that ended well.
        refused: cases that ended in a clear error.
        lost: what went wrong in each of the others.
    """

    name: str
    tried: int = 0
    harmless: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)

    def count(self, outcome: str, what: str) -> None:
        """Add a case."""
        self.tried += 1
        if outcome == "harmless":
            self.harmless += 1
        elif outcome == "refused":
            self.refused += 1
        else:
            self.lost.append(f"{what}: {outcome}")
            print(f"  LOST {what}: {outcome}", file=sys.stderr, flush=True)


def start(action: Callable[[], object], log: str, file_limit: int | None = None) -> int:
    """Run an action in a child; returns its process id."""
    child = os.fork()
    if child:
        return child
    code = LOST
    try:
        with open(log, "w", encoding="utf-8") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            code = _outcome(action)
    finally:
        os._exit(code)


def _outcome(action: Callable[[], object]) -> int:
    try:
        action()
    except (ZofxError, MemoryError) as error:
        with contextlib.suppress(OSError):  # the log is on the full disk, too
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return REFUSED
    except BaseException:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return LOST
    return HARMLESS


def wait(child: int, log: str, seconds: float = SECONDS) -> str:
    """How a child ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return _summary(status, log)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"hangs for {seconds:.0f} s"


def _summary(status: int, log: str) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    code = os.WEXITSTATUS(status)
    if code in (HARMLESS, REFUSED):
        return "harmless" if code == HARMLESS else "refused"
    with open(log, encoding="utf-8", errors="replace") as lines:
        return " | ".join(lines.read().strip().splitlines()[-2:])[-300:]


def run(action: Callable[[], object], log: str, file_limit: int | None = None) -> str:
    """Run an action in a child to its end."""
    return wait(start(action, log, file_limit), log)


def kill(child: int) -> bool:
    """End a child at once; returns whether it was still running."""
    pid, _ = os.waitpid(child, os.WNOHANG)
    if pid:
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True

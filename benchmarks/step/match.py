"""A case, measured: a process per contestant, all alive, asked in turn for one step.

    start A, B, C …     one after the other, each until it is ready
    round               A B C …      one step each, a pause between, so that no one still runs
    result              seconds by round; the first rounds warm up and do not count

What slows the machine for a while slows everyone's step of that round. A child that waits reads
from a pipe; how much processor time it took meanwhile is recorded.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from benchmarks.machine import ROOT
from benchmarks.step.job import Job
from zofx.cli.console import say
from zofx.errors import ZofxError

Reply: TypeAlias = dict[str, Any]

PAUSE: Final = 0.25
"""Seconds between two steps: engines' threads look for more work for some milliseconds."""
STOP_WITHIN: Final = 10.0
COMMAND: Final = (sys.executable, "-m", "benchmarks.step.child")
"""What runs for a contestant."""
TAIL: Final = 1500


class ContestantError(ZofxError):
    """A contestant cannot take a step; the others can."""


@dataclass(frozen=True)
class Protocol:
    """How a case is measured.

    Attributes:
        rounds: that count.
        warm_up: before them.
    """

    rounds: int
    warm_up: int

    @property
    def steps(self) -> int:
        """Of every contestant."""
        return self.warm_up + self.rounds


class Child:
    """One contestant's process; a context manager.

    Args:
        job: its arguments.
        log: the file its standard error goes to.
        command: what runs.
    """

    def __init__(
        self,
        job: Job,
        log: Path,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.job = job
        self.label = job.contestant.label
        self._log = log
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
                env=_environment(job.threads),
            )  # fmt: skip

    def begin(self) -> Reply:
        """Load; returns what it says of itself.

        Raises:
            ContestantError: it cannot.
        """
        ready: Reply = self._ask(self.job.to_json(), "ready")["ready"]
        return ready

    def step(self) -> Reply:
        """Take one step.

        Raises:
            ContestantError: it cannot.
        """
        return self._ask("step", "seconds")

    def _ask(self, line: str, expected: str) -> Reply:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = self._process.stdout.readline()
        if not answer:
            raise self._ended()
        reply: Reply = json.loads(answer)
        if "error" in reply:
            raise ContestantError(f"{self.label}: {reply['error']} (its log: {self._log})")
        if expected not in reply:
            raise ContestantError(
                f"{self.label} answers {answer.strip()!r} where {expected} is due"
            )
        return reply

    def _ended(self) -> ContestantError:
        """It is gone without a word."""
        code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        why = "; there may have been too little memory" if code == -9 else ""
        tail = self._log.read_text(errors="replace")[-TAIL:].strip()
        return ContestantError(f"{self.label} {how}{why}; its log, {self._log}, ends:\n{tail}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, politely first."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measured(
    jobs: Sequence[Job], protocol: Protocol, folder: Path, command: Sequence[str] = COMMAND
) -> tuple[list[Reply], list[Reply]]:
    """All contestants of a case.

    Args:
        jobs: of them.
        protocol: how.
        folder: for their logs.
        command: what runs for each.

    Returns:
        A row for each that took all its steps, and why the others did not.
    """
    failed: list[Reply] = []
    with ExitStack() as stack:
        playing: list[tuple[Child, Reply, list[Reply]]] = []
        for number, job in enumerate(jobs):
            say(f"  loading {job.contestant.label}")
            child = stack.enter_context(Child(job, folder / f"{number}.log", command))
            if (ready := _tried(child, child.begin, failed)) is not None:
                playing.append((child, ready, []))
        for number in range(protocol.steps):
            for child, _, steps in list(playing):
                if (reply := _tried(child, child.step, failed)) is not None:
                    steps.append(reply)
                time.sleep(PAUSE)
            playing = [p for p in playing if len(p[2]) == number + 1]
            say(f"  round {number + 1} of {protocol.steps}")
    rows = [row(child.job, ready, steps, protocol.warm_up) for child, ready, steps in playing]
    return rows, failed


def _tried(child: Child, ask: Any, failed: list[Reply]) -> Reply | None:
    """An answer, or a note that there is none."""
    try:
        answer: Reply = ask()
    except ContestantError as error:
        say(f"  {error}")
        failed.append({"contestant": child.label, "error": str(error)})
        return None
    return answer


def row(job: Job, ready: Reply, steps: Sequence[Reply], warm_up: int) -> Reply:
    """What is recorded of a contestant."""
    counted = steps[warm_up:]
    seconds = [step["seconds"] for step in counted]
    parts = sorted({name for step in counted for name in step["shares"]})
    waited = sum(step["waited"] for step in counted)
    return {
        "contestant": job.contestant.label,
        **asdict(job.contestant),
        "made_by": ready.get("made_by"),
        "stand_in": ready.get("made_by") == "",
        **spread(seconds),
        "seconds": [round(value, 6) for value in seconds],
        "shares": {
            name: round(
                median(step["shares"].get(name, 0.0) / step["seconds"] for step in counted), 6
            )
            for name in parts
        },
        "first_loss": sum(steps[0]["losses"]) / len(steps[0]["losses"]),
        "peak_bytes": steps[-1]["peak_bytes"],
        "before_bytes": ready["before_bytes"],
        "busy_while_waiting": round(
            sum(step["cpu_while_waiting"] for step in counted) / max(waited, 1e-9), 4
        ),
    }


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, least, and the quartiles."""
    if len(seconds) < 2:
        low = high = seconds[0]
    else:
        low, _, high = quantiles(seconds, n=4, method="inclusive")
    return {
        "median": round(median(seconds), 6),
        "min": round(min(seconds), 6),
        "quartiles": [round(low, 6), round(high, 6)],
    }


def _environment(threads: int) -> Mapping[str, str]:
    """The same threads for every engine and every library beneath it."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip

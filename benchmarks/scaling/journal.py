"""What a step costs beside its forward, as a run goes on: bytes and seconds at step 10 and 5,000.

    long run     N steps of `zofx.runs.tune.train`        bytes of journal.bin after every step
    in turns     a new run, its steps from 10 on     seconds of each part of a step
                 the long one, as many steps more    the same
    append       record → file                       `JournalWriter.append`, without
    disk         file → disk                         `JournalWriter.sync`, which it ends in
    rest         encode, move, metrics, …            all else but the forward

The model is the smallest of the sweeps and a batch one short row: none of it depends on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final, TypeAlias
from unittest.mock import patch

from benchmarks.step.clock import Clock
from benchmarks.step.contestants import prepared
from benchmarks.step.job import Job
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import StepMetrics
from zofx.runs.prepare import Prepared
from zofx.runs.tune import start, train
from zofx.zo.journal.writer import JournalWriter

Row: TypeAlias = dict[str, Any]

EARLY: Final = 10
"""Steps of a new run before it counts; as many warm up the long one."""
CHUNK: Final = 100
"""Steps of each run per round."""
SLOWER: Final = 1.25
"""What a late step may take, in early ones."""
WINDOWS: Final = 10
PARTS: Final = ("append", "disk", "rest")


@dataclass(frozen=True)
class Step:
    """What one step took.

    Attributes:
        append: seconds of writing the journal's record.
        disk: of forcing it to the disk.
        rest: of everything else since the step before, but the forward.
        size: bytes of the journal after it.
    """

    append: float
    disk: float
    rest: float
    size: int


@dataclass
class Watch:
    """An observer and a stop of `train`: so many steps, each taken apart.

    Attributes:
        journal: the run's.
        count: of steps.
        clock: of "append", "disk" and "forward".
        steps: so far.
    """

    journal: Path
    count: int
    clock: Clock
    steps: list[Step] = field(default_factory=list)
    _since: float = 0.0

    def __call__(self) -> bool:
        """Whether there were enough."""
        if not self.steps:  # what precedes is the reading of the journal
            self._begin()
        return len(self.steps) >= self.count

    def step(self, metrics: StepMetrics) -> None:
        """One is over."""
        whole, parts = perf_counter() - self._since, self.clock.take()
        size, rest = self.journal.stat().st_size, whole - sum(parts.values())
        self.steps.append(Step(parts["append"], parts["disk"], rest, size))
        self._begin()

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """There are no dev examples."""

    def close(self) -> None:
        """No file is open."""

    def _begin(self) -> None:
        self.clock.take()
        self._since = perf_counter()


def measure(job: Job, folder: Path, steps: int, rounds: int) -> Row:
    """Make the long run, then measure both in turns.

    Args:
        job: the runs'.
        folder: for them.
        steps: of the long run before it counts.
        rounds: how many.

    Returns:
        Every size of a record there was, seconds by part, and the windows of the long run.
    """
    fresh = prepared(job, job.contestant.runtime)
    long = start(fresh, folder / "long")
    first = go(long, steps)
    records = _records(first)
    seconds: dict[str, list[Row]] = {"early": [], "late": []}
    for number in range(rounds):
        runs = {"early": start(fresh, folder / f"early-{number}"), "late": long}
        for name, run in runs.items():
            taken = go(run, EARLY + CHUNK)
            records |= _records(taken)
            seconds[name].append(_medians(taken[EARLY:]))
    return {
        "steps": steps, "chunk": CHUNK, "record_bytes": sorted(records), **seconds,
        "windows": _windows(first),
    }  # fmt: skip


def go(run: Prepared, count: int) -> list[Step]:
    """So many steps more of a run, from wherever its journal ends."""
    assert run.run is not None
    clock, session = Clock(), run.session()
    clock.watch(session, "evaluate", "forward")
    append = clock.timed(JournalWriter.append, "append")
    sync = clock.timed(JournalWriter.sync, "disk")
    watch = Watch(run.run.journal_path, count, clock)
    with patch.multiple(JournalWriter, append=append, sync=sync):
        train(run, session, [watch], watch)
    session.close()
    return watch.steps


def bars(measured: Row) -> list[Row]:
    """What is claimed, and whether it is kept: ratios are of one round, their median counts."""
    sizes = len(measured["record_bytes"])
    result = [{"bar": "sizes of a record: 1", "value": sizes, "kept": sizes == 1}]
    for part in PARTS:
        pairs = zip(measured["late"], measured["early"], strict=True)
        ratio = median(late[part] / early[part] for late, early in pairs)
        text = f"{part}, step {measured['steps']:,} / step {EARLY} ≤ {SLOWER:g}"
        result.append({"bar": text, "value": ratio, "kept": ratio <= SLOWER})
    return result


def _records(steps: Sequence[Step]) -> set[int]:
    """Bytes that steps added to the journal."""
    return {after.size - before.size for before, after in pairwise(steps)}


def _medians(steps: Sequence[Step]) -> Row:
    return {part: median(getattr(step, part) for step in steps) for part in PARTS}


def _windows(steps: Sequence[Step]) -> list[Row]:
    """Medians over tenths of a run."""
    length = max(1, len(steps) // WINDOWS)
    starts = range(0, length * WINDOWS, length)
    parts = [(begin, steps[begin : begin + length]) for begin in starts]
    return [{"from": begin, **_medians(part)} for begin, part in parts if part]

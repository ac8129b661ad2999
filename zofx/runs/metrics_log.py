"""The records of a run: every step and every evaluation, to any number of observers.

    metrics.jsonl    one line per step        always
    trackers         the same scalars         where asked (`zofx.runs.trackers`)

Observers see a step after it counts; a run does not depend on what they do.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from zofx.runs import jsonl
from zofx.runs.evaluation import Evaluation
from zofx.zo.driver import StepLog


@dataclass(frozen=True)
class StepMetrics:
    """One step.

    Attributes:
        step: of the run, from 0.
        loss: the estimator's report, in the objective's units.
        learning_rate: as used.
        seconds: wall clock of encoding, forward and update.
        tokens: of the batch, padding left out; every probe reads all of them.
        tokens_per_second: tokens / seconds.
        memory_mib: the largest resident set of the process so far; None where unknown.
        workers: rows × probes per second of each worker of a fleet; None without one.
    """

    step: int
    loss: float
    learning_rate: float
    seconds: float
    tokens: int
    tokens_per_second: float
    memory_mib: float | None
    workers: Mapping[str, float] | None = None


class Observer(Protocol):
    """Follows a run."""

    def step(self, metrics: StepMetrics) -> None:
        """A step was made."""
        ...

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """θ after so many steps was evaluated on dev."""
        ...

    def close(self) -> None:
        """The run is over, or was interrupted."""
        ...


class JsonlLog:
    """metrics.jsonl.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def step(self, metrics: StepMetrics) -> None:
        """One line."""
        row = asdict(metrics)
        if metrics.workers is None:
            del row["workers"]
        jsonl.append(self._path, row)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Nothing: evaluations have a file of their own, which is part of the run."""

    def close(self) -> None:
        """No file is open."""


def metrics_again(log: StepLog) -> dict[str, Any]:
    """What the journal has of a step whose line was lost; nobody measured its time again."""
    known = {"step": log.step, "loss": log.loss, "learning_rate": log.learning_rate}
    names = [field.name for field in fields(StepMetrics) if field.name != "workers"]
    return {**dict.fromkeys(names), **known}


def peak_memory() -> float | None:
    """The largest resident set of this process so far, MiB; None where it is unknown."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Windows
        return None
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * _RSS_UNIT / 2**20, 1)


# getrusage counts kilobytes on Linux and bytes on macOS.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

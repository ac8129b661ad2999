"""The records of a run: every step and every evaluation, to any number of observers.

    metrics.jsonl    one line per step                       always
    TensorBoard      the same scalars as event files         where asked, through tensorboardX

Observers see a step after it counts; a run does not depend on what they do.
"""

import importlib
import sys
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from zofx.errors import UsageError
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
    """

    step: int
    loss: float
    learning_rate: float
    seconds: float
    tokens: int
    tokens_per_second: float
    memory_mib: float | None


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
        jsonl.append(self._path, asdict(metrics))

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Nothing: evaluations have a file of their own, which is part of the run."""

    def close(self) -> None:
        """No file is open."""


class TensorBoardLog:
    """TensorBoard event files, written without TensorFlow and without torch.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        self._writer: Any = importlib.import_module("tensorboardX").SummaryWriter(str(folder))

    def step(self, metrics: StepMetrics) -> None:
        """Every scalar of the step."""
        for name, value in asdict(metrics).items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"train/{name}", value, metrics.step)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Accuracy and loss."""
        self._writer.add_scalar("dev/loss", evaluation.loss, step)
        if evaluation.accuracy is not None:
            self._writer.add_scalar("dev/accuracy", evaluation.accuracy.value, step)

    def close(self) -> None:
        """Flush."""
        self._writer.close()


def require_tensorboard() -> None:
    """Check that event files can be written.

    Raises:
        UsageError: tensorboardX is not installed.
    """
    if find_spec("tensorboardX") is None:
        raise UsageError(
            "--tensorboard needs the package tensorboardX; run `pip install 'zofx[tensorboard]'`"
        )


def metrics_again(log: StepLog) -> dict[str, Any]:
    """What the journal has of a step whose line was lost; nobody measured its time again."""
    known = {"step": log.step, "loss": log.loss, "learning_rate": log.learning_rate}
    return {**{field.name: None for field in fields(StepMetrics)}, **known}


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

"""Trackers that follow a run: the scalars of every step and evaluation, where `--report-to` asks.

    csv            RUN/metrics.csv and RUN/evals.csv          for spreadsheets
    tensorboard    RUN/tensorboard, event files               through tensorboardX: no TensorFlow
    trackio        a local dashboard (`trackio show`)         the same calls as wandb's
    wandb          a run of the project "zofx"                WANDB_PROJECT, WANDB_MODE, … as ever

A tracker is told what has happened already; no bit of a run depends on it. A run that goes on keeps
its own: rows of steps that are not in the journal are dropped from the files.
"""

import csv
import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from zofx.errors import UsageError
from zofx.files.atomic import anything, new_file
from zofx.options import require_known
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import Observer, StepMetrics
from zofx.runs.run_config import RunConfig

METRICS_CSV: Final = "metrics.csv"
EVALS_CSV: Final = "evals.csv"
TENSORBOARD: Final = "tensorboard"
PROJECT: Final = "zofx"
STEP_FIELDS: Final = tuple(name for name in StepMetrics.__dataclass_fields__ if name != "step")
DEV_FIELDS: Final = ("loss", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "f1")


def of_step(metrics: StepMetrics) -> dict[str, float]:
    """The scalars of a step; what is unknown is left out."""
    return {n: v for n, v in asdict(metrics).items() if n != "step" and v is not None}


def of_evaluation(evaluation: Evaluation) -> dict[str, float]:
    """The scalars of an evaluation, the ends of its 95 % interval among them."""
    scalars = {"loss": evaluation.loss}
    if evaluation.accuracy is not None:
        low, high = evaluation.accuracy.interval
        scalars |= {"accuracy": evaluation.accuracy.value}
        scalars |= {"accuracy_low": low, "accuracy_high": high}
    if evaluation.classes is not None:
        scalars["macro_f1"] = evaluation.classes.macro_f1
    if evaluation.text is not None:
        scalars["f1"] = evaluation.text.f1
    return scalars


class CsvLog:
    """Two tables.

    Args:
        folder: of the run.
        config: of the run.
        made: how many steps the run has made; later rows are of another past.
    """

    def __init__(self, folder: Path, config: RunConfig, made: int) -> None:
        self._metrics = folder / METRICS_CSV
        self._evals = folder / EVALS_CSV
        _kept(self._metrics, ("step", *STEP_FIELDS), lambda step: step < made)
        _kept(self._evals, ("step", *DEV_FIELDS), lambda step: step <= made)

    def step(self, metrics: StepMetrics) -> None:
        """A row."""
        _append(self._metrics, metrics.step, STEP_FIELDS, of_step(metrics))

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """A row of the other table."""
        _append(self._evals, step, DEV_FIELDS, of_evaluation(evaluation))

    def close(self) -> None:
        """No file is open."""


class TensorBoardLog:
    """Event files, written without TensorFlow and without torch.

    Args:
        folder: of the run.
        config: of the run.
        made: how many steps it has made.
    """

    def __init__(self, folder: Path, config: RunConfig, made: int) -> None:
        writer = importlib.import_module("tensorboardX").SummaryWriter
        self._writer: Any = writer(str(folder / TENSORBOARD), purge_step=made)

    def step(self, metrics: StepMetrics) -> None:
        """Every scalar of the step."""
        self._add("train", of_step(metrics), metrics.step)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Every scalar of the evaluation."""
        self._add("dev", of_evaluation(evaluation), step)

    def _add(self, group: str, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class _Hosted:
    """A tracker with wandb's calls: init, log, finish.

    Args:
        module: wandb, or one that has the same calls.
        folder: of the run; its name is the run's.
        config: of the run.
        more: arguments of init.
    """

    def __init__(self, module: Any, folder: Path, config: RunConfig, **more: Any) -> None:
        self._module = module
        options = {n: v for n, v in config.options.items() if v is not None}
        about = {**options, "artifact": config.artifact}
        self._run: Any = self._module.init(name=folder.resolve().name, config=about, **more)

    def step(self, metrics: StepMetrics) -> None:
        """Every scalar of the step."""
        self._log("train", of_step(metrics), metrics.step)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Every scalar of the evaluation."""
        self._log("dev", of_evaluation(evaluation), step)

    def _log(self, group: str, scalars: Mapping[str, float], step: int) -> None:
        self._module.log({f"{group}/{n}": v for n, v in scalars.items()} | {"step": step})

    def close(self) -> None:
        """Tell it that the run is over."""
        self._module.finish()


class WandbLog(_Hosted):
    """Weights & Biases; `step` is the axis of all metrics, so that no order is asked for.

    Args:
        folder: of the run.
        config: of the run.
        made: how many steps it has made.
    """

    def __init__(self, folder: Path, config: RunConfig, made: int) -> None:
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        super().__init__(
            importlib.import_module("wandb"), folder, config, project=project, dir=str(folder)
        )
        for group in ("train", "dev"):
            self._run.define_metric(f"{group}/*", step_metric="step")


class TrackioLog(_Hosted):
    """Trackio, a local dashboard.

    Args:
        folder: of the run.
        config: of the run.
        made: how many steps it has made.
    """

    def __init__(self, folder: Path, config: RunConfig, made: int) -> None:
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        super().__init__(importlib.import_module("trackio"), folder, config, project=project)


TRACKERS: Final[Mapping[str, Callable[[Path, RunConfig, int], Observer]]] = {
    "csv": CsvLog,
    "tensorboard": TensorBoardLog,
    "trackio": TrackioLog,
    "wandb": WandbLog,
}
PACKAGES: Final = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb"}


def require_trackers(names: Iterable[str]) -> None:
    """Check that these trackers are there.

    Raises:
        UsageError: there is no such tracker, or its package is not installed.
    """
    for name in names:
        require_known(name, TRACKERS, "tracker")
        package = PACKAGES.get(name)
        if package is not None and find_spec(package) is None:
            raise UsageError(
                f"--report-to {name} needs the package {package}; run `pip install 'zofx[{name}]'`"
            )


def _kept(path: Path, head: tuple[str, ...], keep: Callable[[int], bool]) -> None:
    """A table with this head, and the rows of these steps that it had before."""
    rows: list[list[str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            _, *rows = csv.reader(file)
    rows = [row for row in rows if keep(int(row[0]))]
    with (
        new_file(path, anything, cache=True) as beside,
        beside.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows([head, *rows])


def _append(path: Path, step: int, names: tuple[str, ...], scalars: Mapping[str, float]) -> None:
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([step, *(scalars.get(name, "") for name in names)])

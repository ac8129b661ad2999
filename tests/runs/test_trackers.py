"""Trackers get every scalar once, in files of their own or by the calls of their packages."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import zofx
from zofx.errors import UsageError
from zofx.runs import jsonl
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import StepMetrics
from zofx.runs.run_config import RunConfig
from zofx.runs.trackers import PACKAGES, TRACKERS, require_trackers
from zofx.tasks.metrics import Accuracy

STEP = StepMetrics(3, 0.5, 1e-3, 0.25, 64, 256.0, None)
JUDGED = Evaluation(Accuracy(5, 10), 0.75, "cross-entropy", 10, 0.1)
LOW, HIGH = JUDGED.accuracy.interval if JUDGED.accuracy else (0.0, 0.0)
TRAIN = {
    "train/loss": 0.5, "train/learning_rate": 1e-3, "train/seconds": 0.25, "train/tokens": 64,
    "train/tokens_per_second": 256.0,
}  # fmt: skip
DEV = {
    "dev/loss": 0.75, "dev/accuracy": 0.5, "dev/accuracy_low": LOW, "dev/accuracy_high": HIGH,
}  # fmt: skip
SHORT: dict[str, Any] = {"batch_size": 4, "lr": 0.03, "eps": 0.01, "threads": 1}


@pytest.fixture
def run(artifact: Path, mood: Path, tmp_path: Path) -> zofx.Run:
    """Four steps, tables beside."""
    return zofx.load(artifact).tune(
        mood, out=tmp_path / "run", steps=4, schedule="constant", eval_every=2, report_to=["csv"],
        preflight=False, runtime="ort", **SHORT,
    )  # fmt: skip


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_are_the_log_of_the_run(run: zofx.Run) -> None:
    """A row per step and per evaluation; a run that goes on adds to them and repeats none."""
    run.resume(steps=6, report_to=["csv"])
    rows = table(run.path / "metrics.csv")
    logged = jsonl.read(run.path / "metrics.jsonl")
    assert [(int(r["step"]), float(r["loss"])) for r in rows] == [
        (row["step"], row["loss"]) for row in logged
    ]
    evals = table(run.path / "evals.csv")
    assert [int(row["step"]) for row in evals] == list(run.evaluations)
    last = run.evaluations[6]
    assert last.accuracy is not None
    assert float(evals[-1]["accuracy_low"]) == last.accuracy.interval[0]


def test_rows_of_another_past_are_dropped(run: zofx.Run) -> None:
    """A journal that lost its end: what it no longer has is no longer in the tables."""
    TRACKERS["csv"](run.path, run.config, 2)
    assert [row["step"] for row in table(run.path / "metrics.csv")] == ["0", "1"]
    assert [row["step"] for row in table(run.path / "evals.csv")] == ["0", "2"]


class Calls:
    """Writes down what a package is called with."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def init(self, **given: Any) -> "Calls":
        self.made.append(("init", given["project"], given["name"], given["config"]["steps"]))
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.made.append((name, step_metric))

    def log(self, scalars: dict[str, float]) -> None:
        self.made.append(scalars)

    def finish(self) -> None:
        self.made.append("finish")

    def SummaryWriter(self, folder: str, purge_step: int) -> "Calls":  # noqa: N802
        self.made.append((Path(folder).name, purge_step))
        return self

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.made.append((name, value, step))

    def close(self) -> None:
        self.made.append("finish")


@pytest.fixture
def config(run: zofx.Run) -> RunConfig:
    return run.config


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_packages_are_called_as_they_are_documented(
    name: str, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every scalar of a step and of an evaluation, then the end."""
    calls = Calls()
    spoken = {"init", "define_metric", "log", "finish", "SummaryWriter"}
    module = SimpleNamespace(**{method: getattr(calls, method) for method in spoken})
    monkeypatch.setitem(sys.modules, PACKAGES[name], module)
    for variable in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    tracker = TRACKERS[name](tmp_path / "run", config, 2)
    tracker.step(STEP)
    tracker.evaluation(4, JUDGED)
    tracker.close()
    began = ("init", "zofx", "run", 4)
    assert calls.made == {
        "tensorboard": [
            ("tensorboard", 2), *((n, v, 3) for n, v in TRAIN.items()),
            *((n, v, 4) for n, v in DEV.items()), "finish",
        ],
        "trackio": [began, {**TRAIN, "step": 3}, {**DEV, "step": 4}, "finish"],
        "wandb": [
            began, ("train/*", "step"), ("dev/*", "step"), {**TRAIN, "step": 3},
            {**DEV, "step": 4}, "finish",
        ],
    }[name]  # fmt: skip


def test_a_tracker_that_is_not_there_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A near miss, or the pip command."""
    with pytest.raises(UsageError, match="there is no tracker 'wandbb'; did you mean wandb"):
        require_trackers(["wandbb"])
    monkeypatch.setattr("zofx.runs.trackers.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'zofx\[trackio\]'"):
        require_trackers(["csv", "trackio"])

"""Two runs of one artifact, one of them with findings, and one class that needs escaping."""

import json
from pathlib import Path
from typing import Any

import pytest

import zofx
from zofx.runs.report.history import History, history

SHORT: dict[str, Any] = {"steps": 24, "batch_size": 4, "eval_every": 12, "threads": 1, "eps": 0.01}


@pytest.fixture(scope="session")
def runs(
    artifact: Path, mood: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[History, History]:
    """Runs "one" and "other", which differ in their learning rate."""
    folder = tmp_path_factory.mktemp("reported")
    art = zofx.load(artifact)
    for name, lr in (("one", 0.03), ("other", 3.0)):
        art.tune(mood, out=folder / name, runtime="ort", lr=lr, **SHORT)
    return history(folder / "one"), history(folder / "other")


@pytest.fixture
def hostile(mood: Path, tmp_path: Path) -> Path:
    """The task, with markup for one of the labels."""
    rows = [json.loads(line) for line in mood.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["candidates"] = ["</script><b>bad", " good"]
    path = tmp_path / "hostile.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path

"""Fixtures of whole runs: one tiny model, compiled once through the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """Of a process that finds this checkout and no hub."""
    kept = {name: value for name, value in os.environ.items() if name != "ZOFX_DEBUG"}
    here = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **here}


def run_zofx(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`zofx …` as a process."""
    command = [sys.executable, "-m", "zofx", *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=900
    )


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint `llama`, `text.txt`, and the task `mood.jsonl`."""
    folder = tmp_path_factory.mktemp("assets")
    tiny.tiny_llama(folder / "llama")
    tiny.calibration_file(folder / "text.txt")
    tiny.task_file(folder / "mood.jsonl")
    return folder


@pytest.fixture(scope="session")
def compiled(assets: Path) -> subprocess.CompletedProcess[str]:
    """The output of `zofx compile` of the tiny model."""
    return run_zofx(
        "compile", "llama", "--quant", "int4", "--fraction", "0.05", "--set",
        "select-sensitive.cover=1", "--calibration", "text.txt", "-o",
        "art", "--save-stages", "--time-passes", "--print-after", "split-sparse",
        cwd=assets,
    )  # fmt: skip


@pytest.fixture(scope="session")
def artifact(assets: Path, compiled: subprocess.CompletedProcess[str]) -> Path:
    """The tiny model, compiled; not to be changed."""
    assert compiled.returncode == 0, compiled.stderr
    return assets / "art"


@pytest.fixture(scope="session")
def mood(assets: Path) -> Path:
    """The tiny task."""
    return assets / "mood.jsonl"

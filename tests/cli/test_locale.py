"""A locale that is not UTF-8: files are read and written as UTF-8 all the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiled import environment

LATIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python before UTF-8 mode, on a machine with no language set."""


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "zofx", *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env={**environment(), **LATIN}, capture_output=True, timeout=120
    )


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A table whose texts, labels and name are not ASCII."""
    rows = [
        f"le café {n} était {how};{label}"
        for n in range(10)
        for how, label in (("gâché", 0), ("θ", 1))
    ]
    path = tmp_path / "cafés.csv"
    path.write_text("\n".join(["text,label", *(row.replace(";", ",") for row in rows)]), "utf-8")
    return path


def test_the_whole_way(artifact: Path, task: Path, tmp_path: Path) -> None:
    """check → tune → runs → inspect → eval; what a terminal cannot show is escaped."""
    words = ("--labels", "0=mauvais 1=good", "--task", task)
    settings = ("--steps", "2", "--batch-size", "4", "-o", "run")
    for command in (
        ("check", artifact, *words),
        ("tune", artifact, *words, *settings),
        ("runs", "."),
        ("inspect", "run"),
        ("eval", artifact, "--run", "run", "--predictions", "answers.jsonl"),
    ):
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.isascii()
    config = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert os.fsencode(config["task"]["name"]).decode() == str(task)
    answers = (tmp_path / "answers.jsonl").read_text(encoding="utf-8")
    assert "café" in json.loads(answers.splitlines()[0])["prompt"]

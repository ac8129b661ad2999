"""`zofx check`: what a row becomes, without an engine."""

import json
import re
from pathlib import Path

import pytest

from tests import tiny
from tests.compiled import run_zofx
from tests.test_imports import HEAVY, modules_after


def test_a_row_is_shown_token_by_token(artifact: Path, assets: Path) -> None:
    """Counts, classes, the prompt, and the two label words behind the last token."""
    shown = run_zofx("check", artifact, "--task", "mood.jsonl", "--show", "2", cwd=assets)
    assert shown.returncode == 0, shown.stderr
    assert "task mood: classification" in shown.stdout
    assert re.search(r"^train +30 +30 +245 +8 +9 +9 +0 +0$", shown.stdout, re.MULTILINE)
    assert "' bad'   15 (50%)" in shown.stdout
    assert len(re.findall(r"→ 'bad'\*?  'good'\*?$", shown.stdout, re.MULTILINE)) == 2
    assert "warning" not in shown.stdout


def test_programs_read_the_same(artifact: Path, assets: Path) -> None:
    """--json has the counts, the warnings and the rows; --max-length tells what it cuts."""
    words = ("check", artifact, "--task", "mood.jsonl", "--max-length", "8", "--json")
    payload = json.loads(run_zofx(*words, cwd=assets).stdout)
    assert (payload["max_length"], payload["splits"]["train"]["cut"]) == (8, 30)
    assert payload["warnings"][0].startswith("train: 30 of 30 rows are cut to 8 tokens")
    (row,) = payload["rows"][0]["rows"]
    assert (row["cut"], len(row["tokens"])) == (2, 7)
    assert row["tokens"][-1]["scored"] == {"0": "bad", "1": "good"}


def test_tune_and_eval_tell_what_they_cut(artifact: Path, tmp_path: Path) -> None:
    """On stderr, before the first step; a run's cut goes on with the run."""
    task = tiny.task_file(tmp_path / "long.jsonl", ask=" and" * 60)
    words = ("--task", task, "--max-length", "20", "--steps", "1", "--no-preflight", "-o", "run")
    tuned = run_zofx("tune", artifact, *words, cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    assert "data: train: 30 of 30 rows are cut to 20 tokens" in tuned.stderr
    judged = run_zofx("eval", artifact, "--run", "run", cwd=tmp_path)
    assert "test: 9 of 9 rows are cut to 20 tokens" in judged.stderr


def test_no_engine_is_imported() -> None:
    """It starts at once."""
    assert modules_after("import zofx.cli.check, zofx.tasks.data_report") & HEAVY == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a task"),
        (("--task", "mood.jsonl", "--split", "valid"), "there are train, dev, test"),
        (("--task", "nowhere.jsonl"), "there is no such file"),
    ],
)
def test_what_cannot_be_shown(
    artifact: Path, assets: Path, words: tuple[str, ...], message: str
) -> None:
    """One message."""
    shown = run_zofx("check", artifact, *words, cwd=assets)
    assert (shown.returncode, message in shown.stderr) == (2, True), shown.stderr

"""Going on with a run: what is asked again must be what it has."""

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.runs.test_tune import After, finish, options, same_run
from zofx.errors import ArtifactError, UsageError
from zofx.runs.prepare import prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.run_folder import RunFolder
from zofx.runs.tune import start

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lr": 0.5}, r"--lr 0.5 \(the run has 0.03\)"),
    ({"eps": 0.5, "batch_size": 2}, r"--eps 0.5 .*--batch-size 2"),
    ({"seed": 3}, r"--seed 3 \(the run has 0\)"),
    ({"train": 5}, r"--train 5 \(the run has 1000\)"),
    ({"eval_size": 2}, r"--eval-size 2 \(the run has 9\)"),
    ({"objective": "likelihood"}, r"--objective likelihood"),
    ({"task": "trec"}, r"--task .*trec"),
    ({"truncate": True}, r"--truncate True"),
    ({"steps": 1}, r"has made 2 steps already"),
]


@pytest.fixture(scope="module")
def short_run(artifact: Path, mood: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("short") / "run"
    finish(start(prepare(artifact, options(mood, steps=2)), folder))
    return folder


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_a_resumed_run_is_the_same_run(
    artifact: Path, short_run: Path, asked: dict[str, Any], message: str
) -> None:
    """What is asked again and differs is refused, by name, and nothing is written."""
    before = (short_run / "journal.bin").read_bytes()
    with pytest.raises(UsageError, match=message):
        prepare_resumed(artifact, short_run, asked)
    assert (short_run / "journal.bin").read_bytes() == before


def test_the_command_that_started_a_run_also_resumes_it(
    artifact: Path, short_run: Path, mood: Path
) -> None:
    """Values that come to the same are no difference: --dev 9 of 9, --eval-size 500 of 9."""
    asked = options(mood, steps=2, train=1000, dev=9, eval_size=500)
    assert prepare_resumed(artifact, short_run, asked).steps == 2


def test_a_decaying_schedule_has_an_end(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """Its steps cannot be raised: the learning rate is 0 there."""
    start(prepare(artifact, options(mood, schedule="linear")), tmp_path / "run")
    with pytest.raises(UsageError, match="linear schedule ends at step 12"):
        prepare_resumed(artifact, tmp_path / "run", {"steps": 20})


def test_a_run_goes_on_where_its_files_are_now(artifact: Path, tmp_path: Path) -> None:
    """Folder and examples were moved together: the same bits as of a run that stayed."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    task = tiny.task_file(here / "task.jsonl")
    finish(start(prepare(artifact, options(task)), here / "whole"))
    finish(start(prepare(artifact, options(task)), here / "run"), After(5))
    here.rename(there)
    with pytest.raises(UsageError, match=r"task\.jsonl"):
        prepare_resumed(artifact, there / "run", {})
    moved = {"task": there / "task.jsonl"}
    finish(prepare_resumed(artifact, there / "run", moved))
    same_run(RunFolder.open(there / "run"), RunFolder.open(there / "whole"))
    tiny.task_file(there / "task.jsonl", ask=" and it was")
    with pytest.raises(ArtifactError, match="have changed since"):
        prepare_resumed(artifact, there / "run", moved)


def test_changed_examples_are_noticed(artifact: Path, tmp_path: Path) -> None:
    """A task file that was edited between start and resume would change the run."""
    task = tiny.task_file(tmp_path / "task.jsonl")
    start(prepare(artifact, options(task)), tmp_path / "run")
    tiny.task_file(task, ask=" and it was")
    with pytest.raises(ArtifactError, match="have changed since"):
        prepare_resumed(artifact, tmp_path / "run", {})


def test_a_reward_of_a_run_is_run_by_who_names_it(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """Resuming alone imports nothing; a file that was edited is another objective."""
    file, ran = tmp_path / "mine.py", tmp_path / "ran"
    code = f"open({str(ran)!r}, 'a').close()\ndef brief(text, example): return -len(text)\n"
    file.write_text(code)
    asked = options(mood, objective=f"reward:{file}:brief", steps=2)
    run = tmp_path / "run"
    finish(start(prepare(artifact, asked), run), After(1))
    ran.unlink()
    with pytest.raises(UsageError, match=r"a file of code that going on would run: .*--objective"):
        prepare_resumed(artifact, run, {})
    assert not ran.exists()
    assert prepare_resumed(artifact, run, {"objective": f"reward:{file}:brief"}).steps == 2
    file.write_text(code + "# edited")
    with pytest.raises(ArtifactError, match="has changed since the run was started"):
        prepare_resumed(artifact, run, {"objective": f"reward:{file}:brief"})

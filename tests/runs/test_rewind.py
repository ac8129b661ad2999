"""A run copied as it was after an earlier step."""

from pathlib import Path

import pytest

from tests.runs.test_tune import finish, options, same_run
from zofx.errors import UsageError
from zofx.runs.prepare import prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.rewind import copy_until
from zofx.runs.run_folder import RunFolder
from zofx.runs.tune import start


@pytest.fixture(scope="module")
def whole(artifact: Path, mood: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of twelve steps."""
    folder = tmp_path_factory.mktemp("rewind") / "run"
    return finish(start(prepare(artifact, options(mood)), folder))[0].run


def test_a_copy_goes_on_to_the_same_run(artifact: Path, whole: RunFolder, tmp_path: Path) -> None:
    """Byte by byte; the run that it was copied from stays as it is."""
    before = whole.journal_path.read_bytes()
    copy, step = copy_until(whole, 7, tmp_path / "copy")
    assert (step, copy.journal().next_step) == (7, 7)
    assert max(copy.evaluations()) == 5
    finish(prepare_resumed(artifact, copy.path, {}))
    same_run(copy, whole)
    assert whole.journal_path.read_bytes() == before


def test_what_cannot_be_copied(whole: RunFolder, tmp_path: Path) -> None:
    """A step that was never made, the start, and a name that is taken; nothing is written."""
    with pytest.raises(UsageError, match="there is no step 99"):
        copy_until(whole, 99, tmp_path / "copy")
    with pytest.raises(UsageError, match="`zofx tune` begins a run there"):
        copy_until(whole, 0, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(UsageError, match="exists already"):
        copy_until(whole, 3, whole.path)

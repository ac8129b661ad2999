"""Uploading: one commit of the whole folder, private where it is new, and errors with a way on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zofx.errors import UsageError
from zofx.runs.export.hub import require_repository, upload


class Hub:
    """Writes down what the hub's client is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.error = error

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
        self.asked.append((name, private, exist_ok))

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        if self.error is not None:
            raise self.error
        self.asked.append((repo_id, folder_path, commit_message))
        return SimpleNamespace(commit_url="https://hub/a/b/commit/1")


def test_a_folder_is_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that is new is private; one that is there stays as it is."""
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    assert upload(tmp_path, "a/b", "step 4") == "https://hub/a/b/commit/1"
    assert hub.asked == [("a/b", True, True), ("a/b", tmp_path, "step 4")]


def test_a_hub_that_refuses_leaves_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason in a line, and the command that tries again."""
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(OSError("401 Unauthorized\nmore")))
    with pytest.raises(UsageError, match=r"does not take a/b: 401 Unauthorized; .*`hf upload`"):
        upload(tmp_path, "a/b", "step 4")
    assert tmp_path.is_dir()


@pytest.mark.parametrize("name", ["b", "a/b/c", "../b", "a b/c", ""])
def test_a_name_that_is_none_is_told_first(name: str) -> None:
    """Before the export begins."""
    with pytest.raises(UsageError, match="a repository is OWNER/NAME"):
        require_repository(name)

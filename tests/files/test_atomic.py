"""Files and folders appear whole or not at all, under a name that nobody else has."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from zofx.errors import UsageError, WriteError
from zofx.files.atomic import anything, new_file, new_folder, require_free
from zofx.files.partial import MARK

HAS_MINE = "is not what zofx writes under this name"


def write_folder(target: Path, text: str, replace: bool = False) -> None:
    with new_folder(target, anything if replace else None) as folder:
        (folder / "text").write_text(text)


def write_file(target: Path, text: str, replace: bool = False) -> None:
    with new_file(target, anything if replace else None) as path:
        path.write_text(text)


def content(target: Path) -> str:
    return (target / "text" if target.is_dir() else target).read_text()


KINDS = pytest.mark.parametrize("write", [write_folder, write_file])
Write = Callable[..., None]


@KINDS
def test_it_appears_when_it_is_complete(write: Write, tmp_path: Path) -> None:
    """In folders that are made for it; nothing is left beside it, and it is replaced on request."""
    target = tmp_path / "deep" / "made"
    target.parent.mkdir() if write is write_file else None
    write(target, "one")
    assert content(target) == "one"
    write(target, "two", replace=True)
    assert content(target) == "two"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("make", [new_folder, new_file])
def test_nothing_is_left_of_a_block_that_fails(make: Callable[..., object], tmp_path: Path) -> None:
    """What stood there stands there still."""
    (tmp_path / "made").mkdir() if make is new_folder else (tmp_path / "made").write_text("")
    for name in ("made", "absent"):
        with pytest.raises(ZeroDivisionError), make(tmp_path / name, anything):  # type: ignore[attr-defined]
            assert 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@KINDS
def test_a_taken_name_is_refused(write: Write, tmp_path: Path) -> None:
    """A file, a folder with something in it, a link to nothing; an empty folder is free."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "text").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "full", "link"):
        with pytest.raises(UsageError, match="exists already; choose another -o, or remove it"):
            write(tmp_path / name, "new")
    assert content(tmp_path / "file") == content(tmp_path / "full") == "mine"
    (tmp_path / "empty").mkdir()
    if write is write_folder:
        write(tmp_path / "empty", "new")
        assert content(tmp_path / "empty") == "new"


@KINDS
def test_a_name_that_is_taken_meanwhile_is_left_alone(write: Write, tmp_path: Path) -> None:
    """Of two writers the first to end wins; the other gets an error, and deletes nothing of it."""
    make = new_folder if write is write_folder else new_file
    with (  # noqa: PT012  the last writer comes first
        pytest.raises(UsageError, match="another process has made or changed"),
        make(tmp_path / "made") as path,
    ):
        (path / "text" if path.is_dir() else path).write_text("loser")
        write(tmp_path / "made", "winner")
    assert content(tmp_path / "made") == "winner"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_changed_since_it_was_judged_is_not_replaced(tmp_path: Path) -> None:
    """Neither another folder of that name, nor one to which something was added."""
    for change in ("replaced", "added"):
        write_folder(tmp_path / change, "old")
        only_text = lambda folder: {p.name for p in folder.iterdir()} == {"text"}  # noqa: E731
        with (  # noqa: PT012  it changes while the block runs
            pytest.raises(UsageError, match="another process has made or changed"),
            new_folder(tmp_path / change, only_text) as folder,
        ):
            (folder / "text").write_text("loser")
            if change == "replaced":
                write_folder(tmp_path / change, "winner", replace=True)
            else:
                (tmp_path / change / "mine").write_text("kept")
    assert content(tmp_path / "replaced") == "winner"
    assert (tmp_path / "added" / "mine").read_text() == "kept"


def test_what_is_no_work_of_zofx_is_not_replaced(tmp_path: Path) -> None:
    """The caller's judgement is asked before any work."""
    write_folder(tmp_path / "docs", "mine")
    with pytest.raises(UsageError, match=HAS_MINE):
        require_free(tmp_path / "docs", lambda path: False)
    with pytest.raises(UsageError, match=HAS_MINE), new_folder(tmp_path / "docs", lambda _: False):
        pytest.fail("the block ran")
    assert content(tmp_path / "docs") == "mine"


def test_the_old_folder_stands_without_an_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systems that cannot exchange two names rename twice."""
    monkeypatch.setattr("zofx.files.atomic._swap", lambda one, other: False)
    write_folder(tmp_path / "made", "old")
    write_folder(tmp_path / "made", "new", replace=True)
    assert content(tmp_path / "made") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_file_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is claimed first, then filled; a taken one is refused as ever."""

    def link(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    write_file(tmp_path / "made", "one")
    with pytest.raises(UsageError, match="exists already"):
        write_file(tmp_path / "made", "two")
    assert content(tmp_path / "made") == "one"


@pytest.mark.skipif(os.name != "posix", reason="modes and locks are POSIX")
def test_modes_are_those_of_the_umask(tmp_path: Path) -> None:
    """Also of a file that a library made private."""
    before = os.umask(0o027)
    try:
        with new_folder(tmp_path / "folder") as folder:
            os.close(os.open(folder / "private", os.O_CREAT, 0o600))
        with new_file(tmp_path / "file") as path:
            path.unlink()
            os.close(os.open(path, os.O_CREAT, 0o600))
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert modes == {"folder": 0o750, "private": 0o640, "file": 0o640}


@pytest.mark.skipif(os.name != "posix", reason="modes and locks are POSIX")
def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    """The next writer in the folder does it, whatever it writes."""
    script = """
        import sys, time
        from pathlib import Path
        from zofx.files.atomic import new_file, new_folder
        with new_folder(Path("art")) as one, new_file(Path("scores")) as two:
            (one / "large").write_text("x" * 1000)
            print("ready", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    write_file(tmp_path / "other", "")
    assert len(list(tmp_path.glob(f".*{MARK}*"))) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    write_file(tmp_path / "another", "")
    assert {path.name for path in tmp_path.iterdir()} == {"other", "another"}


class _RustError(Exception):
    """Of a library that has its own."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        _RustError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
@KINDS
def test_a_full_disk_is_told_as_such(write: Write, error: Exception, tmp_path: Path) -> None:
    """Whoever met it; nothing is left behind."""
    make = new_folder if write is write_folder else new_file
    message = r"made cannot be written: No space left on device \(.* MB are free there\); make room"
    with pytest.raises(WriteError, match=message), make(tmp_path / "made"):
        raise error
    assert not list(tmp_path.iterdir())

"""Files and folders that appear whole or not at all, and digests.

    new_file     written beside ─▶ on disk ─▶ link or rename into place
    new_folder   filled beside  ─▶ on disk ─▶ rename into place

A name that is taken makes the last move fail, so of two writers to one name one wins and nothing of
the other's is deleted. A folder is replaced by exchanging the two names: the old one stands until
the new one does. Modes are those the umask gives, whichever library wrote the bytes.
"""

import ctypes
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from zofx.errors import UsageError, WriteError
from zofx.files.partial import partial_path

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EACCES)
AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2

Replaceable: TypeAlias = Callable[[Path], bool]
"""Whether what has this name may be replaced."""


def anything(path: Path) -> bool:
    """Whatever has the name may be replaced: it is the caller's own file."""
    return True


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_free(target: Path, replaceable: Replaceable | None = None) -> None:
    """Check that a new file or folder may have this name.

    Args:
        target: the name; an empty folder is as good as none.
        replaceable: judges what is there, where the caller asked to replace it.

    Raises:
        UsageError: the name is taken, by something that is not to be replaced.
    """
    if not os.path.lexists(target) or _is_empty(target):
        return
    if replaceable is None:
        raise UsageError(f"{target} exists already; choose another -o, or remove it first")
    if not replaceable(target):
        raise UsageError(
            f"{target} is not what zofx writes under this name, or holds more than that, so "
            "--force does not replace it; remove it yourself, or choose another -o"
        )


@contextmanager
def new_folder(target: Path, replaceable: Replaceable | None = None) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends well.

    Args:
        target: the final name.
        replaceable: judges an existing folder of that name; None replaces none.

    Yields:
        The folder to fill.

    Raises:
        UsageError: the name is taken, at the start or by the end.
        WriteError: the disk is full, or read-only.
    """
    target = Path(os.path.abspath(target))
    require_free(target, replaceable)
    before = None if _is_empty(target) else _identity(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _told_as_full(target), partial_path(target, os.mkdir) as folder:
        yield folder
        _settle(folder)
        if before is None or replaceable is None or not os.path.lexists(target):
            _move(folder, target, os.rename)
        else:
            _exchange(folder, target, lambda old: _identity(old) == before and replaceable(old))
        sync_folder(target.parent)


@contextmanager
def new_file(
    target: Path, replaceable: Replaceable | None = None, *, cache: bool = False
) -> Iterator[Path]:
    """A file that appears under its name only when the block ends well.

    Args:
        target: the final name, in a folder that is there.
        replaceable: judges an existing file of that name; None replaces none.
        cache: whether it may be lost when the machine dies: it is not forced to the disk.

    Yields:
        An empty file beside; the block may write it anew.

    Raises:
        UsageError: the name is taken, at the start or by the end.
        WriteError: the disk is full, or read-only.
    """
    target = Path(os.path.abspath(target))
    require_free(target, replaceable)
    with _told_as_full(target), partial_path(target, _touch, sweep=not cache) as path:
        mode = path.stat().st_mode & 0o777
        yield path
        path.chmod(mode)
        if not cache:
            _sync_file(path)
        _move(path, target, os.replace if replaceable else _link)
        if not cache:
            sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in it durable; only POSIX systems can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full_disk(error: BaseException) -> str | None:
    """Why a disk takes no more, if that is the cause of an error of any library."""
    if isinstance(error, OSError) and error.errno in FULL:
        where = f": {error.filename}" if error.filename else ""
        return os.strerror(error.errno or 0) + where
    text = str(error)
    return next((os.strerror(code) for code in FULL if os.strerror(code) in text), None)


@contextmanager
def _told_as_full(target: Path) -> Iterator[None]:
    """A full disk as a ZofxError: libraries have errors of their own for it."""
    try:
        yield
    except Exception as error:
        reason = full_disk(error)
        if reason is None or isinstance(error, WriteError):
            raise
        raise WriteError(
            f"{target} cannot be written: {reason} ({_free(target)} MB are free there); make room "
            "or choose another place. Nothing was left there"
        ) from error


def _free(target: Path) -> str:
    existing = next(path for path in target.parents if path.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:,.1f}"


def _touch(path: Path) -> None:
    path.open("xb").close()


def _settle(folder: Path) -> None:
    """Modes as the umask gave them to the folder, and everything on disk."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
            _sync_file(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(path: Path, target: Path, move: Callable[[Path, Path], None]) -> None:
    """Give it its name, unless that is taken by now."""
    try:
        move(path, target)
    except OSError as error:
        if error.errno in TAKEN and os.path.lexists(target):
            raise _taken(target) from error
        raise


def _taken(target: Path) -> UsageError:
    return UsageError(
        f"another process has made or changed {target} meanwhile: it was left as it is, and "
        "nothing was written; choose another -o"
    )


def _link(path: Path, target: Path) -> None:
    """A second name, which fails where there is one; the first is deleted later."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: claim the name, then fill it
        _touch(target)
        path.replace(target)


def _exchange(path: Path, target: Path, replaceable: Replaceable) -> None:
    """Swap two folders; the old one ends up beside, where it is deleted."""
    if not replaceable(target):
        raise _taken(target)
    if not _swap(path, target):  # two renames: the old one is whole under one of two names
        aside = path.with_name(path.name + "0")
        target.rename(aside)
        path.rename(target)
        aside.rename(path)
    elif not replaceable(path):
        _swap(path, target)
        raise _taken(target)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names in one step, where the system can (Linux)."""
    call = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    done: int = call(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
    return done == 0


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())

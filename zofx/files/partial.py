"""Names of files and folders that are not finished: claimed, locked, swept.

    .NAME.part-HOST-RANDOM     beside NAME, so that it can be renamed to it

A writer holds a lock on what it is writing, which the kernel drops when the process dies, also in
another container. The next writer in the same folder deletes what dead ones of this machine left.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

MARK: Final = ".part-"
LONGEST: Final = 100
"""Characters of a name that are kept: file systems allow 255 bytes."""


@contextmanager
def partial_path(
    target: Path, make: Callable[[Path], None], *, sweep: bool = True
) -> Iterator[Path]:
    """Make a file or folder beside a name, lock it, and delete what is left of it at the end.

    Args:
        target: the final name, absolute; its folder is there.
        make: makes an empty file or folder.
        sweep: whether leftovers of dead writers are deleted first.

    Yields:
        The path; the block renames it.
    """
    if sweep:
        _sweep(target.parent)
    path, lock = _claimed(target, make)
    try:
        yield path
    finally:
        _delete(path)
        if lock is not None:
            os.close(lock)


def _claimed(target: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """A new name and its lock; tried again where a sweep took it before it was locked."""
    while True:
        token = f"{_host()}-{secrets.token_hex(8)}"
        path = target.with_name(f".{target.name[:LONGEST]}{MARK}{token}")
        make(path)
        with contextlib.suppress(FileNotFoundError):
            lock = _lock(path, wait=True)
            if path.exists():
                return path, lock


def _host() -> str:
    """This machine, as eight hex digits: its name may hold anything."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lock(path: Path, *, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a path; None where another has it, or none can be had."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(folder: Path) -> None:
    """Delete what dead writers of this machine left in a folder."""
    for path in folder.glob(f".*{MARK}{_host()}-*"):
        with contextlib.suppress(OSError):  # another process sweeps too
            lock = _lock(path)
            if lock is not None:
                _delete(path)
                os.close(lock)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

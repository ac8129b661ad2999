"""Files and folders that appear whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zofx.errors import UsageError


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends well.

    Args:
        target: the final name.
        replace: whether an existing folder of that name is replaced.

    Raises:
        UsageError: the name is taken.
    """
    if target.exists() and not replace and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} exists already; choose another -o, or pass --force to replace it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield beside
        beside.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)

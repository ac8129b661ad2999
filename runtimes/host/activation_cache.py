"""Results of the frozen prefix, kept on disk: one file per row of tokens.

    name    = SHA-256(owner, input_ids[L], attention_mask[L])
    file    = hidden f32[L, H], little-endian ‖ SHA-256(name ‖ hidden)

The owner is who computed them: artifact, engine, and what else decides the bits. An entry appears
whole under its name or not at all; one that is damaged, cut short or under another's name is as if
it were not there. Deletable at any time. A folder may serve several runs at once. numpy only.
"""

import os
import shutil
import tempfile
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Final

import numpy as np

from zofx.errors import UsageError, WriteError
from zofx.files.atomic import anything, new_file
from zofx.zo.types import FloatArray, IntArray

SPARE: Final = 1 << 30
"""Bytes that are left free on the disk."""

F32: Final = np.dtype("<f4")
DIGEST: Final = sha256().digest_size


class ActivationCache:
    """A folder of entries.

    Args:
        folder: made if it is not there.
        limit: bytes it may hold; when it is full, what is missing is computed every time.

    Attributes:
        trouble: why nothing more is kept, if that is so; what is here can still be read.

    Raises:
        UsageError: nothing can be written there.
    """

    def __init__(self, folder: Path, limit: float = inf) -> None:
        self.folder = folder
        self.limit = limit
        self.disabled_reason: str | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            self._size = sum(entry.stat().st_size for entry in os.scandir(folder))
        except OSError as error:
            raise UsageError(
                f"no activations can be kept in {folder}: {error.strerror}; name another folder "
                "with --activation-cache, or none"
            ) from error

    def load(self, name: bytes, tokens: int) -> FloatArray | None:
        """An entry f32[L, H]; None if there is none, or it is not what was written."""
        try:
            data = self._path(name).read_bytes()
        except OSError:
            return None
        hidden, digest = data[:-DIGEST], data[-DIGEST:]
        if not hidden or len(hidden) % (tokens * F32.itemsize) or _digest(name, hidden) != digest:
            return None
        return np.frombuffer(hidden, F32).reshape(tokens, -1)

    def save(self, name: bytes, hidden: FloatArray) -> None:
        """Keep f32[L, H], as long as there is room."""
        data = np.ascontiguousarray(hidden, F32).tobytes()
        if self.disabled_reason is None:
            self.disabled_reason = self._no_room(len(data) + DIGEST) or self._written(name, data)

    def _no_room(self, size: int) -> str | None:
        if self._size + size > self.limit:
            return f"{self.folder} holds the {self.limit / 1e9:.3g} GB it may"
        if shutil.disk_usage(self.folder).free < size + SPARE:
            return f"the disk of {self.folder} is nearly full"
        return None

    def _written(self, name: bytes, data: bytes) -> str | None:
        """Write beside, then rename; returns what went wrong."""
        try:
            with new_file(self._path(name), anything, cache=True) as beside:
                beside.write_bytes(data + _digest(name, data))
        except (OSError, WriteError) as error:
            return f"writing to {self.folder} failed: {getattr(error, 'strerror', None) or error}"
        self._size += len(data) + DIGEST
        return None

    def _path(self, name: bytes) -> Path:
        return self.folder / name.hex()


def row_name(owner: str, ids: IntArray, mask: IntArray) -> bytes:
    """The name of a row.

    Args:
        owner: who computes its activations.
        ids: i64[L].
        mask: i64[L].
    """
    hasher = sha256(owner.encode() + b"\0")
    for part in (ids, mask):
        hasher.update(np.ascontiguousarray(part, "<i8").tobytes())
    return hasher.digest()


def _digest(name: bytes, hidden: bytes) -> bytes:
    return sha256(name + hidden).digest()

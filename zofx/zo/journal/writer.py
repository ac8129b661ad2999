"""Writing the journal: append, flush, and only then does a step count.

create  header → a file beside → disk → renamed into place          whole or not at all
append  record → file, and every `sync_every` records → disk        killed: one torn record
resume  read and verify → cut the torn record → append
"""

import hashlib
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from zofx.errors import UsageError
from zofx.files.atomic import new_file
from zofx.zo.journal.format import CHECKSUM, Header, Journal, Record


class JournalWriter:
    """Appends records; use it as a context manager.

    Args:
        path: the file, which exists: `create` and `resume` open one.
        journal: what it holds; what follows is cut off.
        sync_every: force records to the disk after this many. 1 loses at most the step in flight
            even when the machine dies; when only the process dies, any value does.
    """

    def __init__(self, path: Path, journal: Journal, sync_every: int) -> None:
        if sync_every < 1:
            raise UsageError(f"sync_every={sync_every}: records are synced every 1 or more steps")
        self.path = path
        self.header = journal.header
        self.next_step = journal.next_step
        self._checksum = journal.checksum
        self._hash = hashlib.sha256(journal.data)
        self._sync_every = sync_every
        self._unsynced = 0
        self._file = path.open("r+b")
        self._file.truncate(journal.end)
        self._file.seek(journal.end)

    @classmethod
    def create(cls, path: Path, header: Header, sync_every: int = 1) -> Self:
        """Start a journal.

        Raises:
            UsageError: the file exists already, or its folder does not.
        """
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent} to keep the journal in: create it")
        if path.exists():
            raise UsageError(
                f"{path} exists and is never overwritten: resume it, or choose another folder"
            )
        data = header.encode()
        with new_file(path) as beside:
            beside.write_bytes(data)
        return cls(path, Journal.decode(path, data), sync_every)

    @classmethod
    def resume(
        cls, path: Path, journal: Journal | None = None, sync_every: int = 1
    ) -> tuple[Self, Journal]:
        """Go on with a journal: a torn last record is cut off; returns what is there too.

        Args:
            path: the file.
            journal: as read before. It is read again only if the file has another size now: another
                process may have gone on with the run since.
            sync_every: as in the class.
        """
        if journal is None or path.stat().st_size != journal.end + journal.torn:
            journal = Journal.read(path)
        return cls(path, journal, sync_every), journal

    @property
    def digest(self) -> str:
        """SHA-256 of the journal as it is now, in hex."""
        return self._hash.hexdigest()

    def append(self, record: Record) -> None:
        """Write one record; when it returns, the step counts.

        Raises:
            UsageError: the step is not after the last one, or a shape is not the header's.
        """
        self._require_fit(record)
        row = np.zeros((), dtype=self.header.layout)
        row["step"], row["cursor"] = record.step, record.cursor
        row["learning_rate"] = record.learning_rate
        row["coefficients"], row["losses"] = record.coefficients, record.losses
        body = row.tobytes()[: -CHECKSUM.size]
        self._checksum = zlib.crc32(body, self._checksum)
        written = body + CHECKSUM.pack(self._checksum)
        self._file.write(written)
        self._hash.update(written)
        self._file.flush()
        self.next_step = record.step + 1
        self._unsynced += 1
        if self._unsynced >= self._sync_every:
            self.sync()

    def sync(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def close(self) -> None:
        """Sync and close."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_fit(self, record: Record) -> None:
        if record.step < self.next_step:
            raise UsageError(
                f"step {record.step} cannot be appended to {self.path}: it stands at step "
                f"{self.next_step}, and records are never rewritten"
            )
        shapes = record.coefficients.shape, record.losses.shape
        layout = self.header.layout
        expected = layout["coefficients"].shape, layout["losses"].shape
        if shapes != expected:
            raise UsageError(
                f"step {record.step} does not fit {self.path}: it has coefficients and losses of "
                f"shapes {shapes}, and those of this run's records are {expected}"
            )

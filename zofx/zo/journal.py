"""The journal: an append-only file of what every step did. It is the checkpoint.

    θ = f(artifact, journal)

    file    magic "ZOFXJRNL" · version u32 · length u32 · crc32 u32 · header (JSON) · records
    record  step u32 · cursor u64 · learning rate f32 · coefficients f32[Q] · losses f32[P] · crc32

Little endian, no padding; about 40 bytes a step for two probes of one direction. Directions are not
stored: they follow from (seed, step, query). A record's checksum continues that of the record
before (the first continues the header's), so a record that was lost, doubled or moved shows.

A record is appended before θ moves. The header is written beside and renamed into place: a journal
exists whole or not at all. Killed at any byte, the file ends in at most one torn record.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from zofx.errors import ArtifactError, UsageError
from zofx.zo.types import FloatArray, Key, Ray

MAGIC: Final = b"ZOFXJRNL"
VERSION: Final = 1
PREFIX: Final = Struct("<8sIII")
CHECKSUM: Final = Struct("<I")


@dataclass(frozen=True)
class Header:
    """What a run is.

    Attributes:
        artifact: hash of the artifact whose slices the run starts from.
        seed: of the run.
        recipe: the text of the recipe.
        tensors: the text of its rule on tensors; empty when rays alone move θ.
        queries: Q.
        evaluations: P.
        settings: everything else worth keeping (task, data, options); strings.
    """

    artifact: str
    seed: int
    recipe: str
    tensors: str
    queries: int
    evaluations: int
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> np.dtype[np.void]:
        """The fields of a record."""
        return np.dtype(
            [
                ("step", "<u4"),
                ("cursor", "<u8"),
                ("learning_rate", "<f4"),
                ("coefficients", "<f4", (self.queries,)),
                ("losses", "<f4", (self.evaluations,)),
                ("checksum", "<u4"),
            ]
        )

    def encode(self) -> bytes:
        """The bytes a journal begins with."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        return PREFIX.pack(MAGIC, VERSION, len(text), zlib.crc32(text)) + text


@dataclass(frozen=True, eq=False)
class Record:
    """One step.

    Attributes:
        step: of the run, from 0.
        cursor: where the data stream stands after the step, in the caller's units.
        learning_rate: as used, float32.
        coefficients: f32[Q]; how far θ moved along each direction, or, with a rule on tensors, the
            gradient that the rule was given.
        losses: f32[P], what the estimator saw.
    """

    step: int
    cursor: int
    learning_rate: float
    coefficients: FloatArray
    losses: FloatArray

    def rays(self, seed: int) -> tuple[Ray, ...]:
        """The rays of a run with this seed."""
        return tuple(
            Ray(Key(seed, self.step, query), float(coefficient))
            for query, coefficient in enumerate(self.coefficients)
        )


@dataclass(frozen=True, eq=False)
class Journal:
    """A journal as read: every checksum has been verified.

    Attributes:
        header: what the run is.
        rows: the whole records, a structured array of `header.layout`.
        end: the size in bytes of the whole records and the header.
        torn: how many bytes follow: the step that was being written when the run was killed.
    """

    header: Header
    rows: NDArray[np.void]
    end: int
    torn: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and verify a journal.

        Raises:
            UsageError: there is no such file.
            ArtifactError: it is damaged elsewhere than in the last record, or is no journal.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read the journal {path}: {error.strerror}") from error
        header, start = _decode_header(path, data)
        size = header.layout.itemsize
        count = (len(data) - start) // size
        rows = np.frombuffer(data, dtype=header.layout, count=count, offset=start)
        whole = _verified(path, data, start, size, count)
        end = start + whole * size
        return cls(header, rows[:whole], end, len(data) - end)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Record]:
        for row in self.rows:
            yield Record(
                int(row["step"]),
                int(row["cursor"]),
                float(row["learning_rate"]),
                row["coefficients"].astype(np.float32),
                row["losses"].astype(np.float32),
            )

    @property
    def next_step(self) -> int:
        """The first step that is not in the journal."""
        return int(self.rows[-1]["step"]) + 1 if len(self) else 0


class JournalWriter:
    """Appends records; use it as a context manager.

    Args:
        path: the file, which exists: `create` and `resume` open one.
        header: of that file.
        end: where the next record goes.
        checksum: of the last record, or of the header.
        next_step: the least step that may be appended.
        sync_every: force records to the disk after this many. 1 loses at most the step in flight
            even when the machine dies; when only the process dies, any value does.
    """

    def __init__(
        self, path: Path, header: Header, end: int, checksum: int, next_step: int, sync_every: int
    ) -> None:
        if sync_every < 1:
            raise UsageError(f"sync_every={sync_every}: records are synced every 1 or more steps")
        self.path = path
        self.header = header
        self.next_step = next_step
        self._checksum = checksum
        self._sync_every = sync_every
        self._unsynced = 0
        self._file = path.open("r+b")
        self._file.truncate(end)
        self._file.seek(end)

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
        beside = path.with_name(path.name + ".new")
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
        return cls(path, header, len(data), _header_checksum(data), 0, sync_every)

    @classmethod
    def resume(cls, path: Path, sync_every: int = 1) -> tuple[Self, Journal]:
        """Go on with a journal: a torn last record is cut off; returns what was read too."""
        journal = Journal.read(path)
        if len(journal):
            checksum = int(journal.rows[-1]["checksum"])
        else:
            checksum = _header_checksum(path.read_bytes())
        writer = cls(path, journal.header, journal.end, checksum, journal.next_step, sync_every)
        return writer, journal

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
        self._file.write(body + CHECKSUM.pack(self._checksum))
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
        if shapes != ((self.header.queries,), (self.header.evaluations,)):
            raise UsageError(
                f"step {record.step} does not fit {self.path}: it has coefficients and losses of "
                f"shapes {shapes}, the header says {self.header.queries} queries and "
                f"{self.header.evaluations} evaluations"
            )


def _header_checksum(data: bytes) -> int:
    checksum: int = PREFIX.unpack_from(data)[3]
    return checksum


def _decode_header(path: Path, data: bytes) -> tuple[Header, int]:
    """The header, and where the records start."""
    if len(data) < PREFIX.size or not data.startswith(MAGIC):
        raise ArtifactError(f"{path} is not a journal: it does not begin with {MAGIC.decode()}")
    _, version, length, checksum = PREFIX.unpack_from(data)
    if version != VERSION:
        raise ArtifactError(
            f"{path} is a journal of version {version}; this zofx reads version {VERSION}: "
            "use the zofx that wrote it"
        )
    text = data[PREFIX.size : PREFIX.size + length]
    if len(text) != length or zlib.crc32(text) != checksum:
        raise ArtifactError(
            f"{path} is damaged in its header (bytes {PREFIX.size} to {PREFIX.size + length}): "
            "without it the run is unknown; restore the file from a copy"
        )
    fields: dict[str, Any] = json.loads(text)
    return Header(**fields), PREFIX.size + length


def _verified(path: Path, data: bytes, start: int, size: int, count: int) -> int:
    """How many records are whole; raises when damage is followed by more data."""
    checksum = _header_checksum(data)
    for index in range(count):
        offset = start + index * size
        body_end = offset + size - CHECKSUM.size
        (stored,) = CHECKSUM.unpack_from(data, body_end)
        checksum = zlib.crc32(data[offset:body_end], checksum)
        if checksum == stored:
            continue
        if any(data[offset + size :]):
            raise ArtifactError(
                f"{path} is damaged at byte {offset} (record {index}, {size} bytes): its checksum "
                f"is {checksum:08x}, not {stored:08x}, and more follows, so it was not torn by a "
                f"kill; restore the file, or cut it to {offset} bytes to go on from record {index}"
            )
        return index
    return count


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; only POSIX systems can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

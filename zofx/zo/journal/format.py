"""The journal: an append-only file of what every step did. It is the checkpoint.

    θ = f(artifact, journal)

    file    magic "ZOFXJRNL" · version u32 · length u32 · crc32 u32 · header (JSON) · records
    record  step u32 · cursor u64 · learning rate f32 · coefficients f32[Q·W] · losses f32[P] · crc

Little endian, no padding; 32 bytes a step for two probes of one direction. Directions are not
stored: they follow from (seed, step, query). A record's checksum continues that of the record
before (the first continues the header's), so a record that was lost, doubled or moved shows.

A record is appended before θ moves. The header is written beside and renamed into place: a journal
exists whole or not at all. Killed at any byte, the file ends in at most one torn record.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from struct import Struct
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from zofx.errors import ArtifactError, UsageError
from zofx.files.strict_json import parse_json
from zofx.zo.types import FloatArray, Key, Ray

MAGIC: Final = b"ZOFXJRNL"
VERSION: Final = 1
PREFIX: Final = Struct("<8sIII")
CHECKSUM: Final = Struct("<I")

MOST_NUMBERS: Final = 1 << 20
"""Of a record: a bound on what a header from anyone can ask for."""


@dataclass(frozen=True)
class Header:
    """What a run is.

    Attributes:
        artifact: hash of the artifact whose trainables the run starts from.
        seed: of the run.
        recipe: the text of the recipe.
        tensors: the text of its rule on tensors; empty when rays alone move θ.
        queries: Q.
        evaluations: P.
        window: how many steps' directions a step moves along: its own, and those before it.
        refresh: steps between two bases of low-rank trainables; 0 for none.
        exact: learning rate of tensors with exact gradients, in units of a record's; 0 for none.
        settings: everything else worth keeping (task, data, options); strings.
    """

    artifact: str
    seed: int
    recipe: str
    tensors: str
    queries: int
    evaluations: int
    window: int = 1
    refresh: int = 0
    exact: float = 0.0
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> np.dtype[np.void]:
        """The fields of a record."""
        return np.dtype(
            [
                ("step", "<u4"),
                ("cursor", "<u8"),
                ("learning_rate", "<f4"),
                ("coefficients", "<f4", (self.queries * self.window,)),
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
        coefficients: f32[Q·W], those of the step's own directions first; how far θ moved along each
            direction, or, with a rule on tensors, the gradient that the rule was given.
        losses: f32[P], what the estimator saw.
    """

    step: int
    cursor: int
    learning_rate: float
    coefficients: FloatArray
    losses: FloatArray

    def rays(self, header: Header) -> tuple[Ray, ...]:
        """The rays of a run with this header."""
        places = product(range(header.window), range(header.queries))
        return tuple(
            Ray(Key(header.seed, self.step - age, query), float(coefficient))
            for (age, query), coefficient in zip(places, self.coefficients, strict=True)
            if age <= self.step
        )


@dataclass(frozen=True, eq=False)
class Journal:
    """A journal as read: every checksum has been verified.

    Attributes:
        header: what the run is.
        rows: the whole records, a structured array of `header.layout`.
        data: the bytes of the header and the whole records.
        torn: how many bytes follow: the step that was being written when the run was killed.
    """

    header: Header
    rows: NDArray[np.void]
    data: memoryview
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
        return cls.decode(path, data)

    @classmethod
    def decode(cls, path: Path, data: bytes) -> Self:
        """Verify the bytes of a journal; the path is for messages.

        Raises:
            ArtifactError: see `read`.
        """
        header, start = _decode_header(path, data)
        size = header.layout.itemsize
        count = (len(data) - start) // size
        rows = np.frombuffer(data, dtype=header.layout, count=count, offset=start)
        whole = _verified(path, data, start, size, count)
        end = start + whole * size
        return cls(header, rows[:whole], memoryview(data)[:end], len(data) - end)

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
    def end(self) -> int:
        """The size in bytes of the header and the whole records."""
        return len(self.data)

    @property
    def checksum(self) -> int:
        """What the checksum of the next record continues."""
        return int(self.rows[-1]["checksum"]) if len(self) else header_checksum(self.data)

    def digest(self, step: int) -> str:
        """SHA-256 of the journal up to a step, in hex."""
        later = len(self) - step
        return hashlib.sha256(self.data[: self.end - later * self.rows.itemsize]).hexdigest()

    @property
    def next_step(self) -> int:
        """The first step that is not in the journal."""
        return int(self.rows[-1]["step"]) + 1 if len(self) else 0


def header_checksum(data: bytes | memoryview) -> int:
    """What the checksum of the first record continues."""
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
    return _header(path, text), PREFIX.size + length


def _header(path: Path, text: bytes) -> Header:
    """A header whose fields are of the kinds that readers take them for."""
    try:
        fields: dict[str, Any] = parse_json(text, paths=True)
        header = Header(**fields)
        if wrong := _wrong_field(header):
            raise ValueError(f"{wrong} is {getattr(header, wrong)!r:.60}")  # noqa: TRY301
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path} has a header that this zofx does not write ({error}): use the zofx that wrote "
            "it, or restore the file from a copy"
        ) from error
    return header


def _wrong_field(header: Header) -> str | None:
    """The name of a field with a value that none has."""
    texts = ("artifact", "recipe", "tensors")
    kinds = {name: isinstance(getattr(header, name), str) for name in texts}
    for name, least, most in (
        ("seed", 0, 2**64 - 1),
        ("queries", 0, MOST_NUMBERS),
        ("evaluations", 1, MOST_NUMBERS),
        ("window", 1, MOST_NUMBERS),
        ("refresh", 0, 2**32),
    ):
        value = getattr(header, name)
        kinds[name] = type(value) is int and least <= value <= most
    rate, about = header.exact, header.settings
    kinds["exact"] = type(rate) in (int, float) and 0 <= rate < math.inf
    kinds["settings"] = isinstance(about, dict) and all(isinstance(v, str) for v in about.values())
    if kinds["queries"] and kinds["window"]:
        kinds["window"] = header.queries * header.window <= MOST_NUMBERS
    return next((name for name, right in kinds.items() if not right), None)


def _verified(path: Path, data: bytes, start: int, size: int, count: int) -> int:
    """How many records are whole; raises when damage is followed by more data."""
    checksum = header_checksum(data)
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

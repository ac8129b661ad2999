"""Safetensors files, read where they lie and written tensor by tensor.

    file = length of header · header (JSON: name → dtype, shape, place) · bytes of the tensors

The library reads and writes whole tensors; an artifact of several GB needs two things more, which
this module has: the place of every tensor in the file, so that engines can map its bytes, and a
file whose tensors are written in any order, one in memory at a time. Needs numpy only.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from zofx.errors import ArtifactError
from zofx.files.strict_json import parse_json
from zofx.zo.types import FloatArray

HEADER_LENGTH: Final = struct.Struct("<Q")
ALIGNMENT: Final = 64


def read_tensors(path: Path) -> dict[str, FloatArray]:
    """All tensors of a small safetensors file."""
    try:
        return {name: np.array(value) for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class Span:
    """Where a tensor is in a safetensors file.

    Attributes:
        dtype: its element type, in safetensors spelling.
        shape: its shape.
        offset: of its first byte, from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int


def spans(path: Path) -> dict[str, Span]:
    """Where every tensor of a safetensors file is.

    Raises:
        ArtifactError: it is none.
    """
    try:
        with safe_open(path, framework="np"):
            pass  # the library checks that every tensor lies within the file
        with path.open("rb") as file:
            (length,) = HEADER_LENGTH.unpack(file.read(HEADER_LENGTH.size))
            header = parse_json(file.read(length))
        start = HEADER_LENGTH.size + length
        return {
            name: Span(row["dtype"], tuple(row["shape"]), start + row["data_offsets"][0])
            for name, row in header.items()
            if name != "__metadata__"
        }
    except (
        SafetensorError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        struct.error,
    ) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


class TensorFile:
    """A safetensors file written tensor by tensor, in any order, holding none of them.

    The layout follows from the table alone: wider elements first, so that every tensor is aligned
    to its own elements and engines can use the mapped bytes in place.

    Args:
        path: the file to make.
        table: name → (dtype in safetensors spelling, shape, bytes per element).
    """

    def __init__(self, path: Path, table: Mapping[str, tuple[str, tuple[int, ...], int]]) -> None:
        self.path = path
        self._spans: dict[str, tuple[int, int]] = {}
        header: dict[str, Any] = {}
        place = 0
        for name, (dtype, shape, width) in sorted(table.items(), key=lambda row: -row[1][2]):
            size = math.prod(shape) * width
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
            self._spans[name] = (place, size)
            place += size
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + HEADER_LENGTH.size) % ALIGNMENT)
        self._start = HEADER_LENGTH.size + len(text)
        with path.open("wb") as file:
            file.write(HEADER_LENGTH.pack(len(text)) + text)
            file.truncate(self._start + place)

    def span(self, name: str) -> tuple[int, int]:
        """Offset from the start of the file, and length in bytes."""
        place, size = self._spans[name]
        return self._start + place, size

    def write(self, name: str, data: memoryview) -> None:
        """Put one tensor's bytes in their place."""
        offset, size = self.span(name)
        if data.nbytes != size:
            raise AssertionError(f"{name}: {data.nbytes} bytes, expected {size}")
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

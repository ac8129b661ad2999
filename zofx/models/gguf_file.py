"""GGUF files: metadata, and one dequantized tensor at a time.

    file    "GGUF" | u32 version | u64 tensors | u64 fields | fields | tensor table | pad | blocks
    field   text name, u32 kind, value
    tensor  text name, u32 axes, u64[axes] fastest first, u32 block format, u64 offset

The header is parsed here, in one pass over a memory map: the `gguf` package's reader makes several
numpy views of every token and merge, which takes seconds where this takes tenths. The block formats
themselves are the package's.
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zofx.errors import UnsupportedError, UsageError
from zofx.models.safetensors_folder import Header, StoredTensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
TEXT, ARRAY = 8, 9
# kinds of fields with a fixed size → their struct letter
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
TOKEN_TABLES = ("tokens", "token_type", "scores", "merges")


@dataclass(frozen=True)
class GgufTensor:
    """A row of the tensor table.

    Attributes:
        shape: in PyTorch's order, slowest axis first.
        kind: ggml's number of the block format.
        offset: of its first byte in the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """A parsed header.

    Attributes:
        path: the file.
        metadata: field → value.
        tensors: GGUF name → where and what it is.
        fields: the raw bytes of every field that is not a table of tokens.
        header: for `shards.fingerprint`.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    fields: tuple[bytes, ...]
    header: Header

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.metadata["general.architecture"])


def read_gguf(path: Path) -> GgufFile:
    """Parse a file's header.

    Raises:
        UsageError: it is no GGUF file, is damaged, or ends before its last tensor.
        UnsupportedError: a version or block format that is not known.
    """
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise UsageError(f"{path} is not a GGUF file: it does not begin with GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            try:
                parsed = _parse(path, view)
            except (struct.error, ValueError, LookupError, ArithmeticError) as error:
                raise UsageError(
                    f"{path}: the GGUF header is damaged ({error}); download it again"
                ) from error
    end = max((t.offset + _stored_bytes(path, t) for t in parsed.tensors.values()), default=0)
    if end > path.stat().st_size:
        raise UsageError(
            f"{path} has {path.stat().st_size} bytes and its last tensor ends at {end}: "
            "the file is cut short; download it again"
        )
    return parsed


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, view: mmap.mmap, position: int) -> None:
        self._view = view
        self.position = position

    def take(self, layout: str) -> tuple[Any, ...]:
        """Values of a struct layout."""
        values = struct.unpack_from("<" + layout, self._view, self.position)
        self.position += struct.calcsize("<" + layout)
        return values

    def text(self) -> str:
        """A length and that many bytes of UTF-8."""
        (length,) = self.take("Q")
        (raw,) = self.take(f"{length}s")
        return str(raw, "utf-8")

    def value(self, kind: int) -> Any:
        """A value of one of GGUF's kinds."""
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.take(SCALARS[kind])[0]
        item, count = self.take("IQ")
        if item in SCALARS:
            return list(self.take(f"{count}{SCALARS[item]}"))
        return [self.value(item) for _ in range(count)]


def _parse(path: Path, view: mmap.mmap) -> GgufFile:
    cursor = _Cursor(view, len(MAGIC))
    version, tensor_count, field_count = cursor.take("IQQ")
    if version not in VERSIONS:
        raise UnsupportedError(f"{path} is GGUF version {version}", [f"read here: {VERSIONS}"])
    metadata, fields = {}, []
    for _ in range(field_count):
        begin = cursor.position
        name = cursor.text()
        metadata[name] = cursor.value(*cursor.take("I"))
        if name.removeprefix("tokenizer.ggml.") not in TOKEN_TABLES:
            fields.append(view[begin : cursor.position])
    rows = {}
    for _ in range(tensor_count):
        name, (axes,) = cursor.text(), cursor.take("I")
        shape = cursor.take(f"{axes}Q")[::-1]
        rows[name] = (shape, *cursor.take("IQ"))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    start = -(-cursor.position // alignment) * alignment
    tensors = {
        name: GgufTensor(shape, kind, start + at) for name, (shape, kind, at) in rows.items()
    }
    offsets = tuple(tensor.offset for tensor in tensors.values())
    header = Header(path, view[: cursor.position], offsets)
    metadata["general.architecture"]  # a file without one is damaged
    return GgufFile(path, metadata, tensors, tuple(fields), header)


def stored_tensors(file: GgufFile) -> dict[str, StoredTensor]:
    """The file's tensors under its own names and layout, dequantized to f32 when read."""
    return {
        name: StoredTensor(tensor.shape, torch.float32, _reader(file.path, tensor))
        for name, tensor in file.tensors.items()
    }


def _reader(path: Path, tensor: GgufTensor) -> Callable[[], Tensor]:
    return lambda: torch.from_numpy(dequantized(path, tensor))


def dequantized(path: Path, tensor: GgufTensor) -> NDArray[np.float32]:
    """One tensor's values, f32; reads exactly its bytes."""
    import gguf

    count = _stored_bytes(path, tensor)
    raw = np.fromfile(path, np.uint8, count=count, offset=tensor.offset)
    rows = raw.reshape(*tensor.shape[:-1], -1)
    values: NDArray[np.float32] = gguf.dequantize(rows, gguf.GGMLQuantizationType(tensor.kind))
    return values


def _stored_bytes(path: Path, tensor: GgufTensor) -> int:
    import gguf

    try:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.kind)]
    except ValueError as error:
        raise UnsupportedError(
            f"{path} stores tensors in a block format that this version of gguf does not know",
            [f"ggml type {tensor.kind}; `pip install -U gguf` may help"],
        ) from error
    return prod(tensor.shape) // int(block) * int(size)

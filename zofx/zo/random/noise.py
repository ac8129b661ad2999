"""Randomness is a function: (seed, step, query, stream, slice name, element) → z.

    bits        Philox4x64-10, key (seed, step · 2¹⁶ + query), counter (block, slice id, stream, 0)
    slice id    the first 8 bytes of SHA-256(name), little endian
    gaussian    a u64 is four u16, lowest first; each indexes a table of quantiles   16 per block
    rademacher  a u64 is 64 bits, lowest first; 0 → −1, 1 → +1                      256 per block

The counter is the one handed to `numpy.random.Philox`, which adds 1 to word 0 before a block: one
can check a value with numpy alone. The quantiles are data (normal.npy, verified by hash), not a
computation, because log and cos differ between machines: those of the standard normal at the
midpoints (i + ½) / 65536, scaled to unit variance. Both distributions have E[z] = 0, E[z zᵀ] = I.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.errors import ArtifactError, UsageError
from zofx.zo.random.philox import WordArray
from zofx.zo.types import FloatArray, Key

Kind: TypeAlias = Literal["gaussian", "rademacher"]

WORDS_PER_BLOCK: Final = 4
VALUES_PER_BLOCK: Final[dict[Kind, int]] = {"gaussian": 16, "rademacher": 256}
TABLE_SIZE: Final = 1 << 16
TABLE_SHA256: Final = "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"
LITTLE_U64: Final = np.dtype("<u8")
LITTLE_U16: Final = np.dtype("<u2")
CHUNK: Final = 1 << 18
"""How many values are made at a time: 1 MiB of float32, a few MiB with the temporaries."""


class Stream(IntEnum):
    """Independent sequences under one key and name; the number is counter word 2."""

    Z = 0
    U = 1
    V = 2
    MASK = 3


@cache
def trainable_id(name: str) -> int:
    """Counter word 1 of a trainable: the first 8 bytes of SHA-256 of its name, little endian."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def table_digest(table: FloatArray) -> str:
    """SHA-256 of a table's bytes as little-endian float32, in hex."""
    return hashlib.sha256(table.astype("<f4").tobytes()).hexdigest()


@cache
def normal_table() -> FloatArray:
    """The table that ships with zofx, read-only f32[65536].

    Raises:
        ArtifactError: the installed file is not the one this version was released with.
    """
    path = Path(__file__).with_name("normal.npy")
    table: FloatArray = np.load(path, allow_pickle=False)
    digest = table_digest(table)
    if table.shape != (TABLE_SIZE,) or digest != TABLE_SHA256:
        raise ArtifactError(
            f"the table of normals in {path} is damaged: "
            f"its SHA-256 is {digest}, not {TABLE_SHA256}; "
            "directions would differ from every other machine's; reinstall zofx"
        )
    table.setflags(write=False)
    return table


def sample(
    kind: Kind,
    key: Key,
    name: str,
    shape: tuple[int, ...],
    stream: Stream = Stream.Z,
    table: FloatArray | None = None,
) -> FloatArray:
    """One trainable's direction.

    Args:
        kind: the distribution.
        key: which direction.
        name: of the trainable.
        shape: of the trainable; elements count in C order.
        stream: which of the key's sequences.
        table: f32[65536] for "gaussian"; None takes the one that ships with zofx.

    Returns:
        f32[shape], contiguous and writable.

    Example:
        >>> sample("rademacher", Key(seed=7, step=0), "head.weight", (2, 4))
        array([[ 1.,  1.,  1.,  1.],
               [ 1.,  1., -1.,  1.]], dtype=float32)
    """
    return in_parts(
        lambda offset, length: sample_flat(kind, key, name, offset, length, stream, table), shape
    )


def in_parts(draw: Callable[[int, int], FloatArray], shape: tuple[int, ...]) -> FloatArray:
    """All of a trainable, so many values at a time that temporaries stay small.

    Args:
        draw: offset and length of a range in C order → its values, fresh memory.
        shape: of the trainable.

    Returns:
        f32[shape], contiguous and writable.
    """
    size = math.prod(shape)
    if size <= CHUNK:
        return draw(0, size).reshape(shape)
    flat = np.empty(size, dtype=np.float32)
    for start in range(0, size, CHUNK):
        part = flat[start : start + CHUNK]
        part[:] = draw(start, part.size)
    return flat.reshape(shape)


def sample_small(kind: Kind, key: Key, sizes: Mapping[str, int]) -> dict[str, FloatArray]:
    """Draw several trainables, looked up at once: of many small ones, a call costs more than z.

    Args:
        kind: the distribution.
        key: which direction.
        sizes: name → how many elements; temporaries are as large as all of them.

    Returns:
        Name → f32[size], bit-equal to `sample`: parts of one array, writable.
    """
    if not sizes:
        return {}
    per_block = _per_block(kind)
    counts = {name: -(-size // per_block) for name, size in sizes.items()}
    words = [_words(key, name, Stream.Z, 0, count) for name, count in counts.items()]
    values = _values(kind, np.concatenate(words))
    ends = accumulate(count * per_block for count in counts.values())
    return {
        name: values[end - counts[name] * per_block :][: sizes[name]]
        for name, end in zip(sizes, ends, strict=True)
    }


def sample_flat(
    kind: Kind,
    key: Key,
    name: str,
    offset: int,
    length: int,
    stream: Stream = Stream.Z,
    table: FloatArray | None = None,
) -> FloatArray:
    """A range of a trainable's direction in C order, bit-equal to that part of the whole.

    Args:
        kind: the distribution.
        key: which direction.
        name: of the trainable.
        offset: the first element.
        length: how many elements; memory is proportional to it.
        stream: which of the key's sequences.
        table: f32[65536] for "gaussian"; None takes the one that ships with zofx.

    Returns:
        f32[length], fresh memory.
    """
    per_block = _per_block(kind)
    first, skip = divmod(offset, per_block)
    words = _words(key, name, stream, first, -(-(skip + length) // per_block))
    return _values(kind, words, table)[skip : skip + length]


def sample_words(
    key: Key, name: str, stream: Stream, offset: int, length: int
) -> NDArray[np.uint16]:
    """A range of a sequence of uniform 16-bit numbers, as a normal is indexed by; u16[length]."""
    first, skip = divmod(offset, VALUES_PER_BLOCK["gaussian"])
    blocks = -(-(skip + length) // VALUES_PER_BLOCK["gaussian"])
    words = _words(key, name, stream, first, blocks)
    return words.astype(LITTLE_U64, copy=False).view(LITTLE_U16)[skip : skip + length]


class _Own(threading.local):
    """A generator per thread: to make one takes several times as long as to put it elsewhere.

    Numbers of Python for what numpy keeps in arrays: its setter reads them one by one.
    """

    def __init__(self) -> None:
        self.philox = np.random.Philox(0)
        self.state: Any = {**self.philox.state, "buffer": (0,) * WORDS_PER_BLOCK}


_own = _Own()


def _words(key: Key, name: str, stream: Stream, first: int, blocks: int) -> WordArray:
    """The random words of some consecutive blocks, u64[4 · blocks]."""
    _own.state["state"] = {"counter": (first, trainable_id(name), stream, 0), "key": key.words()}
    _own.philox.state = _own.state
    words: WordArray = _own.philox.random_raw(WORDS_PER_BLOCK * blocks)
    return words


def _per_block(kind: Kind) -> int:
    if kind not in VALUES_PER_BLOCK:
        raise UsageError(
            f"there is no noise of kind '{kind}'; there are: {', '.join(VALUES_PER_BLOCK)}"
        )
    return VALUES_PER_BLOCK[kind]


def _values(kind: Kind, words: WordArray, table: FloatArray | None = None) -> FloatArray:
    if kind == "rademacher":
        return _signs(words)
    return _quantiles(words, normal_table() if table is None else table)


def _signs(words: WordArray) -> FloatArray:
    """Bit → ±1, f32[64 · words]."""
    bits = np.unpackbits(words.astype(LITTLE_U64, copy=False).view(np.uint8), bitorder="little")
    signs = bits.astype(np.float32)
    signs *= 2
    signs -= 1
    return signs


def _quantiles(words: WordArray, table: FloatArray) -> FloatArray:
    """16 bits → table entry, f32[4 · words]."""
    if table.shape != (TABLE_SIZE,) or table.dtype != np.float32:
        raise ArtifactError(
            f"a table of normals is f32[{TABLE_SIZE}]; this one is {table.dtype}{list(table.shape)}"
        )
    indices = words.astype(LITTLE_U64, copy=False).view(LITTLE_U16)
    # Every index is in range; "clip" only spares numpy the check, at half the time.
    return table.take(indices, mode="clip")

"""Directions as a stock ONNX model: z(key) where no Python is around.

    keys: i64[Q, 2] → {slice}.z: f32[Q, *shape] of every trainable, bit-equal to
    `zofx.zo.random.noise.sample`

    blocks, slice after slice ──Scan, B at a time──▶ counters ▶ Philox ▶ lanes ▶ table ──▶
    trainables

Philox4x64-10 on two words at once, x = (c0, c2) and y = (c3, c1) under the key (k1, k0): a round is

    (high, low) = (M0, M1) · x        x ← swap(high ^ y ^ key)        y ← low

A lane of a word is the index of a table row: 16 bits for a normal quantile, 8 bits for eight signs.
Invariants: standard operators only, each with a kernel in ONNX Runtime's CPU provider; nothing in
the file grows with the size of a trainable; random bits take memory for Q · B blocks at any size.
Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Final, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zofx import __version__
from zofx.errors import ArtifactError, UsageError
from zofx.runtimes.onnx_export.emitter import Emitter
from zofx.zo.random.noise import (
    TABLE_SIZE,
    VALUES_PER_BLOCK,
    Kind,
    Stream,
    normal_table,
    trainable_id,
)
from zofx.zo.random.philox import KEY_STEPS, MULTIPLIERS, ROUNDS

OPSET: Final = 21
IR_VERSION: Final = 10
KEYS: Final = "keys"
TABLE: Final = "table"
TABLE_BYTES: Final = 4 * TABLE_SIZE
MAX_BLOCKS: Final = 1 << 14
"""Blocks per iteration: 128 KiB per word and key. More are not faster; with few the loop shows."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_LANE_BITS: Final[dict[Kind, int]] = {"gaussian": 16, "rademacher": 8}
_MULTIPLIERS: Final = np.array(MULTIPLIERS, dtype=np.uint64).reshape(2, 1, 1)
_LOW: Final = np.uint64(0xFFFF_FFFF)
_HALF: Final = np.uint64(32)
_SWAP: Final = [1, 0]


def build_noise_model(
    trainables: Shapes,
    kind: Kind,
    *,
    table_file: tuple[str, int, int] | None = None,
    max_blocks: int = MAX_BLOCKS,
) -> onnx.ModelProto:
    """A model that computes the directions of all trainables under any number of keys.

    The input `keys` holds the words of `zofx.zo.types.key_words`, but as int64: the same bits. So
    does the input of the program itself, and Java has no unsigned arrays to feed.

    Args:
        trainables: name → shape, in the order of the outputs; none without elements.
        kind: the distribution.
        table_file: where the f32[65536] quantiles of "gaussian" are: (path relative to the model's
            folder, offset, length), both in bytes. None puts the table that ships with zofx into
            the model.
        max_blocks: bound on B, the blocks (of 16 normals or 256 signs) made at a time for each key.

    Returns:
        The model; its outputs are `{slice}.z`, f32[Q, *shape], also for Q = 0.

    Raises:
        UsageError: an unknown kind, no trainables, a trainable without elements, or max_blocks < 1.
        ArtifactError: a table of another size.
    """
    _check(trainables, kind, max_blocks)
    layout = _Layout.of(trainables, VALUES_PER_BLOCK[kind], max_blocks)
    emit = Emitter()
    stored = [_normal_table(table_file)] if kind == "gaussian" else []
    table = TABLE if kind == "gaussian" else _sign_table(emit)
    body = _chunk(emit.inner(), layout, _round_keys(emit), table, _LANE_BITS[kind])
    width = np.int64(layout.width)
    starts = emit("Range", np.int64(0), layout.chunks * width, width)
    _cut(emit, layout, emit("Scan", starts, body=body, num_scan_inputs=1))
    graph = helper.make_graph(
        emit.nodes,
        "noise",
        [helper.make_tensor_value_info(KEYS, TensorProto.INT64, ["Q", 2])],
        [
            helper.make_tensor_value_info(f"{name}.z", TensorProto.FLOAT, ["Q", *shape])
            for name, shape in trainables.items()
        ],
        initializer=[*stored, *emit.constants.values()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="zofx",
        producer_version=__version__,
    )


def _check(trainables: Shapes, kind: Kind, max_blocks: int) -> None:
    """Refuse what has no model."""
    if kind not in VALUES_PER_BLOCK:
        known = ", ".join(VALUES_PER_BLOCK)
        raise UsageError(f"there is no noise of kind '{kind}'; there are: {known}")
    if max_blocks < 1:
        raise UsageError(f"max_blocks={max_blocks} computes nothing; it must be at least 1")
    if not trainables:
        raise UsageError("the noise model has no trainables to perturb; select what to train first")
    for name, shape in trainables.items():
        if prod(shape) == 0:
            raise UsageError(
                f"slice '{name}' of shape {list(shape)} has no elements to perturb; leave it out"
            )


@dataclass(frozen=True)
class _Layout:
    """Where the trainables lie among the blocks of one key: end to end, each on blocks of its own.

    Attributes:
        trainables: name → shape.
        per_block: values per block.
        firsts: the first block of each trainable.
        chunks: iterations of the loop.
        width: blocks per iteration, B; chunks · B is at least the number of blocks.
    """

    trainables: Shapes
    per_block: int
    firsts: tuple[int, ...]
    chunks: int
    width: int

    @classmethod
    def of(cls, trainables: Shapes, per_block: int, max_blocks: int) -> "_Layout":
        """Chunks of about equal size, so that little is computed in vain."""
        blocks = [-(-prod(shape) // per_block) for shape in trainables.values()]
        *firsts, total = accumulate(blocks, initial=0)
        chunks = -(-total // max_blocks)
        return cls(trainables, per_block, tuple(firsts), chunks, width=-(-total // chunks))

    def pieces(self) -> Iterator[tuple[str | None, int]]:
        """The values in order: (slice, how many), (None, how many) for those that nobody reads."""
        ends = [first * self.per_block for first in (*self.firsts[1:], self.chunks * self.width)]
        for (name, shape), first, end in zip(
            self.trainables.items(), self.firsts, ends, strict=True
        ):
            size = prod(shape)
            yield name, size
            if rest := end - first * self.per_block - size:
                yield None, rest


def _normal_table(file: tuple[str, int, int] | None) -> TensorProto:
    """The quantiles f32[65536], by value or by place."""
    if file is None:
        return numpy_helper.from_array(normal_table(), TABLE)
    location, offset, length = file
    if length != TABLE_BYTES:
        raise ArtifactError(
            f"a table of normals has {TABLE_BYTES} bytes; the one at byte {offset} of {location} "
            f"has {length}; write the {TABLE_SIZE} float32 quantiles there"
        )
    tensor = TensorProto(
        name=TABLE,
        data_type=TensorProto.FLOAT,
        dims=[TABLE_SIZE],
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _sign_table(emit: Emitter) -> str:
    """The signs of a byte's bits, lowest first, f32[256, 8]: computed, to keep the file small."""
    numbers, shifts = np.arange(256, dtype=np.uint8)[:, None], np.arange(8, dtype=np.uint8)
    bits = emit("BitwiseAnd", emit("BitShift", numbers, shifts, direction="RIGHT"), np.uint8(1))
    doubled = emit("Mul", emit("Cast", bits, to=TensorProto.FLOAT), np.float32(2))
    return emit("Sub", doubled, np.float32(1))


def _round_keys(emit: Emitter) -> list[str]:
    """(k1, k0) of every round, u64[2, Q, 1] each: the key plus so many steps, modulo 2⁶⁴."""
    steps = [[[r * int(step) % 2**64 for r in range(ROUNDS)]] for step in reversed(KEY_STEPS)]
    words = emit("Gather", emit("Cast", KEYS, to=TensorProto.UINT64), _SWAP, axis=1)
    columns = emit("Unsqueeze", emit("Transpose", words, perm=[1, 0]), [2])
    keys = emit("Add", columns, np.array(steps, dtype=np.uint64))
    outputs = [f"key{r}" for r in range(ROUNDS)]
    emit.into(outputs, "Split", keys, axis=2, num_outputs=ROUNDS)
    return outputs


def _chunk(
    emit: Emitter, layout: _Layout, round_keys: Sequence[str], table: str, lane_bits: int
) -> onnx.GraphProto:
    """The body of the loop: first block → values of B blocks, f32[Q, B · per_block]."""
    x, y = _counters(emit, layout, "start")
    for key in round_keys:
        mixed = emit("BitwiseXor", emit("BitwiseXor", _multiply_high(emit, x), y), key)
        x, y = emit("Gather", mixed, _SWAP, axis=0), emit("Mul", _MULTIPLIERS, x)
    rows = emit("Gather", table, _lanes(emit, x, y, lane_bits))
    size = layout.width * layout.per_block
    emit.into(["values"], "Reshape", rows, [-1, size])
    return helper.make_graph(
        emit.nodes,
        "chunk",
        [helper.make_tensor_value_info("start", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["Q", size])],
    )


def _counters(emit: Emitter, layout: _Layout, start: str) -> tuple[str, str]:
    """The counters of B blocks: x = (c0, c2) and y = (c3, c1), u64[2, 1, B] each.

    A block's slice is the number of trainables that begin at or before it, less one: mark where
    they begin, those before the chunk at its first block, and sum.
    """
    width, firsts = np.int64(layout.width), np.array(layout.firsts, dtype=np.int64)
    zero = numpy_helper.from_array(np.zeros(1, dtype=np.int64))
    zeros = emit("ConstantOfShape", [layout.width + 1], value=zero)
    begin = emit("Clip", emit("Sub", firsts, start), np.int64(0), width)
    marks = emit("ScatterElements", zeros, begin, np.ones_like(firsts), reduction="add")
    ranks = emit("Slice", emit("CumSum", marks, np.int64(0)), [0], [layout.width])
    owners = emit("Sub", ranks, np.int64(1))
    positions = emit("Range", start, emit("Add", start, width), np.int64(1))
    # numpy's convention: the first block has counter 1.
    blocks = emit("Sub", positions, emit("Gather", firsts - 1, owners))
    ids = np.array([trainable_id(name) for name in layout.trainables], dtype=np.uint64)
    shape = [1, 1, layout.width]
    c0 = emit("Reshape", emit("Cast", blocks, to=TensorProto.UINT64), shape)
    c1 = emit("Reshape", emit("Gather", ids, owners), shape)
    c2 = emit("Expand", np.uint64(Stream.Z), shape)
    c3 = emit("Expand", np.uint64(0), shape)
    return emit("Concat", c0, c2, axis=0), emit("Concat", c3, c1, axis=0)


def _multiply_high(emit: Emitter, x: str) -> str:
    """The high words of (M0, M1) · x, as `zofx.zo.random.philox.multiply_high`."""
    a_low, a_high = _MULTIPLIERS & _LOW, _MULTIPLIERS >> _HALF
    x_low, x_high = emit("BitwiseAnd", x, _LOW), _high_half(emit, x)
    carry = _high_half(emit, emit("Mul", a_low, x_low))
    middle = emit("Add", emit("Mul", a_high, x_low), carry)
    cross = emit("Add", emit("Mul", a_low, x_high), emit("BitwiseAnd", middle, _LOW))
    upper = emit("Add", emit("Mul", a_high, x_high), _high_half(emit, middle))
    return emit("Add", upper, _high_half(emit, cross))


def _high_half(emit: Emitter, x: str) -> str:
    return emit("BitShift", x, _HALF, direction="RIGHT")


def _lanes(emit: Emitter, x: str, y: str, bits: int) -> str:
    """The random words cut into lanes, lowest first: i32[Q, B, 4, 64 / bits]."""
    ordered = emit("Gather", emit("Concat", x, y, axis=0), [0, 3, 1, 2], axis=0)
    words = emit("Unsqueeze", ordered, [1])
    shifts = np.arange(0, 64, bits, dtype=np.uint64).reshape(-1, 1, 1)
    shifted = emit("BitShift", words, shifts, direction="RIGHT")
    lanes = emit("BitwiseAnd", shifted, np.uint64((1 << bits) - 1))
    # Rows of blocks are shifted, then transposed: with the lanes innermost it takes twice as long.
    return emit("Transpose", emit("Cast", lanes, to=TensorProto.INT32), perm=[2, 3, 0, 1])


def _cut(emit: Emitter, layout: _Layout, chunks: str) -> None:
    """f32[chunks, Q, B · per_block] → the trainables, each f32[Q, *shape]."""
    size = layout.chunks * layout.width * layout.per_block
    # Scan could put the keys first itself, but with no keys that kills ONNX Runtime 1.31.
    by_key = emit("Transpose", chunks, perm=[1, 0, 2])
    values = emit("Reshape", by_key, [0, size])
    names, sizes = zip(*layout.pieces(), strict=True)
    parts = [f"part{i}" for i in range(len(sizes))]
    emit.into(parts, "Split", values, list(sizes), axis=1)
    for name, part in zip(names, parts, strict=True):
        if name is not None:
            emit.into([f"{name}.z"], "Reshape", part, [0, *layout.trainables[name]])

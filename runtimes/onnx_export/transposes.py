"""Transposed products in ONNX: what the backward graph multiplies cotangents by.

linear_nf4_transpose        Gather from a table of all bytes · MatMul
linear_int_transpose        the same for 4 bits; for 8 DequantizeLinear · MatMul
linear_int8_transpose       DequantizeLinear · FusedMatMul
linear_rounded_transpose    com.microsoft.MatMulIntegerToFloat of the transposed codes
sparse_linear_transpose     a dense block of the columns with entries, then Gather back to all
sparse_linear_entries       a dense block of products, of which the entries are gathered

No kernel of packed codes multiplies by the transposed matrix: that of MatMulBnb4 ignores transB. So
a matrix is unpacked when it is needed, and dropped: ONNX Runtime folds no DequantizeLinear, and
codes that are gathered from are no constants to it (`unpacked_codes`). Memory stays that of the
codes, and one matrix in f32.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import onnx
import torch
from onnxscript import opset21 as op
from torch import fx

from zofx.ir.formats import nf4
from zofx.ir.ops import zofx_ops
from zofx.ir.sparse_cost import as_block
from zofx.runtimes.onnx_export import frozen
from zofx.runtimes.onnx_export.contrib_ops import head, ints, ms

aten = torch.ops.aten


def product(a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> Any:
    """Both transposes happen within the product."""
    return ms.FusedMatMul(a, b, transA=int(transpose_a), transB=int(transpose_b))


def linear_nf4_transpose(dy: Any, codes: Any, absmax: Any, width: int, block: int) -> Any:
    """The first value is in the high nibble."""
    levels = nf4.levels()
    table = torch.stack(torch.meshgrid(levels, levels, indexing="ij"), dim=-1)
    blocks = op.Reshape(_looked_up(table, codes), ints(-1, block))
    weight = op.Mul(blocks, op.Unsqueeze(absmax, ints(1)))
    return op.MatMul(dy, op.Reshape(weight, ints(-1, width)))


def linear_int_transpose(dy: Any, codes: Any, scales: Any, zeros: Any, bits: int) -> Any:
    """Of two values in a byte the first is in the low nibble."""
    out, blocks, stored = codes.shape
    if bits == 8:
        flat = op.Reshape(codes, ints(out, blocks * stored))
        weight = op.DequantizeLinear(flat, scales, zeros, axis=1, block_size=stored)
        return op.MatMul(dy, weight)
    numbers = torch.arange(16, dtype=torch.float32)
    table = torch.stack(torch.meshgrid(numbers, numbers, indexing="xy"), dim=-1)
    levels = op.Reshape(_looked_up(table, codes), ints(out, blocks, 2 * stored))
    offsets = op.Reshape(_looked_up(table, zeros), ints(out, -1))
    offsets = op.Unsqueeze(op.Slice(offsets, ints(0), ints(blocks), ints(1)), ints(2))
    weight = op.Mul(op.Sub(levels, offsets), op.Unsqueeze(scales, ints(2)))
    return op.MatMul(dy, op.Reshape(weight, ints(out, -1)))


def _looked_up(table: torch.Tensor, codes: Any) -> Any:
    """Both values of every byte: f32[16, 16, 2], u8[…] → f32[…, 2]."""
    pairs = op.Constant(value=onnx.numpy_helper.from_array(table.reshape(256, 2).numpy()))
    return op.Gather(pairs, op.Cast(codes, to=onnx.TensorProto.INT32), axis=0)


def unpacked_codes(graph: fx.Graph) -> Iterator[str]:
    """Names of the codes that are gathered from."""
    for node in graph.find_nodes(op="call_function", target=zofx_ops.linear_nf4_transpose.default):
        yield str(node.args[1].target)
    for node in graph.find_nodes(op="call_function", target=zofx_ops.linear_int_transpose.default):
        if node.args[-1] == 4:
            yield from (str(node.args[place].target) for place in (1, 3))


def linear_int8_transpose(dy: Any, codes: Any, scales: Any) -> Any:
    """ONNX Runtime does not fold a DequantizeLinear."""
    return ms.FusedMatMul(dy, op.DequantizeLinear(codes, scales, axis=1), transB=1)


def linear_codebook_transpose(dy: Any, codes: Any, centroids: Any) -> Any:
    """Folded into an f32 weight at load, as in the forward graph."""
    return op.MatMul(dy, frozen.codebook_matrix(codes, centroids))


def linear_rounded_transpose(dy: Any, steps: Any, codes: Any) -> Any:
    """The transposed codes are made at load; the scales are in the cotangents already."""
    one = op.Constant(value_float=1.0)
    transposed = op.Transpose(codes, perm=[1, 0])
    return op.Mul(ms.MatMulIntegerToFloat(dy, transposed, one, one, frozen.zero()), steps)


def _entries(index: Any, width: int) -> tuple[Any, Any, Any]:
    """Rows, columns with entries, and for each entry its column's number among these: i64."""
    position = op.Cast(index, to=onnx.TensorProto.INT64)
    row = op.Div(position, ints(width))
    touched, _, place, _ = op.Unique(op.Sub(position, op.Mul(row, ints(width))), sorted=1)
    return row, touched, place


def sparse_linear_transpose(dy: Any, values: Any, index: Any, width: int, columns: int) -> Any:
    """Columns without entries read a column of zeros."""
    out = dy.shape[-1]
    row, touched, place = _entries(index, width)
    count = op.Shape(touched)
    at = op.Add(op.Mul(row, count), place)
    zeros = op.ConstantOfShape(op.Mul(count, ints(out)))
    block = op.Reshape(
        op.ScatterElements(zeros, at, values, axis=0), op.Concat(ints(out), count, axis=0)
    )
    few = op.MatMul(dy, block)
    rank = len(dy.shape)
    padded = op.Pad(few, ints(*[0] * (2 * rank - 1), 1))
    numbers = op.Expand(count, ints(width))
    every = op.ScatterElements(numbers, touched, op.Range(*_upto(count)), axis=0)
    return op.Gather(padded, every, axis=-1)


def _upto(count: Any) -> tuple[Any, Any, Any]:
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    return zero, op.Squeeze(count), one


def sparse_linear_entries(dy: Any, x: Any, index: Any, columns: int, deepest: int) -> Any:
    """Σ over rows of products, where there are entries."""
    width, out = x.shape[-1], dy.shape[-1]
    flat_dy, flat_x = op.Reshape(dy, ints(-1, out)), op.Reshape(x, ints(-1, width))
    if as_block(index.shape[0], columns, deepest, out, width):
        row, touched, place = _entries(index, width)
        block = ms.FusedMatMul(flat_dy, op.Gather(flat_x, touched, axis=1), transA=1)
        at = op.Add(op.Mul(row, op.Shape(touched)), place)
        return op.Gather(op.Reshape(block, ints(-1)), at)
    position = op.Cast(index, to=onnx.TensorProto.INT64)
    row = op.Div(position, ints(width))
    column = op.Sub(position, op.Mul(row, ints(width)))
    products = op.Mul(op.Gather(flat_dy, row, axis=1), op.Gather(flat_x, column, axis=1))
    return op.ReduceSum(products, ints(0), keepdims=0)


def select_positions_transpose(dy: Any, positions: Any, tokens: Any) -> Any:
    """Each cotangent is added at (n, positions[n, s])."""
    rows, count = head(positions, 1), op.Reshape(tokens, ints(1))
    zeros = op.ConstantOfShape(op.Concat(rows, count, op.Shape(dy, start=2), axis=0))
    number = op.Unsqueeze(op.Range(*_upto(rows)), ints(1))
    pairs = op.Expand(number, op.Shape(positions)), positions
    at = op.Concat(*(op.Unsqueeze(part, ints(2)) for part in pairs), axis=2)
    return op.ScatterND(zeros, at, dy, reduction="add")


def rsub(x: Any, other: float, alpha: float = 1.0) -> Any:
    """Other − alpha·x, which derivatives are written in and torch.onnx has no function for."""
    scaled = x if alpha == 1 else op.Mul(x, op.Constant(value_float=float(alpha)))
    return op.Sub(op.Constant(value_float=float(other)), scaled)


TRANSLATIONS: Final[Mapping[Callable[..., Any], Callable[..., Any]]] = {
    aten.rsub.Scalar: rsub,
    zofx_ops.linear_codebook_transpose.default: linear_codebook_transpose,
    zofx_ops.linear_int_transpose.default: linear_int_transpose,
    zofx_ops.linear_int8_transpose.default: linear_int8_transpose,
    zofx_ops.linear_nf4_transpose.default: linear_nf4_transpose,
    zofx_ops.linear_rounded_transpose.default: linear_rounded_transpose,
    zofx_ops.product.default: product,
    zofx_ops.select_positions_transpose.default: select_positions_transpose,
    zofx_ops.sparse_linear_entries.default: sparse_linear_entries,
    zofx_ops.sparse_linear_transpose.default: sparse_linear_transpose,
}

"""What each op of a program becomes in ONNX: one small function per op, in a table.

    zofx:: op            lowering
    linear_…             `onnx_frozen`: a kernel per frozen format
    sparse_linear        products over the columns it touches, or Gather · Mul · ScatterND(add)

Functions take ONNX values and the op's own attributes, and return a value; shapes are those of
`zofx.ir.ops`. The other aten ops have torch.onnx's functions.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnxscript import opset21 as op

from zofx.ir.ops import zofx_ops
from zofx.ir.sparse_cost import as_block, rows_at_once
from zofx.runtimes.onnx_export import frozen as frozen
from zofx.runtimes.onnx_export.contrib_ops import head, ints, leading, ms

aten = torch.ops.aten


def select_positions(x: Any, positions: Any) -> Any:
    """Row n of the indices picks from row n of x."""
    return op.GatherND(x, op.Unsqueeze(positions, ints(2)), batch_dims=1)


def score_targets(logits: Any, targets: Any) -> Any:
    """The chosen logits less the log of the sum, never the whole log-softmax."""
    zero = op.Constant(value_int=0)
    scored = op.Cast(op.GreaterOrEqual(targets, zero), to=onnx.TensorProto.FLOAT)
    chosen = op.GatherElements(logits, op.Max(targets, zero), axis=-1)
    log_probability = op.Sub(chosen, op.ReduceLogSumExp(logits, ints(-1), keepdims=1))
    total = op.ReduceSum(op.Mul(log_probability, scored), ints(1), keepdims=0)
    count = op.ReduceSum(scored, ints(1), keepdims=0)
    return op.Div(total, op.Max(count, op.Constant(value_float=1.0)))


def sparse_linear(x: Any, values: Any, index: Any, out: int, columns: int, deepest: int) -> Any:
    """Entry j is at row index[j] / in and column index[j] % in."""
    width, entries = x.shape[-1], index.shape[0]
    values = values if len(values.shape) == 2 else op.Unsqueeze(values, ints(0))
    parts = _by_probe(x, values)
    if as_block(entries, columns, deepest, out, width):
        y = _times_block(parts, values, index, columns, width, out)
    else:
        y = _times_entries(parts, values, index, deepest, width, out)
    return _reshape(y, leading(x), ints(out))


def _reshape(x: Any, *sizes: Any) -> Any:
    """To sizes that may be 0, which one probe leaves for the others: none is −1."""
    return op.Reshape(x, op.Concat(*sizes, axis=0), allowzero=1)


def _by_probe(x: Any, values: Any) -> Any:
    """[P·N, …, D] as [P, N·…, D], for values [P, …]."""
    probes = head(values, 1)
    between = op.ReduceProd(op.Shape(x, start=1, end=-1), keepdims=1)
    return _reshape(x, probes, op.Mul(_rows(x, probes), between), ints(x.shape[-1]))


def _rows(x: Any, probes: Any) -> Any:
    """How many each probe has: i64[1]."""
    return op.Div(head(x, 1), op.Max(probes, ints(1)))


def _places(index: Any, width: int) -> tuple[Any, Any]:
    """Rows and columns, i64."""
    position = op.Cast(index, to=onnx.TensorProto.INT64)
    row = op.Div(position, ints(width))
    return row, op.Sub(position, op.Mul(row, ints(width)))


def _times_block(x: Any, values: Any, index: Any, columns: int, width: int, out: int) -> Any:
    """[P, M, in] → [P, M, out] by dense products over the columns with entries.

    Some rows of S at a time, and these have entries that follow each other. All but the values
    depends on `index` alone: the engine folds it at load. How many probes there are is read from x,
    so that a block is not made before x is there: ONNX Runtime makes first what needs no other
    node, and would keep the blocks of all layers.
    """
    row, column = _places(index, width)
    touched, _, inverse, _ = op.Unique(column, sorted=1)
    count = op.Shape(touched)
    place = op.Add(op.Mul(row, count), inverse)
    picked, step = op.Gather(x, touched, axis=2), rows_at_once(columns, out)
    probes, products = head(x, 1), []
    for start in range(0, out, step):
        rows, own, at = min(step, out - start), values, place
        if rows < out:
            entries = _below(row, start), _below(row, start + rows)
            own = op.Slice(values, *entries, ints(1))
            at = op.Sub(op.Slice(place, *entries, ints(0)), op.Mul(count, ints(start)))
        block = _block(own, at, probes, rows, count)
        products.append(ms.FusedMatMul(picked, block, transB=1))
    return products[0] if len(products) == 1 else op.Concat(*products, axis=-1)


def _block(values: Any, place: Any, probes: Any, rows: int, columns: Any) -> Any:
    """f32[P, k] at flat places i64[k] of f32[P, rows, columns], which is zero elsewhere."""
    zeros = op.ConstantOfShape(op.Concat(probes, op.Mul(columns, ints(rows)), axis=0))
    every = op.Expand(op.Unsqueeze(place, ints(0)), op.Concat(probes, ints(1), axis=0))
    return _reshape(op.ScatterElements(zeros, every, values, axis=1), probes, ints(rows), columns)


def _below(row: Any, limit: int) -> Any:
    """How many entries are in rows before this one: i64[1]."""
    before = op.Cast(op.Less(row, op.Constant(value_int=limit)), to=onnx.TensorProto.INT64)
    return op.ReduceSum(before, ints(0), keepdims=1)


def _times_entries(x: Any, values: Any, index: Any, deepest: int, width: int, out: int) -> Any:
    """[P, M, in] → [P, M, out]: y[r, p, m] += v[p, j] · x[c, p, m] for every entry j at (r, c).

    Every `deepest`-th entry at a time. Entries are in the order of their rows, so none of these
    share one: ONNX Runtime's threads add to y without looking at each other. `index` is no constant
    (`onnx_export`), or rows and columns would be kept in i64, four times its size.
    """
    x_cols = op.Transpose(x, perm=[2, 0, 1])
    weights = op.Unsqueeze(op.Transpose(values), ints(-1))
    y = op.ConstantOfShape(op.Concat(ints(out), op.Shape(x_cols, start=1, end=3), axis=0))
    for start in range(deepest):
        part = ints(start), ints(torch.iinfo(torch.int64).max), ints(0), ints(deepest)
        row, column = _places(op.Slice(index, *part), width)
        products = op.Mul(op.Gather(x_cols, column, axis=0), op.Slice(weights, *part))
        y = op.ScatterND(y, op.Unsqueeze(row, ints(-1)), products, reduction="add")
    return op.Transpose(y, perm=[1, 2, 0])


def perturb(values: Any, z: Any, coefficients: Any) -> Any:
    """One product per probe, then one sum: the same roundings as moving θ by hand."""
    return op.Add(values, combine(values, z, coefficients))


def combine(values: Any, z: Any, coefficients: Any) -> Any:
    """The directions as rows of a matrix."""
    if len(values.shape) == 1:
        return ms.FusedMatMul(coefficients, z)  # a MatMul would be fused with the sum that follows
    step = op.MatMul(coefficients, op.Flatten(z, axis=1))
    return op.Reshape(step, ints(-1, *values.shape))


def mask_small(z: Any, values: Any, limit: float) -> Any:
    """The mask is made of θ as it is fed, and stored nowhere."""
    small = op.LessOrEqual(op.Abs(values), op.Constant(value_float=limit))
    return op.Where(small, z, op.Constant(value_float=0.0))


def replicate(x: Any, coefficients: Any) -> Any:
    """P copies of the rows, one after the other."""
    ones = ints(*[1] * (len(x.shape) - 1)) if len(x.shape) > 1 else None
    probes = head(coefficients, 1)
    return op.Tile(x, probes if ones is None else op.Concat(probes, ones, axis=0))


def minus_base(x: Any, base: Any) -> Any:
    """Subtract the base from each probe: x f32[(P − 1)·N, …], base f32[N, …]."""
    return _each_probe(op.Sub, x, base)


def plus_base(x: Any, base: Any) -> Any:
    """Add the base to each probe: x f32[(P − 1)·N, …], base f32[N, …]."""
    return _each_probe(op.Add, x, base)


def _each_probe(what: Any, x: Any, base: Any) -> Any:
    parts = op.Reshape(x, op.Concat(ints(-1), op.Shape(base), axis=0))
    return op.Reshape(what(parts, base), op.Concat(ints(-1), op.Shape(base, start=1), axis=0))


def probe_rows(values: Any, rows: Any, dims: int) -> Any:
    """Every probe's values N times, with axes of 1 to meet the activations'."""
    shape = op.Shape(values, start=1)
    every = op.Concat(head(values, 1), op.Reshape(rows, ints(1)), shape, axis=0)
    repeated = op.Expand(op.Unsqueeze(values, ints(1)), every)
    between = [1] * (dims - len(values.shape))
    return op.Reshape(repeated, op.Concat(ints(-1, *between), shape, axis=0))


def probe_linear(x: Any, weight: Any) -> Any:
    """One batched product, a weight per probe."""
    y = ms.FusedMatMul(_by_probe(x, weight), weight, transB=1)
    return _reshape(y, leading(x), ints(weight.shape[1]))


def probe_embedding(weight: Any, ids: Any) -> Any:
    """One table of all probes; the indices of probe p start at p·V."""
    _, vocabulary, width = weight.shape
    probes = op.Squeeze(head(weight, 1))
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    first = op.Mul(op.Range(zero, probes, one), ints(vocabulary))
    rows = op.Mul(_rows(ids, head(weight, 1)), op.ReduceProd(op.Shape(ids, start=1), keepdims=1))
    by_probe = _reshape(ids, head(weight, 1), rows)
    place = op.Reshape(op.Add(by_probe, op.Unsqueeze(first, ints(1))), op.Shape(ids))
    return op.Gather(op.Reshape(weight, ints(-1, width)), place)


def cut(x: Any) -> Any:
    """The same values."""
    return op.Identity(x)


def split_probes(x: Any, coefficients: Any) -> Any:
    """[P·N, …] as [P, N, …]."""
    return op.Reshape(x, op.Concat(head(coefficients, 1), ints(-1), op.Shape(x, start=1), axis=0))


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    aten.linear.default: frozen.linear,
    zofx_ops.combine.default: combine,
    zofx_ops.cut.default: cut,
    zofx_ops.dequantize_int.default: frozen.dequantize_int,
    zofx_ops.left_over.default: frozen.left_over,
    zofx_ops.linear_codebook.default: frozen.linear_codebook,
    zofx_ops.linear_gguf.default: frozen.linear_gguf,
    zofx_ops.linear_int.default: frozen.linear_int,
    zofx_ops.linear_int8.default: frozen.linear_int8,
    zofx_ops.linear_nf4.default: frozen.linear_nf4,
    zofx_ops.linear_rounded.default: frozen.linear_rounded,
    zofx_ops.mask_small.default: mask_small,
    zofx_ops.minus_base.default: minus_base,
    zofx_ops.perturb.default: perturb,
    zofx_ops.plus_base.default: plus_base,
    zofx_ops.probe_embedding.default: probe_embedding,
    zofx_ops.probe_linear.default: probe_linear,
    zofx_ops.probe_rows.default: probe_rows,
    zofx_ops.replicate.default: replicate,
    zofx_ops.round_rows.default: frozen.round_rows,
    zofx_ops.row_scales.default: frozen.row_scales,
    zofx_ops.score_targets.default: score_targets,
    zofx_ops.select_positions.default: select_positions,
    zofx_ops.sparse_linear.default: sparse_linear,
    zofx_ops.split_probes.default: split_probes,
}

"""What each op of a program becomes in ONNX: one small function per op, in a table.

    zofx:: op            lowering
    linear_nf4           com.microsoft.MatMulBnb4       bitsandbytes' own packing
    linear_int           com.microsoft.MatMulNBits
    linear_codebook      unpack · GatherElements · MatMul
    aten.linear          com.microsoft.FusedMatMul, so that W stays [out, in] for both runtimes
    sparse_linear        MatMul over the columns it touches, or Gather · Mul · ScatterND(add)

Functions take ONNX values and the op's own attributes, and return a value; shapes are those of
`zofx.ops`. The other aten ops have torch.onnx's functions.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnxscript import opset21 as op
from onnxscript import values

from zofx.ops.rounding import ROW_STEP, ROW_ZERO
from zofx.ops.sparse import as_block

aten = torch.ops.aten
zofx = torch.ops.zofx
ms = values.Opset("com.microsoft", 1)

NF4 = 1  # MatMulBnb4's number for it


def _register(name: str, inputs: str, attributes: str, like: int = 0) -> None:
    """Tell onnx of a contrib op of ONNX Runtime, so that a translation may call it.

    Args:
        name: of the op.
        inputs: its inputs; a trailing "?" marks an optional one.
        attributes: its integer attributes.
        like: which input its output has the type of.
    """
    schema = onnx.defs.OpSchema
    optional = schema.FormalParameterOption.Optional
    onnx.defs.register_schema(
        schema(
            name,
            ms.domain,
            ms.version,
            inputs=[
                schema.FormalParameter(
                    word.rstrip("?"), f"T{i}", **({"param_option": optional} if "?" in word else {})
                )
                for i, word in enumerate(inputs.split())
            ],
            outputs=[schema.FormalParameter("Y", f"T{like}")],
            type_constraints=[
                (f"T{i}", [f"tensor({t})" for t in ("float", "uint8", "int8", "int32")], "")
                for i in range(len(inputs.split()))
            ],
            attributes=[
                schema.Attribute(word, schema.AttrType.INT, required=False)
                for word in attributes.split()
            ],
        )
    )


_register("FusedMatMul", "A B", "transA transB")
_register("MatMulBnb4", "A B absmax", "K N block_size quant_type training_mode")
_register(
    "MatMulNBits", "A B scales zero_points? g_idx? bias?", "K N bits block_size accuracy_level"
)
_register(
    "MatMulIntegerToFloat",
    "A B a_scale b_scale a_zero_point? b_zero_point? bias?",
    "",
    like=2,
)


def _head(x: Any, count: int) -> Any:
    """The first `count` sizes of x."""
    return op.Shape(x, start=0, end=count)


def _leading(x: Any) -> Any:
    """All sizes of x but the last."""
    return op.Shape(x, start=0, end=-1)


def _ints(*numbers: int) -> Any:
    return op.Constant(value_ints=list(numbers))


def _add_bias(y: Any, bias: Any) -> Any:
    return y if bias is None else op.Add(y, bias)


def select_positions(x: Any, positions: Any) -> Any:
    """Row n of the indices picks from row n of x."""
    return op.GatherND(x, op.Unsqueeze(positions, _ints(2)), batch_dims=1)


def score_targets(logits: Any, targets: Any) -> Any:
    """The chosen logits less the log of the sum, never the whole log-softmax."""
    zero = op.Constant(value_int=0)
    scored = op.Cast(op.GreaterOrEqual(targets, zero), to=onnx.TensorProto.FLOAT)
    chosen = op.GatherElements(logits, op.Max(targets, zero), axis=-1)
    log_probability = op.Sub(chosen, op.ReduceLogSumExp(logits, _ints(-1), keepdims=1))
    total = op.ReduceSum(op.Mul(log_probability, scored), _ints(1), keepdims=0)
    count = op.ReduceSum(scored, _ints(1), keepdims=0)
    return op.Div(total, op.Max(count, op.Constant(value_float=1.0)))


def sparse_linear(x: Any, values: Any, index: Any, out: int, columns: int) -> Any:
    """Where the entries are depends on `index` alone: the engine folds that part at load."""
    width = x.shape[-1]
    values = values if len(values.shape) == 2 else op.Unsqueeze(values, _ints(0))
    position = op.Cast(index, to=onnx.TensorProto.INT64)
    row = op.Div(position, _ints(width))
    column = op.Sub(position, op.Mul(row, _ints(width)))
    parts = op.Reshape(x, op.Concat(_head(values, 1), _ints(-1, width), axis=0))
    way = _times_block if as_block(index.shape[0], columns, out, width) else _times_entries
    return op.Reshape(
        way(parts, values, row, column, out), op.Concat(_leading(x), _ints(out), axis=0)
    )


def _times_block(x: Any, values: Any, row: Any, column: Any, out: int) -> Any:
    """[P, M, in] → [P, M, out] by a dense product over the columns with entries."""
    touched, _, inverse, _ = op.Unique(column, sorted=1)
    place = op.Unsqueeze(op.Add(op.Mul(inverse, _ints(out)), row), _ints(0))
    block = op.ConstantOfShape(
        op.Concat(_head(values, 1), op.Mul(op.Shape(touched), _ints(out)), axis=0)
    )
    block = op.ScatterElements(block, op.Expand(place, op.Shape(values)), values, axis=1)
    block = op.Reshape(block, op.Concat(_head(values, 1), _ints(-1, out), axis=0))
    return op.MatMul(op.Gather(x, touched, axis=2), block)


def _times_entries(x: Any, values: Any, row: Any, column: Any, out: int) -> Any:
    """[P, M, in] → [P, M, out]: y[r, p, m] += v[p, j] · x[c, p, m] for every entry j at (r, c)."""
    x_cols = op.Transpose(x, perm=[2, 0, 1])
    weights = op.Unsqueeze(op.Transpose(values), _ints(-1))
    products = op.Mul(op.Gather(x_cols, column, axis=0), weights)
    empty = op.ConstantOfShape(op.Concat(_ints(out), op.Shape(x_cols, start=1, end=3), axis=0))
    y = op.ScatterND(empty, op.Unsqueeze(row, _ints(-1)), products, reduction="add")
    return op.Transpose(y, perm=[1, 2, 0])


def linear_nf4(x: Any, codes: Any, absmax: Any, bias: Any, out: int, block: int) -> Any:
    """Bitsandbytes' codes as they are."""
    y = ms.MatMulBnb4(
        x, codes, absmax, K=x.shape[-1], N=out, block_size=block, quant_type=NF4, training_mode=0
    )
    return _add_bias(y, bias)


def linear_int(x: Any, codes: Any, scales: Any, zeros: Any, bias: Any, bits: int) -> Any:
    """Accuracy level 0: activations stay f32."""
    out, _, stored = codes.shape
    y = ms.MatMulNBits(
        x, codes, scales, zeros, K=x.shape[-1], N=out, bits=bits, block_size=stored * 8 // bits
    )  # fmt: skip
    return _add_bias(y, bias)


def linear_int8(x: Any, codes: Any, scales: Any, bias: Any) -> Any:
    """No kernel takes x in f32: ONNX Runtime folds this into an f32 weight at load."""
    weight = op.Mul(op.Cast(codes, to=onnx.TensorProto.FLOAT), scales)
    return _add_bias(op.MatMul(x, weight), bias)


def row_scales(x: Any) -> Any:
    """The largest of a row; ONNX Runtime's passes over a NaN, so 0·x is added, which does not."""
    largest = op.ReduceMax(op.Abs(x), _ints(-1), keepdims=1)
    step = op.Mul(largest, op.Constant(value_float=ROW_STEP))
    none = op.Equal(largest, op.Constant(value_float=0.0))
    nothing = op.MatMul(x, op.ConstantOfShape(_ints(x.shape[-1], 1)))
    return op.Add(op.Where(none, op.Constant(value_float=1.0), step), nothing)


def round_rows(x: Any, scales: Any) -> Any:
    """Both round halves to even."""
    return op.QuantizeLinear(op.Div(x, scales), op.Constant(value_float=1.0), _zero())


def linear_rounded(x: Any, steps: Any, codes: Any, scales: Any) -> Any:
    """The rows' own scales come after: the kernel takes one for all."""
    one = op.Constant(value_float=1.0)
    return op.Mul(ms.MatMulIntegerToFloat(x, codes, one, scales, _zero()), steps)


def _zero() -> Any:
    return op.Cast(op.Constant(value_int=ROW_ZERO), to=onnx.TensorProto.UINT8)


def difference_probes(x: Any, coefficients: Any) -> Any:
    """The base and the rest are contiguous."""
    parts = _by_probe(x, coefficients)
    base = op.Slice(parts, _ints(0), _ints(1), _ints(0))
    rest = op.Slice(parts, _ints(1), _ints(torch.iinfo(torch.int64).max), _ints(0))
    return op.Reshape(op.Concat(base, op.Sub(rest, base), axis=0), op.Shape(x))


def sum_probes(x: Any, coefficients: Any) -> Any:
    """The base is added zero times to itself and once to the others: one sweep."""
    parts = _by_probe(x, coefficients)
    base = op.Slice(parts, _ints(0), _ints(1), _ints(0))
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    others = op.Greater(op.Range(zero, op.Squeeze(_head(coefficients, 1)), one), zero)
    times = op.Unsqueeze(op.Cast(others, to=onnx.TensorProto.FLOAT), _ints(1, 2))
    return op.Reshape(op.Add(parts, op.Mul(base, times)), op.Shape(x))


def _by_probe(x: Any, coefficients: Any) -> Any:
    """[P·N, …, k] → [P, N·…, k]."""
    return op.Reshape(x, op.Concat(_head(coefficients, 1), _ints(-1, x.shape[-1]), axis=0))


def dequantize_int(codes: Any, scales: Any, zeros: Any, bits: int) -> Any:
    """The scales are fed, so no kernel takes them; ONNX Runtime folds the rest into f32 at load."""
    out, blocks, stored = codes.shape
    levels = op.Reshape(_unpacked(codes, bits), _ints(out, blocks, stored * 8 // bits))
    offsets = op.Reshape(_unpacked(zeros, bits), _ints(out, -1))
    offsets = op.Slice(offsets, _ints(0), _ints(blocks), _ints(1))
    steps = op.Sub(levels, op.Unsqueeze(offsets, _ints(-1)))
    weight = op.Mul(steps, op.Unsqueeze(scales, _ints(-1)))
    width = blocks * stored * 8 // bits
    return op.Reshape(weight, op.Concat(_leading(scales), _ints(width), axis=0))


def _unpacked(codes: Any, bits: int) -> Any:
    """u8 → f32, two values to a byte if of 4 bits, the first in the low nibble."""
    if bits == 4:
        low = op.BitwiseAnd(codes, op.Cast(_ints(0xF), to=onnx.TensorProto.UINT8))
        high = op.BitShift(codes, op.Cast(_ints(4), to=onnx.TensorProto.UINT8), direction="RIGHT")
        codes = op.Concat(op.Unsqueeze(low, _ints(-1)), op.Unsqueeze(high, _ints(-1)), axis=-1)
    return op.Cast(codes, to=onnx.TensorProto.FLOAT)


def linear_codebook(x: Any, codes: Any, centroids: Any, bias: Any) -> Any:
    """No engine kernel reads a codebook: ONNX Runtime folds this into an f32 weight at load."""
    out, pairs = codes.shape
    low = op.BitwiseAnd(codes, op.Cast(_ints(0xF), to=onnx.TensorProto.UINT8))
    high = op.BitShift(codes, op.Cast(_ints(4), to=onnx.TensorProto.UINT8), direction="RIGHT")
    both = op.Concat(op.Unsqueeze(low, _ints(-1)), op.Unsqueeze(high, _ints(-1)), axis=-1)
    place = op.Cast(op.Reshape(both, _ints(out, 2 * pairs)), to=onnx.TensorProto.INT64)
    weight = op.GatherElements(centroids, place, axis=1)
    return _add_bias(ms.FusedMatMul(x, weight, transB=1), bias)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """W stays [out, in], as torch reads it."""
    return _add_bias(ms.FusedMatMul(x, weight, transB=1), bias)


def perturb(values: Any, z: Any, coefficients: Any) -> Any:
    """One product per probe, then one sum: the same roundings as moving θ by hand."""
    return op.Add(values, combine(values, z, coefficients))


def combine(values: Any, z: Any, coefficients: Any) -> Any:
    """The directions as rows of a matrix."""
    step = op.MatMul(coefficients, op.Flatten(z, axis=1))
    return op.Reshape(step, op.Concat(_head(coefficients, 1), op.Shape(values), axis=0))


def mask_small(z: Any, values: Any, limit: float) -> Any:
    """The mask is made of θ as it is fed, and stored nowhere."""
    small = op.LessOrEqual(op.Abs(values), op.Constant(value_float=limit))
    return op.Where(small, z, op.Constant(value_float=0.0))


def replicate(x: Any, coefficients: Any) -> Any:
    """P copies of the rows, one after the other."""
    ones = _ints(*[1] * (len(x.shape) - 1)) if len(x.shape) > 1 else None
    probes = _head(coefficients, 1)
    return op.Tile(x, probes if ones is None else op.Concat(probes, ones, axis=0))


def probe_rows(values: Any, rows: Any, dims: int) -> Any:
    """Every probe's values N times, with axes of 1 to meet the activations'."""
    shape = op.Shape(values, start=1)
    every = op.Concat(_head(values, 1), op.Reshape(rows, _ints(1)), shape, axis=0)
    repeated = op.Expand(op.Unsqueeze(values, _ints(1)), every)
    between = [1] * (dims - len(values.shape))
    return op.Reshape(repeated, op.Concat(_ints(-1, *between), shape, axis=0))


def probe_linear(x: Any, weight: Any) -> Any:
    """One batched product, a weight per probe."""
    parts = op.Reshape(x, op.Concat(_head(weight, 1), _ints(-1, x.shape[-1]), axis=0))
    y = ms.FusedMatMul(parts, weight, transB=1)
    return op.Reshape(y, op.Concat(_leading(x), _ints(weight.shape[1]), axis=0))


def probe_embedding(weight: Any, ids: Any) -> Any:
    """One table of all probes; the indices of probe p start at p·V."""
    _, vocabulary, width = weight.shape
    probes = op.Squeeze(_head(weight, 1))
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    first = op.Mul(op.Range(zero, probes, one), _ints(vocabulary))
    by_probe = op.Reshape(ids, op.Concat(_head(weight, 1), _ints(-1), axis=0))
    place = op.Reshape(op.Add(by_probe, op.Unsqueeze(first, _ints(1))), op.Shape(ids))
    return op.Gather(op.Reshape(weight, _ints(-1, width)), place)


def split_probes(x: Any, coefficients: Any) -> Any:
    """[P·N, …] as [P, N, …]."""
    return op.Reshape(x, op.Concat(_head(coefficients, 1), _ints(-1), op.Shape(x, start=1), axis=0))


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    aten.linear.default: linear,
    zofx.combine.default: combine,
    zofx.dequantize_int.default: dequantize_int,
    zofx.difference_probes.default: difference_probes,
    zofx.linear_codebook.default: linear_codebook,
    zofx.linear_int.default: linear_int,
    zofx.linear_int8.default: linear_int8,
    zofx.linear_nf4.default: linear_nf4,
    zofx.linear_rounded.default: linear_rounded,
    zofx.mask_small.default: mask_small,
    zofx.perturb.default: perturb,
    zofx.probe_embedding.default: probe_embedding,
    zofx.probe_linear.default: probe_linear,
    zofx.probe_rows.default: probe_rows,
    zofx.replicate.default: replicate,
    zofx.round_rows.default: round_rows,
    zofx.row_scales.default: row_scales,
    zofx.score_targets.default: score_targets,
    zofx.select_positions.default: select_positions,
    zofx.sparse_linear.default: sparse_linear,
    zofx.split_probes.default: split_probes,
    zofx.sum_probes.default: sum_probes,
}

"""Products with frozen matrices in ONNX: by the kernel that reads the codes, where there is one.

linear_nf4           com.microsoft.MatMulBnb4       bitsandbytes' own packing
linear_int           com.microsoft.MatMulNBits
linear_gguf          the same without zero points
linear_rounded       com.microsoft.MatMulIntegerToFloat
linear_codebook      unpack · GatherElements · MatMul
aten.linear          com.microsoft.FusedMatMul, so that W stays [out, in] for both runtimes
"""

from typing import Any

import onnx
from onnxscript import opset21 as op

from zofx.ir.ops.rounding import ROW_STEP, ROW_ZERO, SMALLEST
from zofx.runtimes.onnx_export.contrib_ops import add_bias, ints, leading, ms

NF4 = 1  # MatMulBnb4's number for it


def linear_nf4(x: Any, codes: Any, absmax: Any, bias: Any, out: int, block: int) -> Any:
    """Bitsandbytes' codes as they are."""
    y = ms.MatMulBnb4(
        x, codes, absmax, K=x.shape[-1], N=out, block_size=block, quant_type=NF4, training_mode=0
    )
    return add_bias(y, bias)


def linear_int(x: Any, codes: Any, scales: Any, zeros: Any, bias: Any, bits: int) -> Any:
    """Accuracy level 0: activations stay f32."""
    out, _, stored = codes.shape
    y = ms.MatMulNBits(
        x, codes, scales, zeros, K=x.shape[-1], N=out, bits=bits, block_size=stored * 8 // bits
    )  # fmt: skip
    return add_bias(y, bias)


def linear_gguf(x: Any, codes: Any, scales: Any, bias: Any, bits: int) -> Any:
    """Without zero points the kernel takes half of 2^bits, as GGUF does."""
    out, _, stored = codes.shape
    y = ms.MatMulNBits(
        x, codes, scales, K=x.shape[-1], N=out, bits=bits, block_size=stored * 8 // bits
    )
    return add_bias(y, bias)


def linear_int8(x: Any, codes: Any, scales: Any, bias: Any) -> Any:
    """No kernel takes x in f32: ONNX Runtime folds this into an f32 weight at load."""
    weight = op.Mul(_float(codes), scales)
    return add_bias(op.MatMul(x, weight), bias)


def row_scales(x: Any) -> Any:
    """The larger of max x and −min x is max |x|: two reads and nothing written.

    ONNX Runtime's largest and smallest of a row pass over a NaN, so 0·Σx is among what the step is
    the largest of: that op does not. A row whose sum is beyond f32 is no number either.
    """
    axis = ints(-1)
    nan = op.Mul(op.ReduceSum(x, axis), op.Constant(value_float=0.0))
    least = op.Constant(value_float=SMALLEST)
    largest = op.Max(op.ReduceMax(x, axis), op.Neg(op.ReduceMin(x, axis)), nan, least)
    return op.Mul(largest, op.Constant(value_float=ROW_STEP))


def round_rows(x: Any, scales: Any) -> Any:
    """A row is a block with a scale of its own; both divide, then round halves to even."""
    zeros = op.Expand(zero(), op.Shape(scales))
    return op.QuantizeLinear(x, scales, zeros, axis=-1, block_size=x.shape[-1])


def left_over(x: Any, codes: Any, steps: Any) -> Any:
    """Steps come after: the kernel that reads them row by row takes four times as long."""
    levels = op.DequantizeLinear(codes, op.Constant(value_float=1.0), zero())
    return op.Sub(x, op.Mul(levels, steps))


def linear_rounded(x: Any, steps: Any, codes: Any, scales: Any) -> Any:
    """The rows' own scales come after: the kernel takes one for all."""
    one = op.Constant(value_float=1.0)
    return op.Mul(ms.MatMulIntegerToFloat(x, codes, one, scales, zero()), steps)


def zero() -> Any:
    """What stands for 0 in a code."""
    return op.Cast(op.Constant(value_int=ROW_ZERO), to=onnx.TensorProto.UINT8)


def _float(x: Any) -> Any:
    return op.Cast(x, to=onnx.TensorProto.FLOAT)


def dequantize_int(codes: Any, scales: Any, zeros: Any, bits: int) -> Any:
    """The scales are fed, so no kernel takes them; ONNX Runtime folds the rest into f32 at load."""
    out, blocks, stored = codes.shape
    levels = op.Reshape(_float(_unpacked(codes, bits)), ints(out, blocks, stored * 8 // bits))
    offsets = op.Reshape(_float(_unpacked(zeros, bits)), ints(out, -1))
    offsets = op.Slice(offsets, ints(0), ints(blocks), ints(1))
    steps = op.Sub(levels, op.Unsqueeze(offsets, ints(-1)))
    weight = op.Mul(steps, op.Unsqueeze(scales, ints(-1)))
    width = blocks * stored * 8 // bits
    return op.Reshape(weight, op.Concat(leading(scales), ints(width), axis=0))


def _unpacked(codes: Any, bits: int) -> Any:
    """Two values to a byte if of 4 bits, the first in the low nibble."""
    if bits == 4:
        low = op.BitwiseAnd(codes, op.Cast(ints(0xF), to=onnx.TensorProto.UINT8))
        high = op.BitShift(codes, op.Cast(ints(4), to=onnx.TensorProto.UINT8), direction="RIGHT")
        codes = op.Concat(op.Unsqueeze(low, ints(-1)), op.Unsqueeze(high, ints(-1)), axis=-1)
    return codes


def linear_codebook(x: Any, codes: Any, centroids: Any, bias: Any) -> Any:
    """No engine kernel reads a codebook: ONNX Runtime folds this into an f32 weight at load."""
    return add_bias(ms.FusedMatMul(x, codebook_matrix(codes, centroids), transB=1), bias)


def codebook_matrix(codes: Any, centroids: Any) -> Any:
    """Ŵ: f32[out, in]."""
    out, pairs = codes.shape
    places = op.Reshape(_unpacked(codes, 4), ints(out, 2 * pairs))
    places = op.Cast(places, to=onnx.TensorProto.INT64)
    return op.GatherElements(centroids, places, axis=1)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """W stays [out, in], as torch reads it."""
    return add_bias(ms.FusedMatMul(x, weight, transB=1), bias)

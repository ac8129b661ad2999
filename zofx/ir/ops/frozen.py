"""x·Ŵᵀ + b with Ŵ as `zofx.ir.quant` stores it; and Ŵ itself, where its scales train."""

import torch
from torch import Tensor
from torch.library import custom_op

from zofx.ir import quant


@custom_op("zofx::linear_nf4", mutates_args=())
def linear_nf4(
    x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None, out: int, block: int
) -> Tensor:
    """x·Ŵᵀ + b with Ŵ in NF4 (`quant.Nf4`): [..., in] → [..., out]."""
    weight = quant.dequantize_nf4(quant.Nf4(codes, absmax), out, block)
    return torch.nn.functional.linear(x, weight, bias)


@linear_nf4.register_fake
def _(
    x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None, out: int, block: int
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out))


@custom_op("zofx::linear_int", mutates_args=())
def linear_int(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None, bits: int
) -> Tensor:
    """x·Ŵᵀ + b with Ŵ block-wise affine (`quant.Affine`): [..., in] → [..., out]."""
    weight = quant.dequantize_int(quant.Affine(codes, scales, zeros), bits)
    return torch.nn.functional.linear(x, weight, bias)


@linear_int.register_fake
def _(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None, bits: int
) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@custom_op("zofx::dequantize_int", mutates_args=())
def dequantize_int(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """Ŵ of `quant.Affine`: [out, in]; with scales f32[P, out, blocks] a matrix per probe."""
    return quant.dequantize_int(quant.Affine(codes, scales, zeros), bits)


@dequantize_int.register_fake
def _(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    width = codes.shape[1] * codes.shape[2] * 8 // bits
    return scales.new_empty((*scales.shape[:-1], width))


@custom_op("zofx::linear_int8", mutates_args=())
def linear_int8(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """x·Ŵᵀ + b with Ŵ of one scale per row (`quant.Rows`): [..., in] → [..., out]."""
    return torch.nn.functional.linear(x, quant.dequantize_rows(quant.Rows(codes, scales)), bias)


@linear_int8.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[1]))


@custom_op("zofx::linear_codebook", mutates_args=())
def linear_codebook(x: Tensor, codes: Tensor, centroids: Tensor, bias: Tensor | None) -> Tensor:
    """x·Ŵᵀ + b with Ŵ a code into its row's codebook (`quant.Codebook`): [..., in] → [..., out]."""
    weight = quant.dequantize_codebook(quant.Codebook(codes, centroids))
    return torch.nn.functional.linear(x, weight, bias)


@linear_codebook.register_fake
def _(x: Tensor, codes: Tensor, centroids: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))

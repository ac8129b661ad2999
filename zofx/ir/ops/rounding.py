"""x·Ŵᵀ as a product of integers: rows of x in steps of their own.

    x ≈ step · (code − 128)      step = max |x| / 127 of the row, code 1 … 255
    x − step · (code − 128) ≈ step/254 · (code′ − 128)      what is left, where 8 bits are too few

`quantize-activations` puts them together, and says why.
"""

from typing import Final

import torch
from torch import Tensor
from torch.library import custom_op

from zofx.ir.formats.row_int8 import ROW_TOP

ROW_ZERO: Final = 128
ROW_STEP: Final = 1 / ROW_TOP
FINER: Final = 1 / (2 * ROW_TOP)
"""What is left is at most half a step, and is rounded in steps of its own: this part of a step."""
SMALLEST: Final = 1e-30
"""A row below it, as one of zeros, is rounded in steps of this one: they and finer ones are normal
numbers of f32."""


@custom_op("zofx::row_scales", mutates_args=())
def row_scales(x: Tensor) -> Tensor:
    """Each row's step of rounding, max |x| / 127 and never 0: [..., k] → [..., 1]."""
    return x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST) * ROW_STEP


@row_scales.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], 1))


@custom_op("zofx::round_rows", mutates_args=())
def round_rows(x: Tensor, scales: Tensor) -> Tensor:
    """Codes 128 + round(x / scale), 1 … 255: [..., k], [..., 1] → u8[..., k]."""
    codes: Tensor = (x / scales).round() + ROW_ZERO
    return codes.clamp(0, 255).to(torch.uint8)


@round_rows.register_fake
def _(x: Tensor, scales: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.uint8)


@custom_op("zofx::left_over", mutates_args=())
def left_over(x: Tensor, codes: Tensor, steps: Tensor) -> Tensor:
    """What rounding took, x − step·(code − 128): [..., k], u8[..., k], [..., 1] → [..., k]."""
    rounded: Tensor = (codes.to(x.dtype) - ROW_ZERO) * steps
    return x - rounded


@left_over.register_fake
def _(x: Tensor, codes: Tensor, steps: Tensor) -> Tensor:
    return torch.empty_like(x)


@custom_op("zofx::linear_rounded", mutates_args=())
def linear_rounded(x: Tensor, steps: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """x̂·Ŵᵀ, a product of integers times both scales: u8[..., in], f32[..., 1] → f32[..., out].

    Args:
        x: of `round_rows`.
        steps: of `row_scales`.
        codes: of `formats.row_int8.Rows`.
        scales: of the same.
    """
    levels = x.to(torch.float32) - ROW_ZERO
    return (levels @ codes.float()) * scales * steps


@linear_rounded.register_fake
def _(x: Tensor, steps: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return steps.new_empty((*x.shape[:-1], codes.shape[1]))

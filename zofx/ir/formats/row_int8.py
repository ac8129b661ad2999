"""8-bit integers with a scale per row: what products of integers read.

    W ≈ scale[row] · code          codes −127 … 127, stored [in, out]
    |W − Ŵ| ≤ scale/2              scale = max |w| / 127; 0 is exact

The layout is that of ONNX Runtime's MatMulIntegerToFloat. No kernel multiplies it by f32, so alone
it is no faster than full precision; `quantize-activations` rounds what meets it.
Source: Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from zofx.ir.formats.format import MATRIX, EngineNotes, Format, Part

ROW_TOP = 127


class Rows(NamedTuple):
    """i8[in, out] codes, f32[out] scales: what an integer product reads."""

    codes: Tensor
    scales: Tensor


def quantize(weight: Tensor) -> Rows:
    """Round each row to 255 levels between plus and minus its largest |w|: |W − Ŵ| ≤ scale/2.

    As LLM.int8() stores weights (Dettmers et al. 2022, arXiv 2208.07339).
    """
    scales = weight.float().abs().amax(1) / ROW_TOP
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    codes = (weight.float() / scales[:, None]).round().clamp(-ROW_TOP, ROW_TOP).to(torch.int8)
    return Rows(codes.t().contiguous(), scales)


def dequantize(q: Rows) -> Tensor:
    """f32[out, in]."""
    return q.codes.t().float() * q.scales[:, None]


@custom_op("zofx::linear_int8", mutates_args=())
def linear_int8(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """x·Ŵᵀ + b with Ŵ of `Rows`: [..., in] → [..., out]."""
    return torch.nn.functional.linear(x, dequantize(Rows(codes, scales)), bias)


@linear_int8.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[1]))


@dataclass(frozen=True)
class RowInt8(Format):
    """See the module."""

    def parts(self, shape: tuple[int, int], block: int) -> tuple[Part, ...]:
        """Codes and scales."""
        out, width = shape
        return (
            Part("codes", (width, out), torch.int8),
            Part("scales", (out,), torch.float32),
        )

    def quantize(self, weight: Tensor, block: int, importance: Tensor | None) -> tuple[Tensor, ...]:
        """Each weight takes the nearest level."""
        return quantize(weight)

    def dequantize(self, parts: tuple[Tensor, ...], shape: tuple[int, int]) -> Tensor:
        """f32[out, in]."""
        return dequantize(Rows(*parts))


INT8_ROW: Final = RowInt8(
    "int8-row",
    "8-bit integers, a scale per row, for products of integers",
    torch.ops.zofx.linear_int8.default,
    bits=8,
    block=1,
    integers=True,
    engines={
        "ort": EngineNotes(kernel=False),
        "torch": EngineNotes(scratch=2 * MATRIX),  # codes as numbers, times scales
    },
)

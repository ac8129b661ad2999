"""Integers of 4 or 8 bits with a scale and a zero point per block.

    W ≈ scale[row, block] · (code − zero[row, block])        blocks run along `in`
    |W − Ŵ| ≤ scale/2         scale = range / (2^bits − 1), the range includes 0, which is exact

The layout is that of ONNX Runtime's MatMulNBits: low nibble first, [out, blocks, bytes].
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, fx
from torch.library import custom_op

from zofx.ir.formats.format import (
    MATRIX,
    EngineNotes,
    Format,
    Part,
    pack_nibbles,
    powers_of_two,
    unpack_nibbles,
)
from zofx.ir.schema import Products


class Affine(NamedTuple):
    """u8[out, blocks, block·bits/8] codes, f32[out, blocks] scales, u8[out, ⌈blocks·bits/8⌉]."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor


def quantize(weight: Tensor, bits: int, block: int) -> Affine:
    """Round to the nearest of 2^bits levels between min(W, 0) and max(W, 0) of the block.

    |W − Ŵ| ≤ scale/2.
    """
    out, width = weight.shape
    groups = weight.float().view(out, width // block, block)
    top = 2**bits - 1
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    high = groups.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / top
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-low / scale).round().clamp(0, top)
    codes = ((groups / scale).round() + zero).clamp(0, top).to(torch.uint8)
    zeros = zero.squeeze(-1).to(torch.uint8)
    if bits == 4:
        codes = pack_nibbles(codes)
        zeros = pack_nibbles(torch.nn.functional.pad(zeros, (0, zeros.shape[1] % 2)))
    return Affine(codes.contiguous(), scale.squeeze(-1).contiguous(), zeros.contiguous())


def dequantize(q: Affine, bits: int) -> Tensor:
    """f32[out, in], or f32[P, out, in] for scales f32[P, out, blocks]."""
    codes = unpack_nibbles(q.codes) if bits == 4 else q.codes
    zeros = unpack_nibbles(q.zeros)[:, : q.scales.shape[-1]] if bits == 4 else q.zeros
    return ((codes.float() - zeros.float()[..., None]) * q.scales[..., None]).flatten(-2)


@custom_op("zofx::linear_int", mutates_args=())
def linear_int(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None, bits: int
) -> Tensor:
    """x·Ŵᵀ + b with Ŵ of `Affine`: [..., in] → [..., out]."""
    return torch.nn.functional.linear(x, dequantize(Affine(codes, scales, zeros), bits), bias)


@linear_int.register_fake
def _(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None, bits: int
) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@custom_op("zofx::dequantize_int", mutates_args=())
def dequantize_int(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """Ŵ of `Affine`: [out, in]; with scales f32[P, out, blocks] a matrix per probe."""
    return dequantize(Affine(codes, scales, zeros), bits)


@dequantize_int.register_fake
def _(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    width = codes.shape[1] * codes.shape[2] * 8 // bits
    return scales.new_empty((*scales.shape[:-1], width))


@dataclass(frozen=True)
class BlockInt(Format):
    """See the module."""

    def parts(self, shape: tuple[int, int], block: int) -> tuple[Part, ...]:
        """Codes, scales, zero points."""
        out, width = shape
        blocks = width // block
        return (
            Part("codes", (out, blocks, block * self.bits // 8), torch.uint8),
            Part("scales", (out, blocks), torch.float32),
            Part("zeros", (out, (blocks * self.bits + 7) // 8), torch.uint8),
        )

    def quantize(self, weight: Tensor, block: int, importance: Tensor | None) -> tuple[Tensor, ...]:
        """Each weight takes the nearest level."""
        return quantize(weight, self.bits, block)

    def dequantize(self, parts: tuple[Tensor, ...], shape: tuple[int, int]) -> Tensor:
        """f32[out, in]."""
        return dequantize(Affine(*parts), self.bits)

    def multiplies(self, node: fx.Node) -> bool:
        """Both numbers of bits have one op."""
        return super().multiplies(node) and self.bits in node.args

    def numbers(self, shape: tuple[int, int], block: int) -> tuple[int, ...]:
        """Bits."""
        return (self.bits,)


def _format(bits: int, products: Products) -> BlockInt:
    return BlockInt(
        f"int{bits}",
        f"{bits}-bit integers, a scale and a zero point per block",
        torch.ops.zofx.linear_int.default,
        bits=bits,
        block=32,
        blocks=powers_of_two(16, 4096),  # what MatMulNBits takes
        dequantize_op=torch.ops.zofx.dequantize_int.default,
        engines={
            "ort": EngineNotes(products=products),
            "torch": EngineNotes(scratch=2 * MATRIX + 1),  # codes less zeros, times scales
        },
    )


INT4: Final = _format(4, Products.NIBBLES)
INT8: Final = _format(8, Products.FLOATS)

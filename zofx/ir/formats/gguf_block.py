"""GGUF's Q8_0 and Q4_0: blocks of 32 integers around zero with one scale, kept without loss.

    q8_0    W = d · q              q = −128 … 127
    q4_0    W = d · (q − 8)        q = 0 … 15; d may be negative

A matrix that was stored so (a GGUF checkpoint of that type) keeps every bit: the weights of a block
are multiples of one number, which is recovered as their greatest common divisor. So also after
entries were set to 0, where a trainable was cut out. A block that is no such multiple is rounded as
the `gguf` package rounds it:

    q8_0    d = max |w| / 127 as f16       |W − Ŵ| ≤ d/2 + 127·|d − max |w| / 127|
    q4_0    d = −w*/8 as f16               |W − Ŵ| ≤ |d| + 8·|d + w*/8|     w* the largest in |·|

0 is exact. The layout is that of MatMulNBits without zero points, which are 8 and 128 then.
Source: ggml, ggml-quants.c (block_q8_0, block_q4_0).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.library import custom_op

from zofx.ir.formats.format import (
    MATRIX,
    EngineNotes,
    Format,
    Part,
    pack_nibbles,
    unpack_nibbles,
)
from zofx.ir.schema import Products

BLOCK: Final = 32
FINEST: Final = 2.0**24
"""Every number of f16 is a multiple of 1/FINEST, and so is every weight of such a block."""
LARGEST: Final = 2.0**52
"""Below it an f64 tells integers apart."""
ROWS: Final = 64
"""Rows that are quantized at once; bounds the memory."""


class Blocks(NamedTuple):
    """u8[out, blocks, 32·bits/8] codes, f32[out, blocks] scales."""

    codes: Tensor
    scales: Tensor


def quantize(weight: Tensor, bits: int) -> Blocks:
    """Keep blocks that are stored so already, round the others: f32[out, in]."""
    parts = [_quantized(rows, bits) for rows in torch.split(weight, ROWS)]
    levels, scales = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    codes = (levels + 2 ** (bits - 1)).to(torch.uint8)
    return Blocks(pack_nibbles(codes) if bits == 4 else codes, scales)


def dequantize(q: Blocks, bits: int) -> Tensor:
    """f32[out, in]."""
    codes = unpack_nibbles(q.codes) if bits == 4 else q.codes
    levels: Tensor = codes.float() - 2 ** (bits - 1)
    return (levels * q.scales[..., None]).flatten(-2)


def _quantized(weight: Tensor, bits: int) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Levels i16[rows, blocks, 32] around zero, scales f32[rows, blocks]."""
    blocks = weight.numpy().reshape(len(weight), -1, BLOCK)
    levels, scales = _rounded(blocks, bits)
    kept, own_levels, own_scales = _kept(blocks, bits)
    levels[kept], scales[kept] = own_levels, own_scales
    return levels, scales


def _rounded(
    blocks: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """By the package, whose bytes per block are an f16 scale and the codes."""
    import gguf

    kind = gguf.GGMLQuantizationType.Q4_0 if bits == 4 else gguf.GGMLQuantizationType.Q8_0
    raw: NDArray[np.uint8] = gguf.quantize(blocks.reshape(len(blocks), -1), kind)
    raw = raw.reshape(*blocks.shape[:2], -1)
    scales = raw[..., :2].copy().view(np.float16)[..., 0].astype(np.float32)
    codes = raw[..., 2:]
    if bits == 8:
        return codes.view(np.int8).astype(np.int16), scales
    nibbles = np.concatenate((codes & 0xF, codes >> 4), axis=-1)  # of weights 0 … 15, 16 … 31
    return nibbles.astype(np.int16) - 8, scales


def _kept(
    blocks: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.bool_], NDArray[np.int16], NDArray[np.float32]]:
    """Which blocks are multiples of one number; of these, levels and scales.

    The scale has the sign that a block of q4_0 needs to reach 8, or that its zeros have.
    """
    wide = blocks.astype(np.float64) * FINEST
    small = (np.abs(wide) < LARGEST).all(-1) & (wide == np.rint(wide)).all(-1)
    whole = np.where(small[..., None], wide, 0).astype(np.int64)
    step = np.gcd.reduce(whole, axis=-1)
    levels = whole // np.maximum(step, 1)[..., None]
    low, high = levels.min(-1), levels.max(-1)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    below_zero = (np.signbit(blocks) & (blocks == 0)).any(-1) & (-low <= most) & (-high >= least)
    negative = (high > most) | below_zero
    sign = np.where(negative, -1, 1)
    levels *= sign[..., None]
    kept = small & (levels.min(-1) >= least) & (levels.max(-1) <= most)
    scales = (sign * (step / FINEST)).astype(np.float32)
    return kept, levels[kept].astype(np.int16), scales[kept]


@custom_op("zofx::linear_gguf", mutates_args=())
def linear_gguf(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, bits: int) -> Tensor:
    """x·Ŵᵀ + b with Ŵ of `Blocks`: [..., in] → [..., out]."""
    return torch.nn.functional.linear(x, dequantize(Blocks(codes, scales), bits), bias)


@linear_gguf.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, bits: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@dataclass(frozen=True)
class GgufBlock(Format):
    """See the module."""

    def parts(self, shape: tuple[int, int], block: int) -> tuple[Part, ...]:
        """Codes and scales."""
        out, width = shape
        return (
            Part("codes", (out, width // BLOCK, BLOCK * self.bits // 8), torch.uint8),
            Part("scales", (out, width // BLOCK), torch.float32),
        )

    def quantize(self, weight: Tensor, block: int, importance: Tensor | None) -> tuple[Tensor, ...]:
        """Without loss where the weights allow it."""
        return quantize(weight, self.bits)

    def dequantize(self, parts: tuple[Tensor, ...], shape: tuple[int, int]) -> Tensor:
        """f32[out, in]."""
        return dequantize(Blocks(*parts), self.bits)

    def multiplies(self, node: fx.Node) -> bool:
        """Both numbers of bits have one op."""
        return super().multiplies(node) and self.bits in node.args

    def numbers(self, shape: tuple[int, int], block: int) -> tuple[int, ...]:
        """Bits."""
        return (self.bits,)


def _format(bits: int, products: Products) -> GgufBlock:
    return GgufBlock(
        f"q{bits}_0",
        f"GGUF's Q{bits}_0, kept without loss",
        torch.ops.zofx.linear_gguf.default,
        bits=bits,
        block=BLOCK,
        blocks=(BLOCK,),
        engines={
            "ort": EngineNotes(products=products),
            "torch": EngineNotes(scratch=2 * MATRIX),  # codes less zero, times scales
        },
    )


Q8_0: Final = _format(8, Products.FLOATS)
Q4_0: Final = _format(4, Products.NIBBLES)

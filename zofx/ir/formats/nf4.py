"""NF4: 16 levels at normal quantiles, times the largest magnitude of a block.

    W ≈ absmax[block] · LEVEL[code]        blocks run along the flattened matrix
    |W − Ŵ| ≤ 0.152 · absmax               half the widest gap between levels; 0 is exact

Codes, packing (high nibble first) and levels are bitsandbytes', which ONNX Runtime's MatMulBnb4
reads.
Source: Dettmers et al. 2023, QLoRA, arXiv 2305.14314, appendix E.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from zofx.errors import ArtifactError
from zofx.ir.formats.format import MATRIX, EngineNotes, Format, Part, powers_of_two


class Nf4(NamedTuple):
    """u8[out·in/2] codes, f32[out·in/block] absmax."""

    codes: Tensor
    absmax: Tensor


@cache
def _load_bitsandbytes() -> None:
    """Register torch.ops.bitsandbytes, once."""
    # On processors with bfloat16 the import looks for a fused product on the Hub, and warns if it
    # is not there; weights are only quantized and dequantized here, so nothing would call it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes  # noqa: F401  importing it is what registers


def quantize(weight: Tensor, block: int) -> Nf4:
    """By bitsandbytes."""
    _load_bitsandbytes()
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(
        weight.contiguous(), blocksize=block, quant_type="nf4", compress_statistics=False
    )
    return Nf4(codes.flatten(), state.absmax)


def dequantize(q: Nf4, out: int, block: int) -> Tensor:
    """f32[out, in].

    Raises:
        ArtifactError: codes and scales are not of one matrix of so many rows.
    """
    _load_bitsandbytes()
    size = q.codes.numel() * 2
    # The kernel takes every block's scale without asking how many there are.
    if min(out, block) < 1 or size % out or q.absmax.numel() != -(-size // block):
        raise ArtifactError(
            f"a matrix in nf4 has {size} codes in {out} rows and {q.absmax.numel()} scales of "
            f"blocks of {block}: these do not go together; compile the model again"
        )
    weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        q.codes.view(-1, 1), q.absmax, block, "nf4", [out, size // out], torch.float32
    )
    return weight


def levels() -> Tensor:
    """What the codes 0 to 15 stand for: f32[16]."""
    every = Nf4(torch.arange(16, dtype=torch.uint8), torch.ones(1))  # each in a low nibble
    return dequantize(every, 1, 32)[0, 1::2]


@custom_op("zofx::linear_nf4", mutates_args=())
def linear_nf4(
    x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None, out: int, block: int
) -> Tensor:
    """x·Ŵᵀ + b with Ŵ of `Nf4`: [..., in] → [..., out]."""
    return torch.nn.functional.linear(x, dequantize(Nf4(codes, absmax), out, block), bias)


@linear_nf4.register_fake
def _(
    x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None, out: int, block: int
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out))


@dataclass(frozen=True)
class Nf4Format(Format):
    """See the module."""

    def parts(self, shape: tuple[int, int], block: int) -> tuple[Part, ...]:
        """Codes and absmax, flat."""
        out, width = shape
        return (
            Part("codes", (out * width // 2,), torch.uint8),
            Part("absmax", (out * width // block,), torch.float32),
        )

    def quantize(self, weight: Tensor, block: int, importance: Tensor | None) -> tuple[Tensor, ...]:
        """Each weight takes the nearest level."""
        return quantize(weight, block)

    def dequantize(self, parts: tuple[Tensor, ...], shape: tuple[int, int]) -> Tensor:
        """f32[out, in]."""
        out, width = shape
        q = Nf4(*parts)
        return dequantize(q, out, out * width // q.absmax.numel())

    def numbers(self, shape: tuple[int, int], block: int) -> tuple[int, ...]:
        """Rows and block: flat tensors do not tell."""
        return shape[0], block


NF4: Final = Nf4Format(
    "nf4",
    torch.ops.zofx.linear_nf4.default,
    bits=4,
    block=64,
    blocks=powers_of_two(32, 4096),  # what bitsandbytes' kernels take
    engines={
        "ort": EngineNotes(scratch=MATRIX),  # MatMulBnb4 makes the matrix, then multiplies
        "torch": EngineNotes(scratch=MATRIX, module="bitsandbytes"),
    },
)

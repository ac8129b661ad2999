"""What a frozen format is: an object that passes, engines and merge ask.

Byte layouts are the ones that stock ONNX Runtime kernels read, where there is one, so both runtimes
share one file of weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor, fx

from zofx.ir.schema import Products
from zofx.ir.symbols import OpOverload

MATRIX: Final = 4
"""Bytes per weight of a matrix in f32: the scratch of a product that makes Ŵ."""


class Part(NamedTuple):
    """One tensor of a stored matrix."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class EngineNotes:
    """How a runtime multiplies by a format.

    Attributes:
        kernel: whether a kernel reads the codes; if not, they become f32 when the artifact is
            opened.
        scratch: bytes per weight that a product takes and gives back.
        products: what is multiplied.
        module: a Python package that reading the codes takes.
    """

    kernel: bool = True
    scratch: int = 0
    products: Products = Products.FLOATS
    module: str | None = None


@dataclass(frozen=True)
class Format(ABC):
    """A way to store a frozen matrix.

    Attributes:
        name: its row in `FORMATS`, and the `form` of its tensors.
        op: multiplies by it: op(x, *parts, bias, *numbers) → x·Ŵᵀ + b.
        bits: of a code.
        block: weights of a row that share numbers, or that bytes hold together; divides `in`.
        blocks: what `block` may be set to; none where a row is the block.
        keeps_zero: whether a weight of 0 is stored as 0.
        needs_scores: whether `quantize` weights errors by sensitivity.
        dequantize_op: op(*parts, *numbers) → Ŵ with scales f32[P, …] per probe, where the scales
            may train.
        integers: whether `quantize-activations` multiplies its codes by those of activations.
        engines: notes by the name of the runtime.
    """

    name: str
    op: OpOverload
    bits: int
    block: int
    blocks: tuple[int, ...] = ()
    keeps_zero: bool = True
    needs_scores: bool = False
    dequantize_op: OpOverload | None = None
    integers: bool = False
    engines: Mapping[str, EngineNotes] = field(default_factory=dict)

    @abstractmethod
    def parts(self, shape: tuple[int, int], block: int) -> tuple[Part, ...]:
        """The tensors that store a matrix [out, in], in the order `op` takes them."""

    @abstractmethod
    def quantize(self, weight: Tensor, block: int, importance: Tensor | None) -> tuple[Tensor, ...]:
        """The data of the parts.

        Args:
            weight: f32[out, in].
            block: divides `in`.
            importance: f32[out, in], ≥ 0, where the format needs scores.
        """

    @abstractmethod
    def dequantize(self, parts: tuple[Tensor, ...], shape: tuple[int, int]) -> Tensor:
        """Ŵ: f32[out, in] of the data of the parts."""

    def multiplies(self, node: fx.Node) -> bool:
        """Whether a node of a graph is a product with this format."""
        return node.target is self.op

    def numbers(self, shape: tuple[int, int], block: int) -> tuple[int, ...]:
        """What `op` takes after the bias."""
        return ()

    def bits_per_weight(self, shape: tuple[int, int], block: int) -> float:
        """Stored, scales included."""
        stored = sum(
            torch.Size(part.shape).numel() * part.dtype.itemsize
            for part in self.parts(shape, block)
        )
        return 8 * stored / torch.Size(shape).numel()

    def notes(self, engine: str) -> EngineNotes:
        """How a runtime multiplies by it."""
        return self.engines.get(engine, EngineNotes())

    def block_error(self, block: int) -> str | None:
        """Why `block` cannot be set to this, or None."""
        if block in self.blocks:
            return None
        if not self.blocks:
            return f"{self.name} has no blocks, its numbers belong to rows; drop block"
        if len(self.blocks) == 1:
            return f"{self.name} has blocks of {self.blocks[0]}; drop block"
        return f"block must be a power of two, {self.blocks[0]} to {self.blocks[-1]}"


def powers_of_two(least: int, most: int) -> tuple[int, ...]:
    """Both included, if they are."""
    return tuple(1 << e for e in range(least.bit_length() - 1, most.bit_length()))


def pack_nibbles(values: Tensor) -> Tensor:
    """u8[..., 2n] of 4-bit values → u8[..., n], the first value in the low nibble."""
    return values[..., 0::2] | (values[..., 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The inverse of `pack_nibbles`."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)

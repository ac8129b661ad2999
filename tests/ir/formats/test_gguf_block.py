"""GGUF's blocks: bit-equal to the gguf package, whether kept or rounded."""

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ir.formats.normal import normal
from zofx.ir.formats import FORMATS, gguf_block

KINDS = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}
LARGEST = {"q8_0": 127, "q4_0": 8}
each = pytest.mark.parametrize("name", KINDS)


def by_package(weight: Tensor, name: str) -> Tensor:
    """W as the package stores and reads it."""
    back: Any = gguf.dequantize(gguf.quantize(weight.numpy(), KINDS[name]), KINDS[name])
    return torch.from_numpy(back)


def stored(weight: Tensor, name: str) -> tuple[gguf_block.Blocks, Tensor]:
    """The parts, and Ŵ."""
    made = FORMATS[name]
    parts = made.quantize(weight, made.block, None)
    return gguf_block.Blocks(*parts), made.dequantize(parts, tuple(weight.shape))  # type: ignore[arg-type]  # of two sizes


def bits(value: Tensor) -> Tensor:
    """Equal where all bits are, those of −0 included."""
    return value.contiguous().view(torch.int32)


@each
def test_floats_are_rounded_as_the_package_does(name: str) -> None:
    """Any matrix, also a block of zeros (the package's may be −0) and one of tiny numbers."""
    weight = normal(70, 96)
    weight[1], weight[2] = 0, 1e-9
    wanted = by_package(weight, name)
    wanted[1] = 0
    assert torch.equal(bits(stored(weight, name)[1]), bits(wanted))


@each
def test_rounding_stays_within_its_bound(name: str) -> None:
    """Half a step of q8_0, a step of q4_0, and what the scale lost as an f16."""
    weight = normal(8, 64)
    parts, back = stored(weight, name)
    blocks = weight.view(8, 2, 32).double()
    place = blocks.abs().argmax(-1, keepdim=True)
    top = blocks.gather(-1, place)[..., 0] / (127 if name == "q8_0" else -8)
    scale = parts.scales.double().abs()
    lost = (scale - top.abs()).abs() * LARGEST[name]
    bound = scale * (0.5 if name == "q8_0" else 1) + lost
    error = (blocks - back.view(8, 2, 32)).abs()
    assert (error <= bound[..., None] * (1 + 2**-20)).all()


@each
def test_what_is_stored_so_already_is_kept(name: str) -> None:
    """Every bit of what the package reads, −0 included."""
    whole = normal(70, 96)
    whole[5] = 0
    weight = by_package(whole, name)
    assert torch.equal(bits(stored(weight, name)[1]), bits(weight))


@each
def test_blocks_are_kept_that_no_rounding_would_find(name: str) -> None:
    """Levels that leave out the largest, both signs of a scale, its finest and its largest."""
    levels = np.random.default_rng(0).integers(-7, 8, (9, 32)).astype(np.float32)
    levels[0, 0], levels[1] = -8, np.arange(32) == 3
    scales = np.float16([0.1, -0.3, 2.0**-24, 2.0**-14, 60000, -1, 0.7, 3e-5, 0])[:, None]
    weight = torch.from_numpy(levels * scales.astype(np.float32))
    assert torch.equal(stored(weight, name)[1], weight)
    assert not torch.equal(by_package(weight, name), weight)


@each
def test_a_trainable_may_be_cut_out(name: str) -> None:
    """With the largest entries of every block at 0 the others stay as they are."""
    weight = by_package(normal(16, 96), name)
    blocks = weight.view(16, 3, 32)
    blocks.scatter_(-1, blocks.abs().topk(3).indices, 0)
    assert torch.equal(stored(weight, name)[1], weight)


def test_of_eight_bits_all_are_used() -> None:
    """−128, which the package never writes and others do."""
    weight = torch.tensor([-128.0, 127.0] * 16)[None] * 0.25
    parts, back = stored(weight, "q8_0")
    assert (float(parts.scales), int(parts.codes.min()), int(parts.codes.max())) == (0.25, 0, 255)
    assert torch.equal(back, weight)


def test_eight_steps_up_take_a_negative_scale() -> None:
    """Four bits reach from −8 to 7; a block with both 8 and −8 steps is rounded."""
    up = torch.arange(-7.0, 9.0).repeat(2)[None]
    assert float(stored(up, "q4_0")[0].scales) == -1.0
    both = up.clone()
    both[0, 0] = -8
    assert torch.equal(stored(both, "q4_0")[1], by_package(both, "q4_0"))


def test_no_other_block_is_offered() -> None:
    """The block is part of the format."""
    assert FORMATS["q4_0"].block_error(64) == "q4_0 has blocks of 32; drop block"

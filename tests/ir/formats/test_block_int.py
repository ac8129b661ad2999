"""Block-wise integers: codes that mean what they say, against brute force."""

import pytest
import torch

from tests.ir.formats.normal import normal
from zofx.ir.formats import block_int
from zofx.ir.formats.format import unpack_nibbles


@pytest.mark.parametrize("bits", [4, 8])
def test_int_takes_the_nearest_level(bits: int) -> None:
    """Against trying every code of every block."""
    weight = normal(3, 64)
    q = block_int.quantize(weight, bits, 32)
    zeros = unpack_nibbles(q.zeros)[:, :2] if bits == 4 else q.zeros
    levels = (torch.arange(2**bits) - zeros[..., None].double()) * q.scales[..., None].double()
    nearest = (weight.view(3, 2, 32, 1).double() - levels[:, :, None]).abs().amin(-1).view(3, 64)
    error = (weight.double() - block_int.dequantize(q, bits).double()).abs()
    assert (error <= nearest + 1e-6 * weight.abs()).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_int_holds_zero_exactly(bits: int, shift: float) -> None:
    """Also in blocks of one sign, whose range is widened to 0, and within scale/2 there."""
    weight = normal(4, 64) + shift
    weight[:, ::7] = 0
    weight[3] = 0
    q = block_int.quantize(weight, bits, 32)
    back = block_int.dequantize(q, bits)
    assert back[weight == 0].count_nonzero() == 0
    half = (q.scales / 2).repeat_interleave(32, 1)
    assert ((weight - back).abs() <= half + 1e-6 * weight.abs()).all()

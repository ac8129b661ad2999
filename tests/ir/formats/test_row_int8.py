"""Integers with a scale per row, against brute force."""

import torch

from tests.ir.formats.normal import normal
from zofx.ir.formats import row_int8


def test_rows_take_the_nearest_level() -> None:
    """Against trying every code from −127 to 127 of every row, the outermost of which is used."""
    weight = normal(5, 48) * normal(5, 1, seed=3).exp()
    q = row_int8.quantize(weight)
    assert (q.codes.shape, q.codes.dtype, q.scales.shape) == ((48, 5), torch.int8, (5,))
    assert q.codes.int().abs().amax(0).tolist() == [127] * 5
    levels = torch.arange(-127, 128).double() * q.scales[:, None].double()
    nearest = (weight[..., None].double() - levels[:, None]).abs().amin(-1)
    error = (weight.double() - row_int8.dequantize(q).double()).abs()
    assert (error <= nearest + 1e-6 * weight.abs()).all()


def test_rows_hold_zero_exactly() -> None:
    """Also a row of nothing but zeros, whose scale is 1."""
    weight = normal(3, 32)
    weight[:, ::5] = 0
    weight[2] = 0
    q = row_int8.quantize(weight)
    assert row_int8.dequantize(q)[weight == 0].count_nonzero() == 0
    assert (float(q.scales[2]), int(q.codes[:, 2].count_nonzero())) == (1.0, 0)

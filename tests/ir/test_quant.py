"""Quantized storage: codes that mean what they say, against brute force."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from zofx.ir import quant


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def importance_like(weight: Tensor) -> Tensor:
    """Squared gradients: positive, over many orders of magnitude."""
    return normal(*weight.shape, seed=9).mul(4).exp()


def test_nibbles_come_low_first() -> None:
    """The layout MatMulNBits reads, and its inverse."""
    values = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    assert quant.pack_nibbles(values).tolist() == [[0x21, 0x0F]]
    assert torch.equal(quant.unpack_nibbles(quant.pack_nibbles(values)), values)


@pytest.mark.parametrize("bits", [4, 8])
def test_int_takes_the_nearest_level(bits: int) -> None:
    """Against trying every code of every block."""
    weight = normal(3, 64)
    q = quant.quantize_int(weight, bits, 32)
    zeros = quant.unpack_nibbles(q.zeros)[:, :2] if bits == 4 else q.zeros
    levels = (torch.arange(2**bits) - zeros[..., None].double()) * q.scales[..., None].double()
    nearest = (weight.view(3, 2, 32, 1).double() - levels[:, :, None]).abs().amin(-1).view(3, 64)
    error = (weight.double() - quant.dequantize_int(q, bits).double()).abs()
    assert (error <= nearest + 1e-6 * weight.abs()).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_int_holds_zero_exactly(bits: int, shift: float) -> None:
    """Also in blocks of one sign, whose range is widened to 0, and within scale/2 there."""
    weight = normal(4, 64) + shift
    weight[:, ::7] = 0
    weight[3] = 0
    q = quant.quantize_int(weight, bits, 32)
    back = quant.dequantize_int(q, bits)
    assert back[weight == 0].count_nonzero() == 0
    half = (q.scales / 2).repeat_interleave(32, 1)
    assert ((weight - back).abs() <= half + 1e-6 * weight.abs()).all()


def test_nf4_holds_zero_exactly() -> None:
    """Also a block that is nothing but zeros."""
    weight = normal(4, 64)
    weight[:, ::5] = 0
    weight[2] = 0
    back = quant.dequantize_nf4(quant.quantize_nf4(weight, 64), 4, 64)
    assert back[weight == 0].count_nonzero() == 0
    assert back.isfinite().all()


def test_rows_take_the_nearest_level() -> None:
    """Against trying every code from −127 to 127 of every row, the outermost of which is used."""
    weight = normal(5, 48) * normal(5, 1, seed=3).exp()
    q = quant.quantize_rows(weight)
    assert (q.codes.shape, q.codes.dtype, q.scales.shape) == ((48, 5), torch.int8, (5,))
    assert q.codes.int().abs().amax(0).tolist() == [127] * 5
    levels = torch.arange(-127, 128).double() * q.scales[:, None].double()
    nearest = (weight[..., None].double() - levels[:, None]).abs().amin(-1)
    error = (weight.double() - quant.dequantize_rows(q).double()).abs()
    assert (error <= nearest + 1e-6 * weight.abs()).all()


def test_rows_hold_zero_exactly() -> None:
    """Also a row of nothing but zeros, whose scale is 1."""
    weight = normal(3, 32)
    weight[:, ::5] = 0
    weight[2] = 0
    q = quant.quantize_rows(weight)
    assert quant.dequantize_rows(q)[weight == 0].count_nonzero() == 0
    assert (float(q.scales[2]), int(q.codes[:, 2].count_nonzero())) == (1.0, 0)


def test_codebook_assigns_every_weight_to_its_nearest_centroid() -> None:
    """No other centroid of the row is nearer."""
    weight = normal(5, 96)
    q = quant.quantize_codebook(weight, importance_like(weight), rows=2)
    distances = (weight[..., None].double() - q.centroids[:, None].double()).abs()
    mine = (weight.double() - quant.dequantize_codebook(q).double()).abs()
    # A weight half way between two centroids may go to either: their mean is rounded to f32.
    assert (mine <= distances.amin(-1) + 2.0**-22 * weight.abs()).all()
    assert (q.centroids.diff(dim=1) >= 0).all()


def weighted_error(weight: Tensor, back: Tensor, mass: Tensor) -> Tensor:
    return (mass.double() * (weight.double() - back.double()) ** 2).sum(1)


@pytest.mark.parametrize("seed", range(5))
def test_codebook_is_never_worse_than_equal_steps(seed: int) -> None:
    """Per row, Σ importance·(W − Ŵ)² is below that of the nearest of 16 even levels."""
    weight = normal(20, 128, seed=seed)
    mass = importance_like(weight)
    book = quant.dequantize_codebook(quant.quantize_codebook(weight, mass))
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    step = (high - low) / (quant.LEVELS - 1)
    even = low + ((weight - low) / step).round() * step
    assert (weighted_error(weight, book, mass) < weighted_error(weight, even, mass)).all()


def test_no_iteration_raises_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lloyd's: each one is at least as good as the one before, up to f32 centroids."""
    weight = normal(20, 128)
    mass = importance_like(weight)
    errors = []
    for count in range(8):
        monkeypatch.setattr(quant, "KMEANS_ITERATIONS", count)
        book = quant.dequantize_codebook(quant.quantize_codebook(weight, mass))
        errors.append(weighted_error(weight, book, mass))
    for earlier, later in pairwise(errors):
        assert (later <= earlier * (1 + 1e-5)).all()
    assert (errors[-1] < errors[0]).all()


def test_centroids_stay_among_the_weights() -> None:
    """Mass over thirty orders of magnitude: sums of light clusters are all round-off."""
    weight = normal(50, 64)
    mass = 10.0 ** (normal(50, 64, seed=2) * 8)
    centroids = quant.quantize_codebook(weight, mass).centroids
    assert (centroids >= weight.amin(1, keepdim=True)).all()
    assert (centroids <= weight.amax(1, keepdim=True)).all()


def test_zeros_count_nothing_and_a_row_without_importance_counts_evenly() -> None:
    """The places of a trainable pull no centroid; no importance at all is not a division by
    zero."""
    weight = normal(2, 64)
    cut = weight.clone()
    cut[0, ::2] = 0
    mass = torch.ones(2, 64)
    heavy = mass.clone()
    heavy[0, ::2] = 1e6
    assert torch.equal(
        quant.quantize_codebook(cut, heavy).centroids, quant.quantize_codebook(cut, mass).centroids
    )
    none = quant.quantize_codebook(weight, torch.zeros(2, 64))
    assert torch.equal(none.centroids, quant.quantize_codebook(weight, mass).centroids)


def test_few_values_are_held_exactly() -> None:
    """A row of 16 even levels needs no rounding."""
    weight = torch.arange(16.0).repeat(4).view(1, 64)
    q = quant.quantize_codebook(weight, torch.ones(1, 64))
    assert torch.equal(quant.dequantize_codebook(q), weight)


def test_bitsandbytes_loads_in_silence() -> None:
    """What it misses on the Hub, no product here would use."""
    code = "import torch; from zofx.ir.quant import *; quantize_nf4(torch.ones(2, 32), 32)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")

"""Codebooks: k-means weighted by importance, against brute force."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.ir.formats.normal import normal
from zofx.ir.formats import codebook


def importance_like(weight: Tensor) -> Tensor:
    """Squared gradients: positive, over many orders of magnitude."""
    return normal(*weight.shape, seed=9).mul(4).exp()


def test_codebook_assigns_every_weight_to_its_nearest_centroid() -> None:
    """No other centroid of the row is nearer."""
    weight = normal(5, 96)
    q = codebook.quantize(weight, importance_like(weight), rows=2)
    distances = (weight[..., None].double() - q.centroids[:, None].double()).abs()
    mine = (weight.double() - codebook.dequantize(q).double()).abs()
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
    book = codebook.dequantize(codebook.quantize(weight, mass))
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    step = (high - low) / (codebook.LEVELS - 1)
    even = low + ((weight - low) / step).round() * step
    assert (weighted_error(weight, book, mass) < weighted_error(weight, even, mass)).all()


def test_no_iteration_raises_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lloyd's: each one is at least as good as the one before, up to f32 centroids."""
    weight = normal(20, 128)
    mass = importance_like(weight)
    errors = []
    for count in range(8):
        monkeypatch.setattr(codebook, "KMEANS_ITERATIONS", count)
        book = codebook.dequantize(codebook.quantize(weight, mass))
        errors.append(weighted_error(weight, book, mass))
    for earlier, later in pairwise(errors):
        assert (later <= earlier * (1 + 1e-5)).all()
    assert (errors[-1] < errors[0]).all()


def test_centroids_stay_among_the_weights() -> None:
    """Mass over thirty orders of magnitude: sums of light clusters are all round-off."""
    weight = normal(50, 64)
    mass = 10.0 ** (normal(50, 64, seed=2) * 8)
    centroids = codebook.quantize(weight, mass).centroids
    assert (centroids >= weight.amin(1, keepdim=True)).all()
    assert (centroids <= weight.amax(1, keepdim=True)).all()


def test_zeros_count_nothing_and_a_row_without_importance_counts_evenly() -> None:
    """Places of a trainable pull no centroid; no importance at all is not a division by zero."""
    weight = normal(2, 64)
    cut = weight.clone()
    cut[0, ::2] = 0
    mass = torch.ones(2, 64)
    heavy = mass.clone()
    heavy[0, ::2] = 1e6
    assert torch.equal(
        codebook.quantize(cut, heavy).centroids, codebook.quantize(cut, mass).centroids
    )
    none = codebook.quantize(weight, torch.zeros(2, 64))
    assert torch.equal(none.centroids, codebook.quantize(weight, mass).centroids)


def test_few_values_are_held_exactly() -> None:
    """A row of 16 even levels needs no rounding."""
    weight = torch.arange(16.0).repeat(4).view(1, 64)
    q = codebook.quantize(weight, torch.ones(1, 64))
    assert torch.equal(codebook.dequantize(q), weight)

"""16 free values per row, found by k-means in which a weight counts by its sensitivity.

    W ≈ centroid[row, code]        codes of 4 bits, low nibble first
    |W − Ŵ| ≤ half the gap between neighbouring centroids, or the distance to the outermost one

0 is not exact. Lloyd's iterations never raise Σ importance·(W − Ŵ)².
Source: Kim et al. 2023, SqueezeLLM, arXiv 2306.07629; Lloyd 1982, Least squares quantization in
PCM, IEEE Trans. Inf. Theory 28(2).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from zofx.ir.formats.format import MATRIX, EngineNotes, Format, Part, pack_nibbles, unpack_nibbles

LEVELS = 16
KMEANS_ITERATIONS = 25


class Codebook(NamedTuple):
    """u8[out, in/2] codes, f32[out, 16] centroids."""

    codes: Tensor
    centroids: Tensor


def quantize(weight: Tensor, importance: Tensor, rows: int = 256) -> Codebook:
    """Per row, 1-D k-means with 16 centroids, each weight counted `importance` times.

    Zero weights count nothing (they are the places a trainable was cut from); a row without any
    importance is clustered uniformly. Lloyd's iterations, from quantiles of equal mass and from
    equal steps; the better of both, per row, so never worse than 16 equal steps.

    Args:
        weight: f32[out, in].
        importance: f32[out, in], ≥ 0, the squared gradient of each weight.
        rows: rows clustered at once; bounds the memory.
    """
    parts = [
        _kmeans_rows(w, i)
        for w, i in zip(_parts(weight, rows), _parts(importance, rows), strict=True)
    ]
    codes, centroids = (torch.cat(column) for column in zip(*parts, strict=True))
    return Codebook(pack_nibbles(codes), centroids)


def _parts(matrix: Tensor, rows: int) -> list[Tensor]:
    return [matrix[start : start + rows].float() for start in range(0, len(matrix), rows)]


def _kmeans_rows(weight: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    mass = torch.where(weight == 0, torch.zeros_like(importance), importance).double()
    mass = torch.where(mass.sum(1, keepdim=True) > 0, mass, torch.ones_like(mass))
    values, order = weight.double().sort(dim=1)
    mass = mass.gather(1, order)
    rows = _Rows(values, _prefix(mass), _prefix(mass * values))
    by_mass, by_step = _lloyd(rows, _equal_mass(rows)), _lloyd(rows, _equal_steps(rows))
    better = _gain(rows, by_mass) > _gain(rows, by_step)
    centroids = torch.where(better, by_mass, by_step).float()
    boundary = (centroids[:, 1:] + centroids[:, :-1]) / 2
    codes = torch.searchsorted(boundary.contiguous(), weight.float().contiguous())
    return codes.to(torch.uint8), centroids


class _Rows(NamedTuple):
    """Sorted rows f64[rows, n] and their prefix sums f64[rows, n + 1].

    Clusters are intervals of a sorted row: a sum over one is a difference of prefix sums.
    """

    values: Tensor
    mass: Tensor
    mass_times_value: Tensor

    def sums(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Mass and mass·value of each cluster."""
        return (
            self.mass.gather(1, edges).diff(dim=1),
            self.mass_times_value.gather(1, edges).diff(dim=1),
        )


def _prefix(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values.cumsum(1), (1, 0))


def _equal_mass(rows: _Rows) -> Tensor:
    """Centroids at quantiles: good where importance is spread."""
    quantiles = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    start = torch.searchsorted(rows.mass[:, 1:].contiguous(), quantiles * rows.mass[:, -1:])
    return rows.values.gather(1, start.clamp(max=rows.values.shape[1] - 1))


def _equal_steps(rows: _Rows) -> Tensor:
    """Centroids in even steps: good where a few weights hold all importance, and quantiles meet."""
    low, high = rows.values[:, :1], rows.values[:, -1:]
    return low + (high - low) * torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)


def _lloyd(rows: _Rows, centroids: Tensor) -> Tensor:
    """Move each centroid to the mean of its cluster, again and again."""
    last = rows.values.shape[1] - 1
    for _ in range(KMEANS_ITERATIONS):
        edges = _edges(rows, centroids)
        mass, mass_times_value = rows.sums(edges)
        # A cluster of next to no mass leaves only round-off in both sums: keep it in its interval.
        low = rows.values.gather(1, edges[:, :-1].clamp(max=last))
        high = rows.values.gather(1, (edges[:, 1:] - 1).clamp(min=0))
        mean = (mass_times_value / mass).clamp(low, high)
        centroids = torch.where(mass > 0, mean, centroids).sort(dim=1).values
    return centroids


def _edges(rows: _Rows, centroids: Tensor) -> Tensor:
    """Where each cluster starts and ends in the sorted row, i64[rows, 17]."""
    boundary = ((centroids[:, 1:] + centroids[:, :-1]) / 2).contiguous()
    inner = torch.searchsorted(rows.values.contiguous(), boundary)
    outer = torch.full_like(inner[:, :1], rows.values.shape[1])
    return torch.cat((torch.zeros_like(outer), inner, outer), dim=1)


def _gain(rows: _Rows, centroids: Tensor) -> Tensor:
    """How much Σ mass·(v − c)² is below Σ mass·v², f64[rows, 1]."""
    mass, mass_times_value = rows.sums(_edges(rows, centroids))
    return (2 * centroids * mass_times_value - centroids**2 * mass).sum(1, keepdim=True)


def dequantize(q: Codebook) -> Tensor:
    """f32[out, in]."""
    return q.centroids.gather(1, unpack_nibbles(q.codes).long())


@custom_op("zofx::linear_codebook", mutates_args=())
def linear_codebook(x: Tensor, codes: Tensor, centroids: Tensor, bias: Tensor | None) -> Tensor:
    """x·Ŵᵀ + b with Ŵ of `Codebook`: [..., in] → [..., out]."""
    return torch.nn.functional.linear(x, dequantize(Codebook(codes, centroids)), bias)


@linear_codebook.register_fake
def _(x: Tensor, codes: Tensor, centroids: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@dataclass(frozen=True)
class CodebookFormat(Format):
    """See the module."""

    def parts(self, shape: tuple[int, int], block: int) -> tuple[Part, ...]:
        """Codes and centroids."""
        out, width = shape
        return (
            Part("codes", (out, width // 2), torch.uint8),
            Part("centroids", (out, LEVELS), torch.float32),
        )

    def quantize(self, weight: Tensor, block: int, importance: Tensor | None) -> tuple[Tensor, ...]:
        """By weighted k-means."""
        assert importance is not None  # `needs_scores`
        return quantize(weight, importance)

    def dequantize(self, parts: tuple[Tensor, ...], shape: tuple[int, int]) -> Tensor:
        """f32[out, in]."""
        return dequantize(Codebook(*parts))


CODEBOOK: Final = CodebookFormat(
    "codebook",
    "16 free values per row, by k-means weighted by sensitivity (SqueezeLLM)",
    torch.ops.zofx.linear_codebook.default,
    bits=4,
    block=2,  # two codes to a byte
    keeps_zero=False,
    needs_scores=True,
    engines={
        "ort": EngineNotes(kernel=False),
        "torch": EngineNotes(scratch=1 + 8 + MATRIX),  # nibbles, as i64, and what they stand for
    },
)

"""Quantized storage of frozen matrices: what the codes mean, and how to make them.

    nf4       W ≈ absmax[block] · NF4[code]            16 normal quantiles; blocks run along the
                                                       flattened matrix
    int       W ≈ scale[row, block] · (code − zero[row, block])
                                                       4 or 8 bits, blocks along `in`; 0 is exact
    int8-row  W ≈ scale[row] · code                    codes −127 … 127, stored [in, out]
    codebook  W ≈ centroid[row, code]                  16 free values per row, k-means weighted by
                                                       sensitivity

Pure functions on W: f32[out, in]. Byte layouts are the ones stock ONNX Runtime kernels read:
`MatMulBnb4` (bitsandbytes' packing, high nibble first), `MatMulNBits` (low nibble first,
[out, blocks, bytes]) and `MatMulIntegerToFloat` ([in, out]), so both runtimes share one file.
"""

import logging
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = 16
ROW_TOP = 127
KMEANS_ITERATIONS = 25


class Nf4(NamedTuple):
    """u8[out·in/2] codes, f32[out·in/block] absmax."""

    codes: Tensor
    absmax: Tensor


class Affine(NamedTuple):
    """u8[out, blocks, block·bits/8] codes, f32[out, blocks] scales, u8[out, ⌈blocks·bits/8⌉]."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor


class Rows(NamedTuple):
    """i8[in, out] codes, f32[out] scales: what an integer product reads."""

    codes: Tensor
    scales: Tensor


class Codebook(NamedTuple):
    """u8[out, in/2] codes, f32[out, 16] centroids."""

    codes: Tensor
    centroids: Tensor


def pack_nibbles(values: Tensor) -> Tensor:
    """u8[..., 2n] of 4-bit values → u8[..., n], the first value in the low nibble."""
    return values[..., 0::2] | (values[..., 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The inverse of `pack_nibbles`."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


@cache
def _load_bitsandbytes() -> None:
    """Register torch.ops.bitsandbytes, once."""
    # On processors with bfloat16 the import looks for a fused product on the Hub, and warns if it
    # is not there; weights are only quantized and dequantized here, so nothing would call it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes  # noqa: F401  importing it is what registers


def quantize_nf4(weight: Tensor, block: int) -> Nf4:
    """NF4 by bitsandbytes (Dettmers et al. 2023, arXiv 2305.14314, appendix E)."""
    _load_bitsandbytes()
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(
        weight.contiguous(), blocksize=block, quant_type="nf4", compress_statistics=False
    )
    return Nf4(codes.flatten(), state.absmax)


def dequantize_nf4(q: Nf4, out: int, block: int) -> Tensor:
    """f32[out, in]."""
    _load_bitsandbytes()
    size = q.codes.numel() * 2
    weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        q.codes.view(-1, 1), q.absmax, block, "nf4", [out, size // out], torch.float32
    )
    return weight


def nf4_levels() -> Tensor:
    """What the codes 0 to 15 stand for: f32[16]."""
    every = Nf4(torch.arange(LEVELS, dtype=torch.uint8), torch.ones(1))  # each in a low nibble
    return dequantize_nf4(every, 1, 2 * LEVELS)[0, 1::2]


def quantize_int(weight: Tensor, bits: int, block: int) -> Affine:
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


def dequantize_int(q: Affine, bits: int) -> Tensor:
    """f32[out, in], or f32[P, out, in] for scales f32[P, out, blocks]."""
    codes = unpack_nibbles(q.codes) if bits == 4 else q.codes
    zeros = unpack_nibbles(q.zeros)[:, : q.scales.shape[-1]] if bits == 4 else q.zeros
    return ((codes.float() - zeros.float()[..., None]) * q.scales[..., None]).flatten(-2)


def quantize_rows(weight: Tensor) -> Rows:
    """Round each row to 255 levels between plus and minus its largest |w|: |W − Ŵ| ≤ scale/2.

    As LLM.int8() stores weights (Dettmers et al. 2022, arXiv 2208.07339).
    """
    scales = weight.float().abs().amax(1) / ROW_TOP
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    codes = (weight.float() / scales[:, None]).round().clamp(-ROW_TOP, ROW_TOP).to(torch.int8)
    return Rows(codes.t().contiguous(), scales)


def dequantize_rows(q: Rows) -> Tensor:
    """f32[out, in]."""
    return q.codes.t().float() * q.scales[:, None]


def quantize_codebook(weight: Tensor, importance: Tensor, rows: int = 256) -> Codebook:
    """Per row, 1-D k-means with 16 centroids, each weight counted `importance` times.

    Kim et al. 2023, arXiv 2306.07629. Zero weights count nothing (they are the places a trainable was
    cut from); a row without any importance is clustered uniformly. Lloyd's iterations,
    none of which raises Σ importance·(W − Ŵ)², from quantiles of equal mass and from equal steps;
    the better of both, per row, so never worse than 16 equal steps.

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


def dequantize_codebook(q: Codebook) -> Tensor:
    """f32[out, in]."""
    return q.centroids.gather(1, unpack_nibbles(q.codes).long())

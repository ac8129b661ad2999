"""Bases of low-rank slices: drawing them anew, and folding what was learnt in the old ones.

    W(θ) = base + gain · left · A · right            A the slice; left = 1 where there is none
    refresh(key):  base ← W(θ),  A ← 0,  right, left ← draws of streams V and U under the key

Both are functions of (θ, key) in float32, products and sums one after the other, so they give the
same bits on every machine. θ's meaning does not change at a refresh, up to that rounding.
Source: Chen et al. 2025, Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank
Structures, arXiv 2410.07698 (lazy V); Yu et al. 2024, SubZero, arXiv 2410.08989 (orthonormal, both
sides).
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from zofx.zo.laws import Basis, Noise
from zofx.zo.noise import Stream, sample
from zofx.zo.types import FloatArray, Key

CHUNK_ROWS: Final = 1 << 10


def refresh(values: Mapping[str, FloatArray], noise: Noise, key: Key) -> None:
    """Fold every low-rank slice into its base and give it a basis of the key, in place.

    Args:
        values: slices, bases and factors by name; f32, writable.
        noise: which slices are low-rank.
        key: of the new basis.
    """
    for name, basis in noise.bases.items():
        if basis.base is None:
            continue
        if values[basis.right].any():  # at first there is no basis, and nothing to fold
            fold(values, name, basis)
        values[name][...] = 0
        values[basis.right][...] = _rows(basis, key, name, values[basis.right].shape, Stream.V)
        if basis.left:
            rows, rank = values[basis.left].shape
            values[basis.left][...] = _rows(basis, key, name, (rank, rows), Stream.U).T


def fold(values: Mapping[str, FloatArray], name: str, basis: Basis) -> None:
    """Base ← base + gain · left · A · right, in place."""
    left = values[name] * np.float32(basis.gain)
    if basis.left:
        left = product(values[basis.left], left)
    base, right = values[str(basis.base)], values[basis.right]
    for start in range(0, len(base), CHUNK_ROWS):
        part, rows = base[start : start + CHUNK_ROWS], left[start : start + CHUNK_ROWS]
        for column, row in zip(rows.T, right, strict=True):
            part += column[:, None] * row


def product(a: FloatArray, b: FloatArray) -> FloatArray:
    """a·b for a short inner axis, summed in order."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for column, row in zip(a.T, b, strict=True):
        total += column[:, None] * row
    return total


def _rows(basis: Basis, key: Key, name: str, shape: tuple[int, ...], stream: Stream) -> FloatArray:
    rows = sample("gaussian", key, name, shape, stream)
    return orthonormal_rows(rows) if basis.orthonormal else rows


def overlaps(old: FloatArray, new: FloatArray) -> FloatArray:
    """Old · newᵀ / n for two bases f32[r, n]: how the coordinates of one read in the other."""
    pairs = old[:, None, :].astype(np.float64) * new[None, :, :]
    means: FloatArray = (tree_sum(pairs) / old.shape[1]).astype(np.float32)
    return means


def orthonormal_rows(rows: FloatArray) -> FloatArray:
    """Modified Gram–Schmidt in float64, the same bits on every machine: f32[r, n], r ≤ n.

    Sums are trees of elementwise additions; a library's reductions and QR differ between machines.
    """
    basis = rows.astype(np.float64)
    for i, row in enumerate(basis):
        for _ in range(2):  # once loses digits where rows are nearly parallel
            for earlier in basis[:i]:
                row -= tree_sum(row * earlier) * earlier
        row /= np.sqrt(tree_sum(row * row))
    return basis.astype(np.float32)


def tree_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the last axis by halving, in an order that depends on its length alone."""
    while (length := values.shape[-1]) > 1:
        half = length // 2
        pairs = values[..., :half] + values[..., half : 2 * half]
        values = np.concatenate([pairs, values[..., 2 * half :]], axis=-1)
    return values[..., 0]

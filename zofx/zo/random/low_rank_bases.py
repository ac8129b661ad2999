"""Bases of low-rank trainables: drawing them anew, and folding what was learnt in the old ones.

    W(θ) = base + gain · left · A · right            A the trainable; left = 1 where there is none
    refresh(key):  base ← W(θ),  A ← 0,  right, left ← draws of streams V and U under the key

Both are functions of (θ, key) in float32, products and sums one after the other, so they give the
same bits on every machine. θ's meaning does not change at a refresh, up to that rounding.
Source: Chen et al. 2025, Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank
Structures, arXiv 2410.07698 (lazy V); Yu et al. 2024, SubZero, arXiv 2410.08989 (orthonormal, both
sides).
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.zo.random.direction_spec import Basis, Noise
from zofx.zo.random.noise import Stream, sample
from zofx.zo.types import FloatArray, Key

Factors: TypeAlias = Mapping[str, FloatArray]

CHUNK_ROWS: Final = 1 << 10


def refresh(values: Mapping[str, FloatArray], noise: Noise, key: Key) -> None:
    """Fold every low-rank trainable into its base and give it a basis of the key, in place.

    Args:
        values: trainables, bases and factors by name; f32, writable.
        noise: which trainables are low-rank.
        key: of the new basis.
    """
    for name, basis in noise.bases.items():
        if basis.base is None:
            continue
        if values[name].any():  # adding zeros would still make a +0 of a −0
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


def carried(values: FloatArray, basis: Basis, old: Factors, new: Factors) -> FloatArray:
    """Coordinates in the old basis, read in the new one: left′ · A′ · right′ ≈ left · A · right.

    The least-squares reading, A′ = overlap(left′, left) · A · overlap(right, right′), exact where
    rows are orthonormal; n normals are so to about 1/√n, times √n.

    Args:
        values: f32[m, r], or f32[r, r] of a two-sided trainable.
        basis: whose factors these are.
        old: factors before a refresh, by name.
        new: factors after it.
    """
    read = product(values, overlaps(old[basis.right], new[basis.right], basis.orthonormal))
    if basis.left is None:
        return read
    left = overlaps(new[basis.left].T, old[basis.left].T, basis.orthonormal)
    return product(left, read)


def overlaps(one: FloatArray, other: FloatArray, orthonormal: bool) -> FloatArray:
    """One · otherᵀ, products of rows of two bases f32[r, n]; over n where these are normals."""
    pairs = one[:, None, :].astype(np.float64) * other[None, :, :]
    sums = tree_sum(pairs) / (1 if orthonormal else one.shape[1])
    products: FloatArray = sums.astype(np.float32)
    return products


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

"""Of entries that are chosen, the cheapest columns that hold a share of their sensitivity.

    least Σ cost of the matrices kept    such that    Σ score of the columns kept ≥ cover · Σ score,
                                                      and they have room for as many entries
    cost of a matrix (`ops.sparse`)     as a block       out + columns · (out · BLOCK_COST + PICKED)
                                        entry by entry   out + (width + out + entries) · SCATTERED

Cost has a price λ in sensitivity: a column stays if it holds more than λ times what it costs, and a
matrix if what its columns hold beyond that pays for the rest of its product. Whatever holds as much
as is kept for one λ, costs as much (Everett 1963). The largest λ that keeps enough is found by
bisection.
Source: Everett 1963, Generalized Lagrange Multiplier Method, Operations Research 11(3).
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Cost of one entry of a dense block, of picking one value of x for it, and of adding one entry by
# itself or moving a value for that, where writing one output and adding it to others costs 1:
# fitted to ONNX Runtime on a thread of a CPU (9e-12, 2.5e-9 and 1.2e-9 s against 3.6e-10 s per row
# of x, in forwards of some hundred rows).
BLOCK_COST = 1 / 40
PICKED = 7
SCATTERED = 3.3

DEEPEST = 64
"""Entries by entry are taken one of every row at a time: at most so many times."""

BLOCK_ENTRIES = 1 << 22
"""The most that a dense block has for each probe, if a row has no more."""


def as_block(entries: int, columns: int, deepest: int, out: int, width: int) -> bool:
    """Whether S: [out, width] is best multiplied as a dense block over the columns it touches.

    Sensitive weights share columns (an outlier feature is sensitive for every output), so the block
    is mostly a few percent of the matrix; scattered ones do better entry by entry, unless a row has
    very many.
    """
    block = columns * (out * BLOCK_COST + PICKED)
    return deepest > DEEPEST or block < (width + out + entries) * SCATTERED


def rows_at_once(columns: int, out: int) -> int:
    """Of how many rows of S: [out, width] ONNX Runtime makes a dense block at a time.

    A mask of 0.1 % of a model of 7 billion weights may touch most columns of a matrix with 11,008
    rows: its blocks for two probes would take 334 MB.
    """
    return max(1, min(out, BLOCK_ENTRIES // columns))


HALVINGS = 100


class Columns(NamedTuple):
    """The columns of several matrices that have chosen entries.

    Attributes:
        score: sum of the scores of these entries, f64[c].
        entries: how many, i64[c].
        matrix: whose column it is, i64[c].
        out: rows of that matrix, i64[c].
        width: columns of that matrix, i64[c].
    """

    score: Tensor
    entries: Tensor
    matrix: Tensor
    out: Tensor
    width: Tensor


def cheapest(columns: Columns, cover: float) -> Tensor:
    """Which columns to keep: bool[c].

    Args:
        columns: those there are.
        cover: the share that those kept must hold, in (0, 1].
    """
    best = torch.ones_like(columns.score, dtype=torch.bool)
    low, high = 0.0, float(columns.score.sum())
    for _ in range(HALVINGS):
        price = (low + high) / 2
        kept = _worth(columns, price)
        if _enough(columns, kept, cover):
            best, low = kept, price
        else:
            high = price
    return best


def _enough(columns: Columns, kept: Tensor, cover: float) -> bool:
    score = columns.score[kept].sum() >= cover * columns.score.sum()
    return bool(score and columns.out[kept].sum() >= columns.entries.sum())


def _worth(columns: Columns, price: float) -> Tensor:
    """What pays for itself: bool[c], every matrix multiplied in the way that pays more."""
    out, width = columns.out, columns.width
    block = columns.score - price * (out * BLOCK_COST + PICKED)
    single = columns.score - price * columns.entries * SCATTERED
    as_block = _gain(columns, block, price * out)
    one_by_one = _gain(columns, single, price * (out + (out + width) * SCATTERED))
    own = torch.where(as_block >= one_by_one, block, single)
    return (own > 0) & (torch.maximum(as_block, one_by_one) > 0)


def _gain(columns: Columns, surplus: Tensor, rest: Tensor) -> Tensor:
    """What the columns of a matrix bring that are worth it, less its other cost: f64[c]."""
    total = torch.zeros(int(columns.matrix.max()) + 1, dtype=torch.float64)
    total.index_add_(0, columns.matrix, surplus.clamp(min=0))
    return total[columns.matrix] - rest

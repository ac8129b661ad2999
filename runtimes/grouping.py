"""Rows of about the same length go through the engine together: padding is not computed.

    batch [N, T], [N, S]   →   groups [n_g, T_g], [n_g, S_g]

    Σ n_g·(T_g + head·S_g) + overhead·groups   smallest

Rows are sorted by length, so groups are intervals and the best cut is found exactly. What is cut
off is padding to the right of every row of a group, which no other position sees, and places of
scored positions that no row of it has: scores stay what they were, up to the rounding of a product
of another shape. A TREC batch of 16 short questions loses a quarter of its positions.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zofx.runtime import IGNORED, Batch
from zofx.zo.types import IntArray

MULTIPLE = 8  # few lengths, so few shapes for an engine to plan for
# What another forward costs, in positions of a row: streaming and unpacking the weights once more.
FORWARD = 32
# The same, if all weights are slices: every probe's own weights are made once more.
PERTURBING = 160


def overhead(slices: int, frozen: int) -> float:
    """What another forward costs, in positions.

    Args:
        slices: bytes of what trains.
        frozen: bytes of what does not.
    """
    return FORWARD + PERTURBING * slices / max(1, slices + frozen)


def by_length(batch: Batch, overhead: float, head: float = 0.0) -> Iterator[tuple[IntArray, Batch]]:
    """The cheapest groups of rows.

    Args:
        batch: N rows.
        overhead: what another forward costs, in positions.
        head: what the logits of a scored position cost, likewise.

    Yields:
        Which rows, i64[n], and these rows, T and S as short as they allow.
    """
    lengths, scored = _lengths(batch), _scored(batch)
    order = np.lexsort((scored, lengths))
    for start, end in _cuts(lengths[order], head * scored[order], overhead):
        rows = order[start:end]
        length, count = lengths[rows[-1]], scored[rows].max()
        part = batch.rows(rows)
        yield (
            rows,
            replace(
                part,
                input_ids=np.ascontiguousarray(part.input_ids[:, :length]),
                attention_mask=np.ascontiguousarray(part.attention_mask[:, :length]),
                positions=np.ascontiguousarray(part.positions[:, :count]),
                targets=np.ascontiguousarray(part.targets[:, :count]),
            ),
        )


def _lengths(batch: Batch) -> IntArray:
    """Positions up to the last that is a token or is scored, rounded up: i64[N]."""
    T = batch.attention_mask.shape[1]
    tokens = (np.arange(1, T + 1) * (batch.attention_mask != 0)).max(1, initial=1)
    needed = np.maximum(tokens, batch.positions.max(1, initial=0) + 1)
    lengths: IntArray = np.minimum(-(-needed // MULTIPLE) * MULTIPLE, T)
    return lengths


def _scored(batch: Batch) -> IntArray:
    """Places of scored positions up to the last that has a target: i64[N], at least 1."""
    S = batch.positions.shape[1]
    counts: IntArray = (np.arange(1, S + 1) * (batch.targets != IGNORED).any(2)).max(1, initial=1)
    return counts


def _cuts(
    lengths: IntArray, scored: NDArray[np.floating[Any]], overhead: float
) -> list[tuple[int, int]]:
    """Intervals of ascending lengths, by dynamic programming over where the last one starts."""
    ends = range(1, len(lengths) + 1)
    cost, start_of = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, dtype=np.int64)
    for end in ends:
        widest = np.maximum.accumulate(scored[:end][::-1])[::-1]
        last = (end - np.arange(end)) * (lengths[end - 1] + widest) + overhead
        start_of[end] = (cost[:end] + last).argmin()
        cost[end] = (cost[:end] + last)[start_of[end]]
    cuts, end = [], len(lengths)
    while end:
        cuts.append((int(start_of[end]), end))
        end = cuts[-1][0]
    return cuts[::-1]

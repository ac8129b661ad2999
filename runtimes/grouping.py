"""Rows of about the same length go through the engine together: padding is not computed.

    batch [N, T]   →   groups [n_g, T_g],   Σ n_g·T_g + overhead·groups smallest

Rows are sorted by length, so groups are intervals and the best cut is found exactly. What is cut
off is padding to the right of every row of a group, which no other position sees: scores stay what
they were, up to the rounding of a product of another shape. A TREC batch of 16 short questions
loses a quarter of its positions.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from zofx.runtime import Batch
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


def by_length(batch: Batch, overhead: float) -> Iterator[tuple[IntArray, Batch]]:
    """The cheapest groups of rows.

    Args:
        batch: N rows.
        overhead: what another forward costs, in positions.

    Yields:
        Which rows, i64[n], and these rows, T as short as they allow.
    """
    lengths = _lengths(batch)
    order = np.argsort(lengths, kind="stable")
    for start, end in _cuts(lengths[order], overhead):
        rows = order[start:end]
        length = lengths[rows[-1]]
        part = batch.rows(rows)
        yield (
            rows,
            replace(
                part,
                input_ids=np.ascontiguousarray(part.input_ids[:, :length]),
                attention_mask=np.ascontiguousarray(part.attention_mask[:, :length]),
            ),
        )


def _lengths(batch: Batch) -> IntArray:
    """Positions up to the last that is a token or is scored, rounded up: i64[N]."""
    T = batch.attention_mask.shape[1]
    tokens = (np.arange(1, T + 1) * (batch.attention_mask != 0)).max(1, initial=1)
    needed = np.maximum(tokens, batch.positions.max(1, initial=0) + 1)
    lengths: IntArray = np.minimum(-(-needed // MULTIPLE) * MULTIPLE, T)
    return lengths


def _cuts(lengths: IntArray, overhead: float) -> list[tuple[int, int]]:
    """Intervals of ascending lengths, by dynamic programming over where the last one starts."""
    ends = range(1, len(lengths) + 1)
    cost, start_of = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, dtype=np.int64)
    for end in ends:
        last = (end - np.arange(end)) * lengths[end - 1] + overhead
        start_of[end] = (cost[:end] + last).argmin()
        cost[end] = (cost[:end] + last)[start_of[end]]
    cuts, end = [], len(lengths)
    while end:
        cuts.append((int(start_of[end]), end))
        end = cuts[-1][0]
    return cuts[::-1]

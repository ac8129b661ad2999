"""Rows of about the same length go through the engine together: padding is not computed.

    batch [N, T], [N, S]   →   groups [n_g, T_g], [n_g, S_g]

    Σ n_g·(T_g + head·S_g) + spill·(n_g·T_g)² + forward·groups   smallest

Rows are sorted by length, so groups are intervals and the best cut is found exactly. What is cut
off is padding to the right of every row of a group, which no other position sees, and places of
scored positions that no row of it has: scores stay what they were, up to the rounding of a product
of another shape. A TREC batch of 16 short questions loses a quarter of its positions. Long rows are
split for the caches: the more positions a forward has, the further away its values are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
# What a position costs more for every other one under every probe, where activations are rounded:
# products are fast there, and the sweeps over values beside them wait for memory. Fitted to 128 to
# 1,536 positions of two models (benchmarks/README.md); with products of floats it is about none.
SPILL = 1.5e-4


@dataclass(frozen=True)
class Prices:
    """What forwards cost, in positions.

    Attributes:
        forward: another one.
        head: the logits of a scored position.
        spill: a position, for every other one in its forward.
    """

    forward: float
    head: float = 0.0
    spill: float = 0.0


def overhead(slices: int, frozen: int) -> float:
    """What another forward costs, in positions.

    Args:
        slices: bytes of what trains.
        frozen: bytes of what does not.
    """
    return FORWARD + PERTURBING * slices / max(1, slices + frozen)


def by_length(batch: Batch, prices: Prices) -> Iterator[tuple[IntArray, Batch]]:
    """The cheapest groups of rows.

    Args:
        batch: N rows.
        prices: of their forwards.

    Yields:
        Which rows, i64[n], and these rows, T and S as short as they allow.
    """
    lengths, scored = _lengths(batch), _scored(batch)
    order = np.lexsort((scored, lengths))
    for start, end in cuts(lengths[order], scored[order], prices):
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


def cuts(
    lengths: NDArray[np.integer[Any]], scored: NDArray[np.integer[Any]], prices: Prices
) -> list[tuple[int, int]]:
    """Intervals of rows, by dynamic programming over where the last one starts.

    Args:
        lengths: [N], ascending.
        scored: positions of each, [N].
        prices: of their forwards.
    """
    cost, start_of = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, dtype=np.int64)
    for end in range(1, len(lengths) + 1):
        rows = end - np.arange(end)
        widest = np.maximum.accumulate(scored[:end][::-1])[::-1]
        positions = rows * lengths[end - 1]
        last = positions + rows * prices.head * widest + prices.spill * positions.astype(float) ** 2
        total = cost[:end] + last + prices.forward
        start_of[end] = total.argmin()
        cost[end] = total[start_of[end]]
    found, end = [], len(lengths)
    while end:
        found.append((int(start_of[end]), end))
        end = found[-1][0]
    return found[::-1]

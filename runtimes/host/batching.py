"""Rows of about the same length go through the engine together: padding is not computed.

    batch [N, T], [N, S]   →   groups [n_g, T_g], [n_g, S_g]

    cost of a group   n_g·(T_g + head·S_g) + cache_penalty·(n_g·T_g)² + forward
    in one worker       Σ cost smallest;   in several: the time until the last of them is done

Rows are sorted by length, so groups are intervals and the best cut is found exactly; for several
workers, the best of those that cap the largest group. What is cut off is padding to the right of
every row of a group, which no other position sees, and places of scored positions that no row of it
has: scores stay what they were, up to the rounding of a product of another shape. A TREC batch of
16 short questions loses a quarter of its positions. Long rows are split for the caches: the more
positions a forward has, the further away its values are. A worker is a thread that does whole
forwards: it waits for no other, and has all it made itself in its own caches.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.ir.schema import Products
from zofx.session import IGNORED, Batch, rounded_up
from zofx.zo.types import IntArray

Costs: TypeAlias = NDArray[np.float64]

# What another forward costs, in positions of a row: streaming and unpacking the weights once more.
FORWARD = 32
# The same, if all weights are trainables: every probe's own weights are made once more.
PERTURBING = 160
# What a position costs more for every other one under every probe, as the sweeps over values then
# wait for memory. Fitted to 192 to 2,048 positions of two models (benchmarks/README.md).
CACHE_PENALTY = 3.5e-5
# With so many rows for each, threads do forwards of their own (docs/speed.md).
ROWS_PER_WORKER = 4


@dataclass(frozen=True)
class CostModel:
    """What forwards cost, in positions.

    Attributes:
        forward: another one.
        head: the logits of a scored position.
        cache_penalty: a position, for every other one in its forward.
        workers: how many forwards are done at a time.
    """

    forward: float
    head: float = 0.0
    cache_penalty: float = 0.0
    workers: int = 1


@dataclass(frozen=True)
class BatchingPolicy:
    """How an engine gets through a batch.

    Attributes:
        cache_penalty: what a position costs more for every other one that is in work, under every
        probe.
        workers: how many forwards it does at a time, each on a thread of its own.
    """

    cache_penalty: float = 0.0
    workers: int = 1

    def cost_model(self, trainables: int, frozen: int, probes: int, head: float = 0.0) -> CostModel:
        """What forwards cost it.

        A worker does alone what all threads would share, but shares the way to the weights and the
        caches with the others.

        Args:
            trainables: bytes of what trains.
            frozen: bytes of what does not.
            probes: P.
            head: the price of the logits of a scored position.
        """
        forward = FORWARD + PERTURBING * trainables / max(1, trainables + frozen)
        return CostModel(
            forward / self.workers, head, self.cache_penalty * probes * self.workers, self.workers
        )


def cpu_batching_policy(
    products: Products, cut: bool, rows: int, threads: int | None
) -> BatchingPolicy:
    """Of ONNX Runtime on a CPU.

    Integers are so fast that threads which share an op wait for each other's values; 4-bit codes
    are unpacked within the product, which two threads do in more than half the time of one.

    Args:
        products: of the program.
        cut: whether the program is: the rows below go one by one, for which threads share ops.
        rows: of a batch, as a rule.
        threads: of the engine; None stands for all processors.
    """
    count = threads or os.cpu_count() or 1
    apart = products is not Products.FLOATS and not cut and rows >= ROWS_PER_WORKER * count
    return BatchingPolicy(CACHE_PENALTY, count if apart else 1)


def by_length(batch: Batch, cost_model: CostModel) -> Iterator[tuple[IntArray, Batch]]:
    """The cheapest groups of rows, the costliest of them first.

    Args:
        batch: N rows.
        cost_model: of their forwards.

    Yields:
        Which rows, i64[n], and these rows, T and S as short as they allow.
    """
    lengths, scored = _lengths(batch), _scored(batch)
    order = np.lexsort((scored, lengths))
    for start, end in cuts(lengths[order], scored[order], cost_model):
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


def in_parts(
    groups: Iterable[tuple[IntArray, Batch]], positions: int
) -> Iterator[tuple[IntArray, Batch]]:
    """Groups in parts of so many positions, or of one row."""
    for rows, batch in groups:
        most = max(1, positions // batch.input_ids.shape[1])
        for start in range(0, len(rows), most):
            chosen = slice(start, start + most)
            yield rows[chosen], batch.rows(chosen)


def _lengths(batch: Batch) -> IntArray:
    """Positions up to the last that is a token or is scored, rounded up: i64[N]."""
    T = batch.attention_mask.shape[1]
    tokens = (np.arange(1, T + 1) * (batch.attention_mask != 0)).max(1, initial=1)
    needed = np.maximum(tokens, batch.positions.max(1, initial=0) + 1)
    lengths: IntArray = np.minimum(rounded_up(needed), T)
    return lengths


def _scored(batch: Batch) -> IntArray:
    """Places of scored positions up to the last that has a target: i64[N], at least 1."""
    S = batch.positions.shape[1]
    counts: IntArray = (np.arange(1, S + 1) * (batch.targets != IGNORED).any(2)).max(1, initial=1)
    return counts


def cuts(
    lengths: NDArray[np.integer[Any]], scored: NDArray[np.integer[Any]], cost_model: CostModel
) -> list[tuple[int, int]]:
    """Intervals of rows, the costliest first.

    Args:
        lengths: [N], ascending.
        scored: positions of each, [N].
        cost_model: of their forwards.
    """
    costs = _costs(lengths, scored, cost_model)
    caps = _caps(costs, 4 * cost_model.workers) if cost_model.workers > 1 else [np.inf]
    candidates = (_cheapest(np.where(costs <= cap, costs, np.inf)) for cap in caps)
    ordered = (sorted(cut, key=lambda ends: -costs[ends]) for cut in candidates)
    return min(
        ordered, key=lambda cut: _until_done([costs[ends] for ends in cut], cost_model.workers)
    )


def _costs(
    lengths: NDArray[np.integer[Any]], scored: NDArray[np.integer[Any]], cost_model: CostModel
) -> Costs:
    """Of rows a to b − 1 as one group: f64[N, N + 1] at [a, b], infinite where there are none."""
    ends = np.arange(1, len(lengths) + 1)
    rows = ends - np.arange(len(lengths))[:, None]
    widest = np.maximum.accumulate(np.where(rows > 0, scored, 0), axis=1)
    positions = (rows * lengths).astype(np.float64)
    cost = (
        positions
        + cost_model.head * rows * widest
        + cost_model.cache_penalty * positions**2
        + cost_model.forward
    )
    return np.pad(np.where(rows > 0, cost, np.inf), ((0, 0), (1, 0)), constant_values=np.inf)


def _cheapest(costs: Costs) -> list[tuple[int, int]]:
    """The intervals of the least sum, by dynamic programming over where the last one starts."""
    count = len(costs)
    least, start_of = np.zeros(count + 1), np.zeros(count + 1, np.int64)
    for end in range(1, count + 1):
        total = least[:end] + costs[:end, end]
        start_of[end] = total.argmin()
        least[end] = total[start_of[end]]
    groups, end = [], count
    while end:
        groups.append((int(start_of[end]), end))
        end = groups[-1][0]
    return groups[::-1]


def _caps(costs: Costs, most: int) -> Iterator[float]:
    """The least that the largest of 1, 2, … groups can cost, by dynamic programming."""
    largest = costs[0]
    for _ in range(min(most, len(costs))):
        yield float(largest[-1])
        largest = np.maximum(largest[:-1, None], costs).min(0)


def _until_done(costs: Sequence[float], workers: int) -> float:
    """When the last group is done, if the worker that is free first takes the next."""
    free = [0.0] * workers
    for cost in costs:
        heapreplace(free, free[0] + cost)
    return max(free)

"""The grid of probes × rows in rectangles, one per worker, each as large as its worker is fast.

    rows     all probes of some rows       data-parallel: few rows of about one length per worker
    probes   some probes of all rows       direction-parallel: for many queries
    both     columns of workers share rows, and the workers of a column its probes
    auto     rows, while every worker can have two; else both

Work is counted in tokens. Rows are dealt in the order of their lengths, so that a worker's forward
pads little.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.zo.types import IntArray

Split: TypeAlias = Literal["auto", "rows", "probes", "both"]
SPLITS: Final[tuple[Split, ...]] = ("auto", "rows", "probes", "both")


@dataclass(frozen=True)
class Cell:
    """What one worker evaluates.

    Attributes:
        worker: its place among those at work.
        probes: of the matrix.
        rows: of the batch, i64[n].
        work: probes × tokens.
    """

    worker: int
    probes: slice
    rows: IntArray
    work: float


def cells(tokens: IntArray, probes: int, speeds: Sequence[float], split: Split) -> list[Cell]:
    """Split a grid.

    Args:
        tokens: of each row, i64[N].
        probes: P.
        speeds: of the workers, in any unit.
        split: see the module.

    Returns:
        Rectangles that cover every pair of a probe and a row once; a worker may have none.
    """
    columns = _columns(len(tokens), probes, speeds, split)
    order = np.argsort(tokens, kind="stable")
    weights = np.maximum(tokens[order], 1)
    shares = [sum(speeds[worker] for worker in column) for column in columns]
    made = []
    for column, (low, high) in zip(columns, _cuts(weights, shares), strict=True):
        # In the order of the batch: a fleet of one is the session that it has, bit for bit.
        rows, work = np.sort(order[low:high]), float(weights[low:high].sum())
        own = [speeds[worker] for worker in column]
        for worker, (first, last) in zip(column, _cuts(np.ones(probes), own), strict=True):
            if high > low and last > first:
                made.append(Cell(worker, slice(first, last), rows, work * (last - first)))
    return made


def _columns(rows: int, probes: int, speeds: Sequence[float], split: Split) -> list[list[int]]:
    """Workers that share rows, by column; dealt fastest first, so columns are about even."""
    workers = len(speeds)
    if split == "auto":
        split = "rows" if rows >= 2 * workers or probes == 1 else "both"
    if split == "rows":
        number = workers
    elif split == "probes":
        number = 1
    else:  # as square as cells can be, and no more probes' cells than there are probes
        number = max(round((workers * rows / probes) ** 0.5), -(-workers // probes))
    number = max(1, min(number, workers, rows))
    fastest = sorted(range(workers), key=lambda worker: -speeds[worker])
    return [fastest[place::number] for place in range(number)]


def _cuts(weights: NDArray[np.number], shares: Sequence[float]) -> list[tuple[int, int]]:
    """Ranges whose weights are to each other about as the shares are."""
    total = np.concatenate([[0.0], np.cumsum(weights, dtype=float)])
    wanted = np.cumsum(shares) / sum(shares) * total[-1]
    ends = np.searchsorted((total[:-1] + total[1:]) / 2, wanted, side="left")
    ends[-1] = len(weights)
    return [(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]

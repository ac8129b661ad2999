"""Encoded batches of which only the scores matter, and scores."""

import numpy as np
from numpy.typing import NDArray

from zofx.session import Batch
from zofx.tasks.rows import Encoded
from zofx.zo.types import FloatArray


def encoded(gold: list[int], counts: list[list[int]]) -> Encoded:
    """Rows of one alternative per candidate, whose tokens do not matter."""
    places = [(b, m) for b, row in enumerate(counts) for m, count in enumerate(row) if count]
    rows = np.zeros((len(places), 1), dtype=np.int64)
    return Encoded(
        Batch(rows, rows, rows, rows[:, :, None]),
        row_example=np.array([b for b, _ in places]),
        row_candidate=np.array([[m] for _, m in places]),
        gold=np.array(gold),
        counts=np.array(counts),
    )


def rows(*values: float) -> FloatArray:
    """What a session of one probe returns for rows of one alternative."""
    return np.array(values, dtype=np.float32)[None, :, None]


GOLD, COUNTS = [0, 2, 1], [[3, 1, 2], [1, 2, 4], [2, 5, 0]]
"""Three examples; the last has two candidates."""


def some_scores(seed: int, missing: float) -> NDArray[np.float64]:
    """Numbers that float32 holds, f64[B, M]; `missing` where there is no candidate."""
    values = np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32)
    return np.where(np.array(COUNTS) > 0, values.astype(np.float64), missing)

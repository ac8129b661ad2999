"""The grid of probes × rows is covered once, by shares that follow the speeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zofx.runtimes.fleet.cells import SPLITS, Split, cells

SPEEDS = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9)
TOKENS = st.lists(st.integers(0, 200), min_size=1, max_size=40)


@given(TOKENS, st.integers(1, 12), SPEEDS, st.sampled_from(SPLITS))
def test_every_pair_once(tokens: list[int], probes: int, speeds: list[float], split: Split) -> None:
    """No cell overlaps another, none is empty, no worker has two."""
    grid = np.zeros((probes, len(tokens)), int)
    made = cells(np.array(tokens), probes, speeds, split)
    for cell in made:
        grid[cell.probes, cell.rows] += 1
        assert cell.work > 0
    assert (grid == 1).all()
    assert len({cell.worker for cell in made}) == len(made)


def test_one_worker_has_the_batch_as_it_is() -> None:
    """So a fleet of one is the session that it has."""
    (cell,) = cells(np.array([5, 1, 3]), 2, [1.0], "auto")
    assert (cell.rows.tolist(), cell.probes) == ([0, 1, 2], slice(0, 2))


@pytest.mark.parametrize(("split", "axis"), [("rows", 1), ("probes", 0)])
def test_shares_follow_speeds(split: Split, axis: int) -> None:
    """A worker three times as fast has three times the work, and only the axis that is split."""
    made = cells(np.full(40, 7), 40, [1.0, 3.0], split)
    assert {cell.worker: cell.work for cell in made} == {0: 10 * 40 * 7, 1: 30 * 40 * 7}
    assert {(40, len(c.rows))[axis] for c in made} == ({40}, {10, 30})[axis]


def test_rows_of_one_length_meet() -> None:
    """Long rows go together: what is padded is less."""
    tokens = np.array([90, 10, 90, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    long = [cell for cell in cells(tokens, 1, [1.0, 1.0], "rows") if 0 in cell.rows]
    assert set(long[0].rows.tolist()) <= {0, 2}


def test_both_cuts_both_axes() -> None:
    """Six workers, four rows, six probes: two columns at least, and probes shared within them."""
    made = cells(np.full(4, 8), 6, [1.0] * 6, "both")
    assert len({tuple(cell.rows) for cell in made}) > 1
    assert len({(cell.probes.start, cell.probes.stop) for cell in made}) > 1

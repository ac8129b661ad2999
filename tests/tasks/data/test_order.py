"""The order of the data is a function of (seed, cursor)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zofx.tasks.data.order import Stream, balanced_indices, batch_indices, permutation


@given(
    seed=st.integers(0, 2**64 - 1),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    n=st.integers(1, 17),
)
def test_resuming_is_never_stopping(seed: int, sizes: list[int], n: int) -> None:
    """However a run is cut into batches, it sees the same examples in the same order."""
    whole = batch_indices(seed, 0, sum(sizes), n)
    cursors = np.cumsum([0, *sizes[:-1]])
    parts = [batch_indices(seed, int(c), size, n) for c, size in zip(cursors, sizes, strict=True)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@given(seed=st.integers(0, 2**64 - 1), n=st.integers(1, 40), epoch=st.integers(0, 2**40))
def test_an_epoch_holds_every_example_once(seed: int, n: int, epoch: int) -> None:
    """Each epoch is a permutation, even far into a run."""
    assert sorted(batch_indices(seed, epoch * n, n, n)) == list(range(n))


def test_the_order_is_pinned() -> None:
    """The order is part of the format of a run: these numbers must never change."""
    assert batch_indices(seed=7, cursor=0, size=12, n=10).tolist() == [
        2,
        5,
        7,
        8,
        1,
        9,
        3,
        4,
        0,
        6,
        9,
        2,
    ]
    raw = np.random.Philox(
        key=np.array([7, 1], dtype=np.uint64), counter=np.array([0, 0, 0, 1], dtype=np.uint64)
    ).random_raw(10)
    assert batch_indices(seed=7, cursor=10, size=10, n=10).tolist() == np.argsort(raw).tolist()


def test_orders_differ() -> None:
    """Seeds, epochs and uses have orders of their own."""
    orders = [
        permutation(0, 100, Stream.EPOCH, 0),
        permutation(0, 100, Stream.EPOCH, 1),
        permutation(1, 100, Stream.EPOCH, 0),
        permutation(0, 100, Stream.TRAIN),
        permutation(0, 100, Stream.TEST),
    ]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_first_places_are_uniform() -> None:
    """Over many epochs each example comes first equally often (χ² below its 99.9 % bound)."""
    firsts = np.array([batch_indices(3, epoch * 10, 1, 10)[0] for epoch in range(5000)])
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9


@pytest.mark.parametrize(("cursor", "size", "n"), [(0, 1, 0), (0, 0, 5), (-1, 1, 5)])
def test_no_such_batch(cursor: int, size: int, n: int) -> None:
    """An empty training set, an empty batch and a negative cursor are refused."""
    with pytest.raises(ValueError, match=r"need n ≥ 1, size ≥ 1, cursor ≥ 0"):
        batch_indices(0, cursor, size, n)


@given(
    seed=st.integers(0, 2**64 - 1),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_balanced_rounds_hold_every_class_once(
    seed: int, counts: list[int], sizes: list[int]
) -> None:
    """However cut: each round of K examples has K classes, each pass over a class all of it."""
    classes = np.repeat(np.arange(len(counts)) * 3, counts)
    total, K = sum(sizes), len(counts)
    whole = balanced_indices(seed, 0, total, classes)
    cursors = np.cumsum([0, *sizes[:-1]])
    parts = [
        balanced_indices(seed, int(c), size, classes)
        for c, size in zip(cursors, sizes, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for start in range(0, total - K + 1, K):
        assert len(set(classes[whole[start : start + K]])) == K
    for c, n in enumerate(counts):
        own = whole[classes[whole] == 3 * c]
        for start in range(0, len(own) - n + 1, n):
            assert len(set(own[start : start + n])) == n


def test_the_balanced_order_is_pinned() -> None:
    """It is part of the format of a run, too."""
    classes = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    assert balanced_indices(7, 0, 12, classes).tolist() == [*(0, 9, 7, 2, 8, 1, 8, 3, 7, 4, 6, 9)]

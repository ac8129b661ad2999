"""Splits: which records a run draws."""

import pytest

from zofx.errors import UsageError
from zofx.tasks.data.pool import Pool, Sizes
from zofx.tasks.data.splits import Drawn, DrawnSplits, draw

RECORDS = [f"train {index}" for index in range(250)]
HELD = [f"test {index}" for index in range(80)]


def drawn(pool: Pool[str], sizes: Sizes, seed: int = 0) -> DrawnSplits[str]:
    return draw(pool, sizes, seed)


def texts(split: Drawn[str]) -> list[str]:
    return list(split.records)


def test_dev_follows_train() -> None:
    """Train and dev are neighbours in one permutation, so they share no record."""
    splits = drawn(Pool(RECORDS, test=HELD), Sizes(100, 50, 30))
    longer = drawn(Pool(RECORDS, test=HELD), Sizes(150, 0, 30))
    assert texts(splits.train) + texts(splits.dev) == texts(longer.train)
    assert len(set(texts(longer.train))) == 150
    assert len(texts(splits.test)) == 30


def test_dev_keeps_its_size() -> None:
    """CB's 250 records give 150 to train on and 100 for dev, though 1000 were asked for."""
    splits = drawn(Pool(RECORDS, test=HELD), Sizes(1000, 100, 1000))
    assert [len(texts(split)) for _, split in splits.named()] == [150, 100, 80]
    assert set(texts(splits.train)) | set(texts(splits.dev)) == set(RECORDS)


def test_test_set_has_no_seed() -> None:
    """Every seed trains on other records and is judged on the same ones."""
    for pool in (Pool(RECORDS), Pool(RECORDS, test=HELD)):
        one, two = (drawn(pool, Sizes(50, 20, 60), seed) for seed in (1, 2))
        assert texts(one.test) == texts(two.test)
        assert set(texts(one.train)) != set(texts(two.train))


@pytest.mark.parametrize("seed", range(5))
def test_one_pool_for_all(seed: int) -> None:
    """Out of one pool come three splits without a common record."""
    splits = drawn(Pool(RECORDS), Sizes(1000, 50, 60), seed)
    train, dev, test = (set(texts(split)) for _, split in splits.named())
    assert (len(train), len(dev), len(test)) == (140, 50, 60)
    assert train | dev | test == set(RECORDS)


def test_given_dev() -> None:
    """A dev set of its own leaves all of train to training."""
    splits = drawn(Pool(RECORDS, dev=HELD, test=HELD), Sizes(1000, 30, 5))
    assert len(texts(splits.train)) == 250
    assert len(texts(splits.dev)) == 30
    assert set(texts(splits.dev)) <= set(HELD)


def test_nothing_left() -> None:
    """Splits that leave nothing to train on are refused with the numbers."""
    with pytest.raises(UsageError) as error:
        drawn(Pool(RECORDS), Sizes(1000, 200, 100))
    assert str(error.value) == (
        "nothing is left to train on: 250 training records, of which dev (200) and test (100) are "
        "drawn first; use a smaller --dev, or more records"
    )


def test_negative_size() -> None:
    """A negative size is refused by name."""
    with pytest.raises(UsageError, match=r"--dev -1: a split cannot be negative"):
        Sizes(dev=-1)


def test_draws_are_pinned() -> None:
    """Published numbers rest on these draws: they must never change."""
    splits = draw(Pool(range(10)), Sizes(3, 3, 4), seed=7)
    assert [part.indices.tolist() for _, part in splits.named()] == [
        [9, 6, 5],
        [4, 2, 1],
        [8, 0, 7, 3],
    ]

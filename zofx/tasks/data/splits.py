"""Train, dev and test out of what a data set offers.

    train, dev   a seeded permutation of the training records: first `train`, then `dev` of them;
                 where there are too few, dev keeps its size and train is what remains
    test         a permutation of the test records that no seed changes, its first `test`

A data set without test records gives up its first `test` of that fixed permutation before train
and dev are drawn: runs with different seeds are judged on the same test set. The sizes 1000 / 500
/ 1000 are those of Malladi et al. 2023 (arXiv 2305.17333), as are dev = 100 for CB and COPA.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from zofx.errors import UsageError
from zofx.tasks.data.order import Stream, permutation
from zofx.tasks.data.pool import Pool, Sizes
from zofx.zo.types import IntArray

R = TypeVar("R")
TEST_SEED = 0


@dataclass(frozen=True)
class Drawn(Generic[R]):
    """Records and their indices in the split they were drawn from, i64[n]."""

    indices: IntArray
    source: Sequence[R]

    @property
    def records(self) -> Iterator[R]:
        """The records, read one by one."""
        return (self.source[int(index)] for index in self.indices)


@dataclass(frozen=True)
class DrawnSplits(Generic[R]):
    """The three splits of a run."""

    train: Drawn[R]
    dev: Drawn[R]
    test: Drawn[R]

    def named(self) -> tuple[tuple[str, Drawn[R]], ...]:
        """The splits in order, with their names."""
        return (("train", self.train), ("dev", self.dev), ("test", self.test))


def draw(pool: Pool[R], sizes: Sizes, seed: int) -> DrawnSplits[R]:
    """Draw the splits of a run; no record is in two of them.

    Raises:
        UsageError: nothing is left to train on.
    """
    rest, test = _test(pool, sizes.test)
    rest = rest[permutation(seed, len(rest), Stream.TRAIN)]
    if pool.dev is not None:
        dev = Drawn(permutation(seed, len(pool.dev), Stream.TRAIN)[: sizes.dev], pool.dev)
        train = rest[: sizes.train]
    else:
        chosen = rest[: sizes.train + sizes.dev]
        count = max(len(chosen) - sizes.dev, 0)
        train, dev = chosen[:count], Drawn(chosen[count:], pool.train)
    if sizes.train and not len(train):
        raise UsageError(
            f"nothing is left to train on: {len(pool.train)} training records, of which dev "
            f"({sizes.dev}) and test ({sizes.test}) are drawn first; use a smaller --dev, or more "
            "records"
        )
    return DrawnSplits(Drawn(train, pool.train), dev, test)


def _test(pool: Pool[R], size: int) -> tuple[IntArray, Drawn[R]]:
    """What is left of the training records, and the test set."""
    if pool.test is not None:
        order = permutation(TEST_SEED, len(pool.test), Stream.TEST)
        return np.arange(len(pool.train), dtype=np.int64), Drawn(order[:size], pool.test)
    order = permutation(TEST_SEED, len(pool.train), Stream.TEST)
    return np.sort(order[size:]), Drawn(order[:size], pool.train)

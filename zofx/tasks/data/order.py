"""The order of the data is a function of (seed, cursor), not the state of an iterator.

    example k of a run  =  permutation(seed, epoch = ⌊k / n⌋)[k mod n]
    balanced over K classes:
        round r = ⌊k / K⌋, class c = permutation(seed, r)[k mod K] of the K classes
        example = permutation_c(seed, epoch = ⌊r / n_c⌋)[r mod n_c] of the n_c examples of class c

The cursor counts examples already used; a run that resumes at a cursor sees what it would have
seen. Batches keep their size and run on across epochs. A permutation sorts n raw words of
Philox4x64-10, whose stream numpy promises never to change (its `Generator.permutation` carries no
such promise).
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np

from zofx.zo.types import IntArray


class Stream(IntEnum):
    """What a permutation is for: the last counter word, so that no two uses share random bits.

    Directions z use 0 there. Examples of class c use CLASS + c.
    """

    EPOCH = 1
    TRAIN = 2
    TEST = 3
    ROUND = 4
    CLASS = 256


@lru_cache(maxsize=256)
def permutation(seed: int, n: int, stream: int, epoch: int = 0) -> IntArray:
    """A uniformly random order of 0 … n-1, i64[n], read-only; the same with every numpy."""
    bits = np.random.Philox(
        key=np.array([seed, epoch], dtype=np.uint64),
        counter=np.array([0, 0, 0, stream], dtype=np.uint64),
    )
    order = np.argsort(bits.random_raw(n), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def batch_indices(seed: int, cursor: int, size: int, n: int) -> IntArray:
    """Which examples a step uses.

    Args:
        seed: the run's seed.
        cursor: how many examples the run has used before; the next step's cursor is cursor + size.
        size: examples per step; may exceed n.
        n: examples in the training set.

    Returns:
        i64[size]; every n consecutive examples of a run, counted from its start, hold each index
        once.
    """
    if n < 1 or size < 1 or cursor < 0:
        raise ValueError(
            f"need n ≥ 1, size ≥ 1, cursor ≥ 0; got n={n}, size={size}, cursor={cursor}"
        )
    epochs = range(cursor // n, (cursor + size - 1) // n + 1)
    order = np.concatenate([permutation(seed, n, Stream.EPOCH, epoch) for epoch in epochs])
    start = cursor % n
    return order[start : start + size]


def balanced_indices(seed: int, cursor: int, size: int, classes: IntArray) -> IntArray:
    """Which examples a step uses, where every class comes equally often.

    Args:
        seed: the run's seed.
        cursor: how many examples the run has used before.
        size: examples per step.
        classes: i64[n], the class of every example in the training set.

    Returns:
        i64[size]; every K consecutive examples, counted from the start of the run, hold one of each
        of the K classes that occur. A rare class comes again sooner, in a new order.
    """
    if not len(classes) or size < 1 or cursor < 0:
        raise ValueError(f"need examples, size ≥ 1, cursor ≥ 0; got size={size}, cursor={cursor}")
    members = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    K = len(members)
    chosen = []
    for k in range(cursor, cursor + size):
        turn = k // K
        c = int(permutation(seed, K, Stream.ROUND, turn)[k % K])
        own = members[c]
        order = permutation(seed, len(own), Stream.CLASS + c, turn // len(own))
        chosen.append(own[order[turn % len(own)]])
    return np.array(chosen, dtype=np.int64)

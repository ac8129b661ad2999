"""Philox4x64-10 in vectorised numpy: the model that in-graph generators are written after.

    block(counter, key):  ten rounds of
        (h0, l0) = M0 · c0      (h1, l1) = M1 · c2          128-bit products, high and low halves
        c ← (h1 ^ c1 ^ k0,  l1,  h0 ^ c3 ^ k1,  l0)
        k ← (k0 + W0, k1 + W1)                              between rounds, modulo 2⁶⁴

Only add, multiply, xor, and, shift on uint64: operations that every engine has. The bits are those
of `numpy.random.Philox`, which adds 1 to counter word 0 before its first block.
Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

WordArray: TypeAlias = NDArray[np.uint64]

ROUNDS: Final = 10
MULTIPLIERS: Final = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
KEY_STEPS: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))

_LOW: Final = np.uint64(0xFFFF_FFFF)
_HALF: Final = np.uint64(32)


def multiply_high(a: np.uint64, b: WordArray) -> WordArray:
    """The high 64 bits of a · b, from four 32 × 32 → 64 products.

    Args:
        a: one word.
        b: u64[...].

    Returns:
        u64[...].
    """
    a_low, a_high = a & _LOW, a >> _HALF
    b_low, b_high = b & _LOW, b >> _HALF
    # Neither sum can overflow: (2³² − 1)² + 2 · (2³² − 1) = 2⁶⁴ − 1.
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    cross = a_low * b_high + (middle & _LOW)
    high: WordArray = a_high * b_high + (middle >> _HALF) + (cross >> _HALF)
    return high


def philox_blocks(counter_words: WordArray, key_words: WordArray) -> WordArray:
    """One block of random bits per counter.

    Args:
        counter_words: u64[..., 4], the exact counter of each block.
        key_words: u64[..., 2]; leading axes broadcast against those of the counters.

    Returns:
        u64[..., 4].
    """
    lead = np.broadcast_shapes(counter_words.shape[:-1], key_words.shape[:-1])
    # The axis of length 1 keeps every operand an array: numpy warns when a scalar wraps around.
    c0, c1, c2, c3 = np.moveaxis(np.broadcast_to(counter_words, (1, *lead, 4)), -1, 0)
    k0, k1 = np.moveaxis(np.broadcast_to(key_words, (1, *lead, 2)), -1, 0)
    for _ in range(ROUNDS):
        high0, low0 = multiply_high(MULTIPLIERS[0], c0), MULTIPLIERS[0] * c0
        high1, low1 = multiply_high(MULTIPLIERS[1], c2), MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + KEY_STEPS[0], k1 + KEY_STEPS[1]
    blocks: WordArray = np.stack([c0, c1, c2, c3], axis=-1)[0]
    return blocks

"""Directions computed by torch on the trainables' device: z(key) without a copy from the host.

    keys: i64[Q, 2], name, shape → z: f32[Q, *shape], bit-equal to `zofx.zo.random.noise.sample`

A u64 is the int64 of the same bits: torch adds, multiplies and xors them modulo 2⁶⁴, and only its
right shift copies the sign, so a mask follows each. Blocks are made in chunks: what is in memory
beside the result depends on `CHUNK`, not on the trainable or on Q.
Tested against numpy on CPU; never run on CUDA. All arithmetic before the table is on integers.
Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.
"""

from math import prod
from typing import Final

import torch
from torch import Tensor

from zofx.errors import ArtifactError, UsageError
from zofx.zo.random.noise import TABLE_SIZE, VALUES_PER_BLOCK, Kind, Stream, trainable_id
from zofx.zo.random.philox import KEY_STEPS, MULTIPLIERS, ROUNDS

CHUNK: Final = 1 << 20
"""Values made at a time, over all keys: about 30 MiB of temporaries."""

_LOW: Final = 0xFFFF_FFFF


def sample_torch(
    kind: Kind,
    keys: Tensor,
    name: str,
    shape: tuple[int, ...],
    table: Tensor | None,
    device: torch.device | str,
) -> Tensor:
    """One trainable's direction under each key, made on a device.

    Args:
        kind: the distribution.
        keys: i64[Q, 2], the bits of the key words (seed, step · 2¹⁶ + query).
        name: of the trainable.
        shape: of the trainable; elements count in C order.
        table: f32[65536] quantiles for "gaussian"; not read for "rademacher".
        device: where to compute. Tested on "cpu", never run on "cuda".

    Returns:
        f32[Q, *shape] on the device.

    Raises:
        UsageError: a kind that does not exist.
        ArtifactError: "gaussian" without a table, or with one of another size or type.
    """
    if kind not in VALUES_PER_BLOCK:
        known = ", ".join(VALUES_PER_BLOCK)
        raise UsageError(f"there is no noise of kind '{kind}'; there are: {known}")
    quantiles = _quantile_table(table, device) if kind == "gaussian" else None
    keys = keys.to(device)
    per_block, size = VALUES_PER_BLOCK[kind], prod(shape)
    values = torch.empty((len(keys), size), dtype=torch.float32, device=device)
    width = max(1, CHUNK // (per_block * max(1, len(keys))))
    for first in range(0, -(-size // per_block), width):
        blocks = torch.arange(first, first + width, device=device)
        part = values[:, first * per_block : (first + width) * per_block]
        words = philox_torch(blocks[: -(-part.shape[1] // per_block)], trainable_id(name), keys)
        made = _signs(words) if quantiles is None else _quantiles(words, quantiles)
        part.copy_(made[:, : part.shape[1]])
    return values.reshape(len(keys), *shape)


def philox_torch(blocks: Tensor, slice_word: int, keys: Tensor, stream: int = Stream.Z) -> Tensor:
    """The random words of some blocks under each key; numpy's order, so block 0 has counter 1.

    Args:
        blocks: i64[B], numbers of blocks.
        slice_word: counter word 1, 0 ≤ slice_word < 2⁶⁴.
        keys: i64[Q, 2] on the same device.
        stream: counter word 2.

    Returns:
        i64[Q, B, 4], the bits of u64.
    """
    k0, k1 = keys[:, :1], keys[:, 1:]
    c0 = blocks[None] + 1
    c1, c2, c3 = (torch.full_like(c0, _signed(word)) for word in (slice_word, stream, 0))
    m0, m1 = (int(word) for word in MULTIPLIERS)
    w0, w1 = (_signed(int(word)) for word in KEY_STEPS)
    for _ in range(ROUNDS):
        high0, low0 = _multiply_high(m0, c0), c0 * _signed(m0)
        high1, low1 = _multiply_high(m1, c2), c2 * _signed(m1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + w0, k1 + w1
    return torch.stack([c0, c1, c2, c3], dim=-1)


def _multiply_high(a: int, b: Tensor) -> Tensor:
    """The high words of a · b: the products of `zofx.zo.random.philox.multiply_high`, on bits."""
    a_low, a_high = a & _LOW, a >> 32
    b_low, b_high = b & _LOW, _high_half(b)
    middle = b_low * a_high + _high_half(b_low * a_low)
    cross = b_high * a_low + (middle & _LOW)
    return b_high * a_high + _high_half(middle) + _high_half(cross)


def _high_half(x: Tensor) -> Tensor:
    """The upper 32 bits, without the sign that torch shifts in."""
    return (x >> 32) & _LOW


def _signed(word: int) -> int:
    """The int64 with the bits of a u64."""
    return word - (1 << 64) if word >> 63 else word


def _quantiles(words: Tensor, table: Tensor) -> Tensor:
    """16 bits → table entry, lowest first: i64[Q, B, 4] → f32[Q, 16 · B]."""
    shifts = torch.arange(0, 64, 16, device=words.device)
    return table[(words[..., None] >> shifts) & (TABLE_SIZE - 1)].flatten(1)


def _signs(words: Tensor) -> Tensor:
    """Bit → ±1, lowest first: i64[Q, B, 4] → f32[Q, 256 · B]."""
    shifts = torch.arange(64, device=words.device)
    bits = (words[..., None] >> shifts) & 1
    return (bits.float() * 2 - 1).flatten(1)


def _quantile_table(table: Tensor | None, device: torch.device | str) -> Tensor:
    """The table on the device, if it is one."""
    if table is None or table.shape != (TABLE_SIZE,) or table.dtype != torch.float32:
        given = "there is none" if table is None else f"this one is {table.dtype}{[*table.shape]}"
        raise ArtifactError(
            f"gaussian noise reads a table of normals, float32[{TABLE_SIZE}]; {given}; "
            "pass the tensor of the artifact"
        )
    return table.to(device)

"""Directions and what moves along them: keys → z, masks of z, θ + C·z."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.library import custom_op

from zofx.zo.random.direction_spec import RandomMask, Turn
from zofx.zo.random.noise import Stream, sample, sample_words
from zofx.zo.types import QUERY_BITS, Key


@custom_op("zofx::direction", mutates_args=())
def direction(
    keys: Tensor, table: Tensor | None, name: str, size: Sequence[int], kind: str
) -> Tensor:
    """z(key) for each key: i64[Q, 2] → f32[Q, *size]. See `zofx.zo.random.noise` for the bits.

    Args:
        keys: the two key words, bit patterns of u64.
        table: f32[65536] quantiles for "gaussian", None for "rademacher".
        name: of the trainable; its hash is a counter word.
        size: of the trainable.
        kind: the distribution.
    """
    quantiles = None if table is None else table.cpu().numpy()
    samples = [
        torch.from_numpy(sample(kind, key, name, tuple(size), table=quantiles))  # type: ignore[arg-type]  # a schema knows strings only
        for key in _keys(keys)
    ]
    return torch.stack(samples).to(keys.device)


@direction.register_fake
def _(keys: Tensor, table: Tensor | None, name: str, size: Sequence[int], kind: str) -> Tensor:
    return keys.new_empty((keys.shape[0], *size), dtype=torch.float32)


@custom_op("zofx::mask_random", mutates_args=())
def mask_random(z: Tensor, keys: Tensor, name: str, keep: int, interval: int) -> Tensor:
    """z, zero at random places (`RandomMask`): f32[Q, *k], i64[Q, 2] → f32[Q, *k]."""
    mask = RandomMask(keep, interval)
    kept = [
        sample_words(mask.key(key), name, Stream.MASK, 0, z[0].numel()) < keep
        for key in _keys(keys)
    ]
    return z * torch.from_numpy(np.stack(kept)).to(z.device).view(z.shape)


@mask_random.register_fake
def _(z: Tensor, keys: Tensor, name: str, keep: int, interval: int) -> Tensor:
    return torch.empty_like(z)


@custom_op("zofx::mask_turn", mutates_args=())
def mask_turn(z: Tensor, keys: Tensor, group: int, groups: int, by: str) -> Tensor:
    """z, zero where it is not the group's turn (`Turn`): f32[Q, *k], i64[Q, 2] → f32[Q, *k]."""
    turn = Turn(group, groups, by)  # type: ignore[arg-type]  # a schema knows strings only
    has = torch.tensor([turn.has(key) for key in _keys(keys)], device=z.device)
    return z * has.view(-1, *[1] * (z.dim() - 1))


@mask_turn.register_fake
def _(z: Tensor, keys: Tensor, group: int, groups: int, by: str) -> Tensor:
    return torch.empty_like(z)


@custom_op("zofx::mask_small", mutates_args=())
def mask_small(z: Tensor, values: Tensor, limit: float) -> Tensor:
    """Z where |θ| ≤ limit, else zero: f32[Q, *k], f32[*k] → f32[Q, *k]."""
    return z * (values.abs() <= limit)


@mask_small.register_fake
def _(z: Tensor, values: Tensor, limit: float) -> Tensor:
    return torch.empty_like(z)


def _keys(words: Tensor) -> list[Key]:
    """i64[Q, 2] → keys; the words are bit patterns of u64."""
    pairs = [(seed % 2**64, low % 2**64) for seed, low in words.tolist()]
    return [Key(seed, low >> QUERY_BITS, low % 2**QUERY_BITS) for seed, low in pairs]


@custom_op("zofx::perturb", mutates_args=())
def perturb(values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    """θ + Σ_q c_q·z_q: f32[*k], f32[Q, *k], f32[Q] → f32[*k]; with f32[P, Q] → f32[P, *k].

    A row of `coefficients` with one nonzero entry rounds twice, product then sum, exactly as moving
    θ by hand does.
    """
    step = (coefficients @ z.flatten(1)).reshape(*coefficients.shape[:-1], *values.shape)
    return values + step


@perturb.register_fake
def _(values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    return values.new_empty((*coefficients.shape[:-1], *values.shape))


@custom_op("zofx::combine", mutates_args=())
def combine(values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    """Σ_q c_q·z_q, the step of `perturb` alone: f32[*k], f32[Q, *k], f32[P, Q] → f32[P, *k].

    Args:
        values: θ, whose directions these are; nothing of it but the shape is read.
        z: its directions.
        coefficients: C.
    """
    return (coefficients @ z.flatten(1)).reshape(-1, *values.shape)


@combine.register_fake
def _(values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    return values.new_empty((coefficients.shape[0], *values.shape))

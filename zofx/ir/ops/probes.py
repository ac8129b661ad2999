"""P probes in one forward: give them to an activation, let each meet its own weights, show them."""

import math

import torch
from torch import Tensor
from torch.library import custom_op


@custom_op("zofx::replicate", mutates_args=())
def replicate(x: Tensor, coefficients: Tensor) -> Tensor:
    """Give an activation its probes: [N, …], f32[P, Q] → [P·N, …], P copies one after the other."""
    return x.repeat(coefficients.shape[0], *[1] * (x.dim() - 1))


@replicate.register_fake
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    return x.new_empty((coefficients.shape[0] * x.shape[0], *x.shape[1:]))


@custom_op("zofx::minus_base", mutates_args=())
def minus_base(x: Tensor, base: Tensor) -> Tensor:
    """What every other probe differs from the first by: [(P − 1)·N, …], [N, …] → as x."""
    return (x.reshape(-1, *base.shape) - base).reshape(x.shape)


@minus_base.register_fake
def _(x: Tensor, base: Tensor) -> Tensor:
    return torch.empty_like(x)


@custom_op("zofx::plus_base", mutates_args=())
def plus_base(x: Tensor, base: Tensor) -> Tensor:
    """Every other probe of what it differs from the first by: [(P − 1)·N, …], [N, …] → as x."""
    return (x.reshape(-1, *base.shape) + base).reshape(x.shape)


@plus_base.register_fake
def _(x: Tensor, base: Tensor) -> Tensor:
    return torch.empty_like(x)


@custom_op("zofx::probe_rows", mutates_args=())
def probe_rows(values: Tensor, rows: int, dims: int) -> Tensor:
    """Give each row of a batch its probe's values: [P, *k] → [P·N, 1, …, 1, *k].

    Args:
        values: of a trainable, one set per probe.
        rows: N.
        dims: of the result, so that it broadcasts with activations of as many.
    """
    shape = values.shape[1:]
    return values.repeat_interleave(rows, 0).reshape(-1, *[1] * (dims - 1 - len(shape)), *shape)


@probe_rows.register_fake
def _(values: Tensor, rows: int, dims: int) -> Tensor:
    shape = values.shape[1:]
    return values.new_empty((values.shape[0] * rows, *[1] * (dims - 1 - len(shape)), *shape))


def by_probe(x: Tensor, probes: int) -> Tensor:
    """The rows of each probe, of which there may be none: [P·N, …, D] → [P, N·…, D]."""
    rows = math.prod(x.shape[1:-1]) * (x.shape[0] // max(1, probes))
    return x.reshape(probes, rows, x.shape[-1])


@custom_op("zofx::probe_linear", mutates_args=())
def probe_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ with a weight per probe: [P·N, …, in], f32[P, out, in] → [P·N, …, out]."""
    parts = by_probe(x, weight.shape[0])
    return (parts @ weight.transpose(1, 2)).reshape(*x.shape[:-1], weight.shape[1])


@probe_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[1]))


@custom_op("zofx::probe_embedding", mutates_args=())
def probe_embedding(weight: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table per probe: f32[P, V, D], i64[P·N, …] → [P·N, …, D]."""
    table = weight.reshape(-1, weight.shape[2])
    first = torch.arange(weight.shape[0], device=ids.device) * weight.shape[1]
    rows = ids.shape[0] // max(1, weight.shape[0])
    return table[ids + first.repeat_interleave(rows).view(-1, *[1] * (ids.dim() - 1))]


@probe_embedding.register_fake
def _(weight: Tensor, ids: Tensor) -> Tensor:
    return weight.new_empty((*ids.shape, weight.shape[2]))


@custom_op("zofx::split_probes", mutates_args=())
def split_probes(x: Tensor, coefficients: Tensor) -> Tensor:
    """Show the probes of an activation as an axis: [P·N, …], f32[P, Q] → [P, N, …]."""
    probes = coefficients.shape[0]
    return x.reshape(probes, x.shape[0] // probes, *x.shape[1:]).clone()


@split_probes.register_fake
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    probes = coefficients.shape[0]
    return x.new_empty((probes, x.shape[0] // probes, *x.shape[1:]))

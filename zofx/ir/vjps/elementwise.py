"""Rules of elementwise ops and means, where fewer sweeps do than torch's own derivative takes.

    y = x²              dx = 2·dy·x
    y = mean x          dx = dy / n              left as it is, for what follows broadcasts
    y = x·σ(x)          dx = dy·(σ + y − y·σ)    σ = 1 / (1 + e⁻ˣ)
    y = 1/√x            dx = −dy·y³ / 2

A cotangent may have fewer entries along an axis than what it belongs to: it is the same along it.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import torch
from torch import Tensor

from zofx.ir.vjps.values import Call, Cotangents, Rule, by_autograd

aten = torch.ops.aten


def square(call: Call, dy: Tensor) -> Cotangents:
    """Other powers go another way."""
    x, exponent = call.args
    return {(0,): dy * 2.0 * x} if exponent == 2 else by_autograd(call, dy)


def mean(call: Call, dy: Tensor) -> Cotangents:
    """Where the axis is kept."""
    x, axes, kept = (*call.args, False)[:3]
    if not kept:
        return by_autograd(call, dy)
    return {(0,): dy * (1.0 / prod(x.shape[axis] for axis in axes))}


def silu(call: Call, dy: Tensor) -> Cotangents:
    """The value is made again from σ, and shared with what multiplies it."""
    (x,) = call.args
    share = x.sigmoid()
    y = x * share
    return {(0,): dy * (share + y - y * share)}


def rsqrt(call: Call, dy: Tensor) -> Cotangents:
    """By its value."""
    (x,) = call.args
    y = x.rsqrt()
    return {(0,): dy * (y * y * y) * -0.5}


RULES: Final[Mapping[Any, Rule]] = {
    aten.mean.dim: mean,
    aten.pow.Tensor_Scalar: square,
    aten.rsqrt.default: rsqrt,
    aten.silu.default: silu,
}

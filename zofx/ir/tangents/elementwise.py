"""Tangents of ops that act on each entry alone.

    y = f(x)       dy = f′(x)·dx
    y = f(a, b)    dy = ∂f/∂a·da + ∂f/∂b·db       a and b broadcast

Where f has a corner (relu, clamp, abs) f′ is torch's: 0 at the corner of relu and abs, 1 at the
ends of a clamp.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from zofx.ir.tangents.values import Rule, Tangents, Value, described, same_shape, times, total
from zofx.ir.traits import Trait, ops_with

aten = torch.ops.aten


def _clamp(y: Value, x: Value, low: float | None = None, high: float | None = None) -> Value:
    inside = [] if low is None else [aten.ge.Scalar(x, low)]
    inside += [] if high is None else [aten.le.Scalar(x, high)]
    both = inside[0] if len(inside) == 1 else aten.bitwise_and.Tensor(*inside)
    return aten._to_copy.default(both, dtype=described(x).dtype)


def _gelu(y: Value, x: Value, approximate: str = "none") -> Value:
    """Of x·Φ(x), or of ½x(1 + tanh u) with u = √(2/π)·(x + 0.044715·x³)."""
    if approximate == "none":
        below = (aten.erf.default(x * math.sqrt(0.5)) + 1.0) * 0.5
        return below + x * (aten.exp.default(x * x * -0.5) * (0.5 * math.sqrt(2 / math.pi)))
    root, cubic = math.sqrt(2 / math.pi), 0.044715
    square = x * x
    t = aten.tanh.default(x * (square * cubic + 1.0) * root)
    slope = (square * (3 * cubic) + 1.0) * root
    return (t + 1.0 + x * (-(t * t) + 1.0) * slope) * 0.5


def _power(y: Value, x: Value, exponent: float) -> Value:
    return (x if exponent == 2 else aten.pow.Tensor_Scalar(x, exponent - 1)) * exponent


def _silu(y: Value, x: Value) -> Value:
    s = aten.sigmoid.default(x)
    return s + y * (-s + 1.0)


SLOPES: Mapping[Any, Callable[..., Value]] = {
    aten.abs.default: lambda y, x: aten.sign.default(x),
    aten.clamp.default: _clamp,
    aten.cos.default: lambda y, x: -aten.sin.default(x),
    aten.erf.default: lambda y, x: aten.exp.default(-(x * x)) * (2 / math.sqrt(math.pi)),
    aten.exp.default: lambda y, x: y,
    aten.gelu.default: _gelu,
    aten.log.default: lambda y, x: aten.reciprocal.default(x),
    aten.pow.Scalar: lambda y, base, x: y * math.log(base),
    aten.pow.Tensor_Scalar: _power,
    aten.reciprocal.default: lambda y, x: -(y * y),
    aten.relu.default: lambda y, x: aten.sign.default(y),
    aten.rsqrt.default: lambda y, x: y * y * y * -0.5,
    aten.sigmoid.default: lambda y, x: y * (-y + 1.0),
    aten.silu.default: _silu,
    aten.sin.default: lambda y, x: aten.cos.default(x),
    aten.sqrt.default: lambda y, x: aten.reciprocal.default(y) * 0.5,
    aten.tanh.default: lambda y, x: -(y * y) + 1.0,
}
"""f′ from y = f(x), x and what else f takes."""


def _chain(op: Any, place: int) -> Rule:
    """Of y = f(x), x the operand at a place: f′·dx."""

    def apply(d: Tangents, y: Value, *operands: Any, **options: Any) -> Value:
        return d(operands[place]) * SLOPES[op](y, *operands, **options)

    return Rule(apply, (place,))


def _itself(op: Any) -> Rule:
    """Of y = f(x), f linear: f(dx). A second operand gives a type and nothing else."""

    def apply(d: Tangents, y: Value, x: Value, *operands: Any, **options: Any) -> Value | None:
        return None if d(x) is None else op(d(x), *operands, **options)

    return Rule(apply, (0, 1) if op is aten.type_as.default else (0,))


def _sum(sign: int) -> Callable[..., Value]:
    """Of a ± α·b."""

    def apply(d: Tangents, y: Value, a: Value, b: Value, *, alpha: float = 1) -> Value:
        left, right = d.across(a, y), d.across(b, y)
        right = right if right is None or sign * alpha == 1 else right * (sign * alpha)
        alone = a if right is None else b if left is None else y
        tangent = total(left, right)
        return tangent if same_shape(alone, y) else d.spread(tangent, y)

    return apply


def _product(d: Tangents, y: Value, a: Value, b: Value) -> Value:
    return total(times(d.across(a, y), b), times(d.across(b, y), a))


def _quotient(d: Tangents, y: Value, a: Value, b: Value) -> Value:
    """(da − y·db) / b."""
    below = d.across(b, y)
    return total(d.across(a, y), None if below is None else -(below * y)) / b


def _where(d: Tangents, y: Value, condition: Value, a: Value, b: Value) -> Value:
    left, right = d.across(a, y), d.across(b, y)
    if right is None:
        chosen = aten.where.ScalarOther(condition, left, 0.0)
    elif left is None:
        chosen = aten.where.ScalarSelf(condition, 0.0, right)
    else:
        chosen = aten.where.self(condition, left, right)
    return d.spread(chosen, y)


def _masked(d: Tangents, y: Value, x: Value, mask: Value, value: float) -> Value:
    return d.spread(aten.masked_fill.Scalar(d.across(x, y), mask, 0.0), y)


RULES: Mapping[Any, Rule] = {
    **{op: _chain(op, 1 if op is aten.pow.Scalar else 0) for op in SLOPES},
    **{op: _itself(op) for op in ops_with(Trait.ELEMENTWISE | Trait.LINEAR)},
    aten.add.Scalar: Rule(lambda d, y, x, *_: d(x)),
    aten.add.Tensor: Rule(_sum(1), (0, 1)),
    aten.div.Tensor: Rule(_quotient, (0, 1)),
    aten.masked_fill.Scalar: Rule(_masked),
    aten.mul.Tensor: Rule(_product, (0, 1)),
    aten.rsub.Scalar: Rule(lambda d, y, x, other, alpha=1: d(x) * -alpha),
    aten.sub.Tensor: Rule(_sum(-1), (0, 1)),
    aten.where.self: Rule(_where, (1, 2)),
}

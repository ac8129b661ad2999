"""Tangents of products, weights and activations alike, and of attention.

    y = x·Wᵀ + b            dy = dx·Wᵀ + x·dWᵀ + db
    s = scale·q·kᵀ + mask   ds = scale·(dq·kᵀ + q·dkᵀ)
    p = softmax(s)          dp = p ∘ (ds − Σⱼ pⱼ·dsⱼ)
    y = p·v                 dy = dp·v + p·dv

A frozen weight is read as it is stored: its op runs on dx, without the bias.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from zofx.ir.tangents.values import Rule, Tangents, Value, described, rank, sizes, total
from zofx.ir.traits import Trait, ops_with

aten = torch.ops.aten
zofx = torch.ops.zofx


def _with_bias(d: Tangents, y: Value, product: Value | None, bias: Value | None) -> Value:
    """Add db; a bias alone has to be given the shape of y."""
    addend = d.across(bias, y)
    return d.spread(addend, y) if product is None else total(product, addend)


def _linear(d: Tangents, y: Value, x: Value, weight: Value, bias: Value | None = None) -> Value:
    by_x = None if d(x) is None else aten.linear.default(d(x), weight)
    by_weight = None if d(weight) is None else _by_weight(d, y, x, d(weight))
    return _with_bias(d, y, total(by_x, by_weight), bias)


def _by_weight(d: Tangents, y: Value, x: Value, tangent: Value) -> Value:
    """x·dWᵀ: [*m, in], [P, out, in] → [P, *m, out]; the rows of x are read once per direction."""
    rows = aten.reshape.default(x, [-1, described(x).shape[-1]])
    product = aten.matmul.default(rows, aten.transpose.int(tangent, 1, 2))
    return aten.reshape.default(product, [d.count, *sizes(y)])


def _frozen(op: Any) -> Rule:
    """Of a linear whose weight is codes: its own op on dx; the bias alone may have a tangent."""
    place = [a.name for a in op._schema.arguments].index("bias")

    def apply(d: Tangents, y: Value, x: Value, *stored: Any) -> Value:
        unbiased = (*stored[: place - 1], None, *stored[place:])
        by_x = None if d(x) is None else op(d(x), *unbiased)
        return _with_bias(d, y, by_x, stored[place - 1])

    return Rule(apply, (0, place))


def _sparse_linear(
    d: Tangents, y: Value, x: Value, values: Value, index: Value, *sizes: int
) -> Value:
    """dx·Sᵀ + x·dSᵀ; a matrix per direction takes its own x, [P, …]."""
    by_x, by_values = d(x), d(values)
    if by_x is not None:
        by_x = zofx.sparse_linear.default(by_x, values, index, *sizes)
    if by_values is not None:
        by_values = zofx.sparse_linear.default(d.spread(x, x), by_values, index, *sizes)
    return total(by_x, by_values)


def _matmul(d: Tangents, y: Value, a: Value, b: Value) -> Value:
    if min(rank(a), rank(b)) < 2:
        raise NotImplementedError("a product with a vector")
    left, right = d.across(a, y), d.across(b, y)
    return total(
        None if left is None else aten.matmul.default(left, b),
        None if right is None else aten.matmul.default(a, right),
    )


def _attention(
    d: Tangents, y: Value, query: Value, key: Value, value: Value, *masking: Any,
    scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    """Of softmax(scale·q·kᵀ + mask)·v: [..., L, D], [..., T, D], [..., T, E] → [..., L, E]."""
    mask, dropout, is_causal = masking
    if dropout or enable_gqa:
        raise NotImplementedError("dropout" if dropout else "fewer key heads than query heads")
    scale = 1 / math.sqrt(described(query).shape[-1]) if scale is None else scale
    scores, seen = aten.matmul.default(query, _transposed(key)) * scale, mask
    if is_causal:
        seen = _causal(query, key)
    elif mask is not None and described(mask).dtype is not torch.bool:
        scores, seen = scores + mask, aten.gt.Scalar(mask, -math.inf)
    p = _softmax(scores, seen, torch.finfo(described(query).dtype).min)
    dq, dk, dv = d(query), d(key), d(value)
    moved = total(
        None if dq is None else aten.matmul.default(dq, _transposed(key)),
        None if dk is None else aten.matmul.default(query, _transposed(dk)),
    )
    if moved is not None:
        moved = p * (moved * scale)
        moved = moved - p * aten.sum.dim_IntList(moved, [-1], True)
        moved = aten.matmul.default(moved, value)
    return total(moved, None if dv is None else aten.matmul.default(p, dv))


def _transposed(x: Value) -> Value:
    return aten.transpose.int(x, -2, -1)


def _causal(query: Value, key: Value) -> Value:
    """Position l sees positions t ≤ l: bool[L, T]."""
    device = described(query).device
    seeing, seen = (aten.arange.default(sizes(x)[-2], device=device) for x in (query, key))
    return aten.le.Tensor(seen, aten.unsqueeze.default(seeing, 1))


def _softmax(scores: Value, seen: Value | None, lowest: float) -> Value:
    """Over what is seen: [..., L, T]; a row that sees nothing is zero, as torch has it."""
    if seen is None:
        return aten.softmax.int(scores, -1)
    weights = aten.softmax.int(aten.where.ScalarOther(seen, scores, lowest), -1)
    return aten.where.ScalarOther(seen, weights, 0.0)


RULES: Mapping[Any, Rule] = {
    **{op: _frozen(op) for op in ops_with(Trait.QUANTIZED_PRODUCT)},
    aten.bmm.default: Rule(_matmul, (0, 1)),
    aten.linear.default: Rule(_linear, (0, 1, 2)),
    aten.matmul.default: Rule(_matmul, (0, 1)),
    aten.mm.default: Rule(_matmul, (0, 1)),
    aten.scaled_dot_product_attention.default: Rule(_attention, (0, 1, 2)),
    zofx.sparse_linear.default: Rule(_sparse_linear, (0, 1)),
}

"""Tangents of ops that move entries, or add them up along an axis: the same op, one axis further.

    y = op(x, axis, …)      dy = op(dx, axis + 1, …)       negative axes stay
    y = op(x, sizes)        dy = op(dx, [P, *sizes])

A value without a tangent is a zero only where it is joined with one that has some.
"""

from collections.abc import Mapping, Sequence
from operator import getitem
from typing import Any

import torch

from zofx.ir.tangents.values import Rule, Tangents, Value, rank
from zofx.ir.traits import Trait, ops_with

aten = torch.ops.aten

AXES = ("dim", "dim0", "dim1", "dims", "end_dim", "start_dim")  # as aten's schemas name them


def shifted(axes: Any) -> Any:
    """An axis, or a list of them, in a value with one more in front."""
    if isinstance(axes, Sequence):
        return [shifted(axis) for axis in axes]
    return axes + 1 if axes >= 0 else axes


def _moved(op: Any, operands: Sequence[Any], axes: int) -> list[Any]:
    """What an op takes behind a first operand with so many axes, its axes shifted.

    No axis in particular means all of them.
    """
    names = [argument.name for argument in op._schema.arguments[1:]]
    every = list(range(-axes, 0))
    return [
        (every if value in (None, []) else shifted(value)) if name in AXES else value
        for name, value in zip(names, operands, strict=False)
    ]


def _along(op: Any) -> Rule:
    """Of an op along some axes."""

    def apply(d: Tangents, y: Value, x: Value, *operands: Any, **options: Any) -> Value:
        return op(d(x), *_moved(op, operands, rank(x)), **options)

    return Rule(apply)


def _join(op: Any) -> Rule:
    """Of an op that joins values, zeros in place of tangents that are not there."""

    def apply(d: Tangents, y: Value, parts: Sequence[Value], *operands: Any) -> Value:
        tangents = [
            d.spread(aten.zeros_like.default(x), x) if d(x) is None else d(x) for x in parts
        ]
        return op(tangents, *_moved(op, operands, rank(parts[0])))

    return Rule(apply)


def _reshape(d: Tangents, y: Value, x: Value, size: Sequence[Value]) -> Value:
    return aten.reshape.default(d(x), [d.count, *size])


def _expand(d: Tangents, y: Value, x: Value, size: Sequence[Value], **_: bool) -> Value:
    return aten.expand.default(d.across(x, y), [d.count, *size])


def _repeat(d: Tangents, y: Value, x: Value, repeats: Sequence[Value]) -> Value:
    return aten.repeat.default(d.across(x, y), [1, *repeats])


def _permute(d: Tangents, y: Value, x: Value, dims: Sequence[int]) -> Value:
    return aten.permute.default(d(x), [0, *shifted(dims)])


def _transpose(d: Tangents, y: Value, x: Value) -> Value:
    return d(x) if rank(x) < 2 else aten.transpose.int(d(x), 1, 2)


def _gather(d: Tangents, y: Value, x: Value, dim: int, index: Value, **_: bool) -> Value:
    return aten.gather.default(d(x), shifted(dim), d.spread(index, index))


def _index(d: Tangents, y: Value, x: Value, indices: Sequence[Value | None]) -> Value:
    """Indices side by side leave the axes in their order; apart they would lead, before P."""
    used = [place for place, index in enumerate(indices) if index is not None]
    if used != list(range(used[0], used[-1] + 1)):
        raise NotImplementedError("indices with an axis between them")
    return aten.index.Tensor(d(x), [None, *indices])


def _embedding(d: Tangents, y: Value, weight: Value, indices: Value, *_: Any) -> Value:
    return aten.index.Tensor(d(weight), [None, indices])


def _select_positions(d: Tangents, y: Value, x: Value, positions: Value) -> Value:
    """x[n, positions[n, s]] for each direction: positions as far as the features reach."""
    place = positions
    for _ in range(rank(x) - 2):
        place = aten.unsqueeze.default(place, -1)
    return aten.gather.default(d(x), 2, d.spread(place, y))


RULES: Mapping[Any, Rule] = {
    **{op: _along(op) for op in ops_with(Trait.ALONG_AXES | Trait.LINEAR)},
    **{op: _join(op) for op in ops_with(Trait.JOIN)},
    **{op: Rule(_reshape) for op in ops_with(Trait.RESHAPE | Trait.SIZED)},
    **{op: Rule(lambda *_, **__: None) for op in ops_with(Trait.FILL)},
    aten.embedding.default: Rule(_embedding),
    aten.expand.default: Rule(_expand),
    aten.gather.default: Rule(_gather),
    aten.index.Tensor: Rule(_index),
    aten.permute.default: Rule(_permute),
    aten.repeat.default: Rule(_repeat),
    aten.t.default: Rule(_transpose),
    getitem: Rule(lambda d, y, parts, place: getitem(d(parts), place)),
    torch.ops.zofx.select_positions.default: Rule(_select_positions),
}

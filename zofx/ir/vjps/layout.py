"""Rules of ops that put entries elsewhere, where torch's own derivative takes ops engines lack.

y = x[…, a:b, …]         dx = dy between zeros
y = x[n, positions]      dx = dy added up at these positions
y = W[ids]               dW = dy added up at these rows
y = (a, b, …) joined     each part has its part of dy
"""

import sys
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from zofx.ir.ops import zofx_ops
from zofx.ir.vjps.values import Call, Cotangents, Rule

aten = torch.ops.aten


SLICE_DEFAULTS: Final[tuple[Any, ...]] = (0, None, None, 1)
"""Axis, start, end and step."""


def cut(call: Call, dy: Tensor) -> Cotangents:
    """The same."""
    return {(0,): dy}


def slice_(call: Call, dy: Tensor) -> Cotangents:
    """Zeros before and after."""
    x, axis, start, end, step = (*call.args, *SLICE_DEFAULTS[len(call.args) - 1 :])
    if step != 1:
        raise NotImplementedError(f"aten.slice with step {step} has no rule; step 1 has")
    size, axis = x.shape[axis], axis % x.dim()
    first = _from_start(start or 0, size)
    after = 0 if end is None or end == sys.maxsize else size - _from_start(end, size)
    edges = [0, 0] * (x.dim() - 1 - axis) + [first, after]
    return {(0,): aten.constant_pad_nd.default(dy, edges, 0.0)}


def _from_start(place: Any, size: Any) -> Any:
    """A negative place counts from the end."""
    return place + size if isinstance(place, int) and place < 0 else place


def select_positions(call: Call, dy: Tensor) -> Cotangents:
    """Positions may come twice."""
    x, positions = call.args
    return {(0,): zofx_ops.select_positions_transpose(dy, positions, x.shape[1])}


def embedding(call: Call, dy: Tensor) -> Cotangents:
    """Tokens come again and again."""
    weight, ids = call.args[:2]
    rows = dy.reshape(-1, weight.shape[1])
    zeros = torch.zeros_like(weight)
    return {(0,): zeros.index_put((ids.reshape(-1),), rows, accumulate=True)}


def cat(call: Call, dy: Tensor) -> Cotangents:
    """The wanted parts."""
    parts, axis = call.args[0], call.args[1] if len(call.args) > 1 else 0
    cotangents: dict[tuple[int, ...], Tensor] = {}
    start: Any = 0
    for number, part in enumerate(parts):
        end = start + part.shape[axis]
        if call.wants(0, number):
            cotangents[0, number] = aten.slice.Tensor(dy, axis, start, end)
        start = end
    return cotangents


RULES: Final[Mapping[Any, Rule]] = {
    aten.cat.default: cat,
    aten.embedding.default: embedding,
    aten.slice.Tensor: slice_,
    zofx_ops.cut.default: cut,
    zofx_ops.select_positions.default: select_positions,
}

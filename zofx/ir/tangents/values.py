"""What rules are written in: values, their tangents, and sums that know no zeros.

    x: [*k]   →   d(x): [P, *k], one tangent per direction p, or None where all are zero

A value is a tensor, or an `fx.Proxy` that stands for one in a graph: a rule evaluates on the first
and rewrites on the second. Rules are pure; they call aten and zofx:: ops and the operators + − · /
alone, with a value on the left.
"""

import operator
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import torch
from torch import fx

aten = torch.ops.aten

Value: TypeAlias = Any


@dataclass(frozen=True)
class Tangents:
    """The tangents of an op's operands.

    Attributes:
        count: P, a number or a size in the graph.
        known: tangents by `identity` of their value.
    """

    count: Value
    known: Mapping[Hashable, Value]

    def __call__(self, x: Value) -> Value | None:
        """[P, *x.shape]; None for a value (or a number) without one."""
        return self.known.get(identity(x))

    def across(self, x: Value, y: Value) -> Value | None:
        """The tangent of x with the axes that broadcasting x to y adds: [P, 1, …, *x.shape]."""
        tangent = self(x)
        missing = 0 if tangent is None else rank(y) - rank(x)
        for _ in range(missing):
            tangent = aten.unsqueeze.default(tangent, 1)
        return tangent

    def spread(self, value: Value, y: Value) -> Value:
        """A value that broadcasts to [P, *y.shape], in that shape."""
        return aten.expand.default(value, [self.count, *sizes(y)])


@dataclass(frozen=True)
class Rule:
    """How an op carries tangents.

    Attributes:
        apply: (d, y, *operands, **options) → the tangent of y = op(*operands, **options), None
            where it is zero. Operands are complete, options are those the schema has by name only.
            Raises NotImplementedError, saying which, for a form of the op it does not know.
        operands: places of the operands that may have a tangent; at least one of them has.
    """

    apply: Callable[..., Value | None]
    operands: tuple[int, ...] = (0,)


def identity(x: Value) -> Hashable:
    """The identity of a value."""
    return x.node if isinstance(x, fx.Proxy) else id(x)


def described(x: Value) -> torch.Tensor:
    """Something with the shape and dtype of a value."""
    value: torch.Tensor = x.node.meta["val"] if isinstance(x, fx.Proxy) else x
    return value


def rank(x: Value) -> int:
    """Number of axes."""
    return described(x).dim()


def sizes(x: Value) -> list[Value]:
    """Of every axis: a number, or a size in the graph."""
    return [
        size if isinstance(size, int) else aten.sym_size.int(x, axis)
        for axis, size in enumerate(described(x).shape)
    ]


def same_shape(x: Value, y: Value) -> bool:
    """Whether two values have equal sizes, whatever they turn out to be."""
    return str(tuple(described(x).shape)) == str(tuple(described(y).shape))


def times(tangent: Value | None, factor: Value) -> Value | None:
    """Their product."""
    return None if tangent is None else tangent * factor


def total(*terms: Value | None) -> Value | None:
    """The sum of the terms that are there."""
    there = [term for term in terms if term is not None]
    return reduce(operator.add, there) if there else None

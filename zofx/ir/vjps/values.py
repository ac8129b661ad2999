"""What rules are given and return; the rule that asks torch's autograd."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from zofx.ir import ops

Place: TypeAlias = tuple[int, ...]
"""Of an operand: its number among the arguments, and in a list the number there."""

Cotangents: TypeAlias = Mapping[Place, Tensor]


@dataclass(frozen=True)
class Call:
    """A call of an op, with values.

    Attributes:
        target: the op.
        args: its arguments.
        kwargs: its keyword arguments.
        wanted: places of the operands whose cotangents are asked for.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    wanted: frozenset[Place]

    def wants(self, *place: int) -> bool:
        """Whether an operand's cotangent is asked for."""
        return place in self.wanted

    def operand(self, place: Place) -> Tensor:
        """The operand at a place."""
        value: Any = self.args
        for number in place:
            value = value[number]
        operand: Tensor = value
        return operand

    def cotangents(self, *values: Callable[[], Tensor]) -> Cotangents:
        """One recipe for each of the first arguments; those that are not wanted are not made."""
        return {(n,): value() for n, value in enumerate(values) if self.wants(n)}


Rule: TypeAlias = Callable[[Call, Tensor], Cotangents]


def by_autograd(call: Call, cotangent: Tensor | Mapping[int, Tensor]) -> Cotangents:
    """The op once more, on operands that torch's autograd follows.

    Args:
        call: of any op that torch differentiates.
        cotangent: of its result; by number, of an op that has several.
    """
    places = sorted(call.wanted)
    leaves = {place: call.operand(place).detach().requires_grad_() for place in places}
    target: Any = call.target
    if getattr(target, "namespace", "") == "zofx":
        target = ops.meaning(target)  # an op of ours has no derivative; what it is written in has
    with torch.enable_grad():
        result = target(*_with(call.args, leaves), **call.kwargs)
        if isinstance(cotangent, Mapping):
            results, seeds = [result[n] for n in cotangent], list(cotangent.values())
        else:
            results, seeds = [result], [cotangent.expand_as(result)]
        gradients = torch.autograd.grad(results, list(leaves.values()), seeds)
    return dict(zip(places, gradients, strict=True))


def _with(values: Any, leaves: Mapping[Place, Tensor]) -> Any:
    """Arguments with some operands replaced."""

    def own(value: Any, place: Place) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(own(item, (*place, n)) for n, item in enumerate(value))
        return leaves.get(place, value)

    return own(values, ())

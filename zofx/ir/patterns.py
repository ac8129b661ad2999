"""Questions passes ask of a program: which weights are plain linears, which ops act row by row."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from zofx.ir.program import Program, is_call, placeholders
from zofx.ir.schema import Role
from zofx.ir.traits import Trait, has

if TYPE_CHECKING:
    from zofx.ir.pipeline import Remarker

aten = torch.ops.aten


def summands(value: fx.Node, target: Any) -> set[fx.Node]:
    """The results of an op that reach a value by moves and sums alone."""
    terms, seen, waiting = set(), set(), [value]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_call(node, target):
            terms.add(node)
        elif has(node, Trait.MOVES) or is_call(node, aten.add.Tensor):
            waiting += node.all_input_nodes
    return terms


def block_of(name: str) -> tuple[str, int] | None:
    """The series and the number of the block a tensor is in, by the first number in its name.

    "model.layers.3.mlp.up_proj.weight" → ("model.layers", 3); None outside of blocks.
    """
    match = re.match(r"(.*?)\.(\d+)\.", name)
    return (match[1], int(match[2])) if match else None


def linears_of(graph: fx.Graph, weight: str) -> list[fx.Node]:
    """The linears that multiply by a weight, in order."""
    node = next(n for n in placeholders(graph) if n.target == weight)
    return [
        user for user in node.users if is_call(user, aten.linear.default) and user.args[1] is node
    ]


def linear_weights(program: Program, remark: "Remarker") -> list[str]:
    """Names of the frozen matrices that linears use and nothing else does; remarks the others."""
    names = []
    for node in placeholders(program.graph):
        name = str(node.target)
        spec = program.tensors.get(name)
        if spec is None or spec.role is not Role.FROZEN:
            continue
        linears = linears_of(program.graph, name)
        others = [user for user in node.users if user not in linears]
        if linears and others:
            remark(name, "skipped", f"also used by {others[0].target}: it stays whole")
        elif linears:
            names.append(name)
    return names


def trainable_weights(program: Program, remark: "Remarker") -> list[str]:
    """The linear weights that may train; remarks the others."""
    names = linear_weights(program, remark)
    for name in names:
        if program.choice(name).fixed:
            remark(name, "skipped", "it is below the first layer that trains")
    return [name for name in names if not program.choice(name).fixed]


def row_by_row(node: fx.Node, has_rows: Callable[[fx.Node], bool]) -> bool:
    """Whether a row of the result depends on that row of the operands and on nothing else.

    Args:
        node: an op whose result has rows: features along the last axis, an index before it.
        has_rows: whether an operand is indexed by the same rows; one that is not must be a weight,
            or the same for every row.
    """
    operands = node.all_input_nodes
    if is_call(node, aten.linear.default):
        return not any(map(has_rows, operands[1:]))
    if has(node, Trait.NORM):
        return len(node.args[1]) == 1 and not any(map(has_rows, operands[1:]))  # type: ignore[arg-type]
    return has(node, Trait.ELEMENTWISE) and all(has_rows(a) or _broadcasts(a) for a in operands)


def _broadcasts(node: fx.Node) -> bool:
    """Whether a value is the same for every row: a vector of features or a scalar."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() <= 1

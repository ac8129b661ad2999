"""Questions passes ask of a program: which weights are plain linears, which values have rows."""

from typing import TYPE_CHECKING

import torch
from torch import fx

from zofx.program import Program, Role, is_call, placeholders

if TYPE_CHECKING:
    from zofx.pipeline import Remarker

aten = torch.ops.aten


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

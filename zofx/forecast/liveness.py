"""How much memory the values of one forward take at once, read off the graph.

    alive(op) = values made before it and read by it or later, and its result
    peak      = max over ops of  Σ bytes(alive) + scratch(op)

Ops run in the order of the graph. Inputs and tensors of the table do not count: they are there
anyway, and a view of one takes nothing, nor does any other view.
"""

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import fx

from zofx.ir import ops  # noqa: F401  # registers torch.ops.zofx
from zofx.ir.program import Program

aten = torch.ops.aten

RESHAPES: Final[frozenset[Any]] = frozenset(
    {
        aten.alias.default, aten.flatten.using_ints, aten.reshape.default, aten.squeeze.dim,
        aten.unsqueeze.default, aten.view.default, operator.getitem, torch.ops.zofx.cut.default,
    }
)  # fmt: skip
"""What no engine copies for."""

VIEWS: Final[frozenset[Any]] = RESHAPES | {
    aten.expand.default, aten.permute.default, aten.select.int, aten.slice.Tensor, aten.t.default,
    aten.transpose.int,
}  # fmt: skip
"""What torch does not copy for."""


def peak(
    program: Program,
    size: Callable[[fx.Node], int],
    scratch: Callable[[fx.Node], int],
    views: frozenset[Any],
) -> int:
    """The most bytes that a forward takes beside weights, trainables and inputs.

    Args:
        program: compiled.
        size: bytes of an op's result.
        scratch: bytes that are taken within an op.
        views: ops whose result is in the memory of their first operand.
    """
    owner = _owners(program.graph, views)
    uses = Counter(owner[a] for node in program.graph.nodes for a in node.all_input_nodes)
    alive: dict[fx.Node, int] = {}
    now = most = 0
    for node in program.graph.nodes:
        if node.op == "call_function" and owner[node] is node:
            alive[node] = size(node)
            now += alive[node]
            most = max(most, now + scratch(node))
        for operand in node.all_input_nodes:
            uses[owner[operand]] -= 1
            if not uses[owner[operand]]:
                now -= alive.pop(owner[operand], 0)
    return most


def _owners(graph: fx.Graph, views: frozenset[Any]) -> dict[fx.Node, fx.Node]:
    """Whose memory each value is in."""
    owner: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        shows = node.op == "call_function" and node.target in views
        owner[node] = owner[node.all_input_nodes[0]] if shows else node
    return owner

"""How much memory the values of one forward take at once, read off the graph.

    alive(op) = values made before it and read by it or later, and its result
    peak      = max over ops of  Σ bytes(alive) + scratch(op)

Ops run in the order of the graph. Inputs and tensors of the table do not count: they are there
anyway, and a view of one takes nothing, nor does any other view.
"""

from collections.abc import Callable

from torch import fx

from zofx.ir.program import Program, last_uses
from zofx.ir.traits import Trait, has


def peak(
    program: Program,
    size: Callable[[fx.Node], int],
    scratch: Callable[[fx.Node], int],
    views: Trait,
) -> int:
    """The most bytes that a forward takes beside weights, trainables and inputs.

    Args:
        program: compiled.
        size: bytes of an op's result.
        scratch: bytes that are taken within an op.
        views: trait of the ops whose result is in the memory of their first operand.
    """
    owner = _owners(program.graph, views)
    dropped = last_uses(program.graph, owner.__getitem__)
    alive: dict[fx.Node, int] = {}
    now = most = 0
    for node in program.graph.nodes:
        if node.op == "call_function" and owner[node] is node:
            alive[node] = size(node)
            now += alive[node]
            most = max(most, now + scratch(node))
        now -= sum(alive.pop(value, 0) for value in dropped.get(node, ()))
    return most


def _owners(graph: fx.Graph, views: Trait) -> dict[fx.Node, fx.Node]:
    """Whose memory each value is in."""
    owner: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        owner[node] = owner[node.all_input_nodes[0]] if has(node, views) else node
    return owner

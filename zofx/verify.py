"""The rules every program obeys, checked after every pass. A failure shows the node and its neighbourhood.

    well formed     defined before used, every placeholder is an input or a tensor of the table, every tensor is read
    functional      no op writes to its arguments
    forward only    no autograd op (law 8)
    annotated       every call carries its shape; with ZOFX_VERIFY=full they are inferred again and compared
"""

import os
from typing import Any

from torch import fx

from zofx.errors import InvariantError
from zofx.program import INPUTS, Program, placeholders
from zofx.rewrite import infer_shapes, same_type

WINDOW = 5
FORBIDDEN = ("backward", "autograd", "grad_enabled")


def verify(program: Program, after: str) -> None:
    """Check all rules.

    Args:
        program: what to check.
        after: the pass that made it, for the message.

    Raises:
        InvariantError: which rule, which node, its neighbours.
    """
    names = [str(node.target) for node in placeholders(program.graph)]
    if len(set(names)) != len(names):
        raise InvariantError(f"after {after}: a placeholder is there twice")
    missing = set(program.tensors) - set(names)
    if missing:
        raise InvariantError(f"after {after}: tensors nobody reads: {sorted(missing)}")
    without = set(program.tensors) - set(program.data)
    if without:
        raise InvariantError(f"after {after}: tensors without data: {sorted(without)}")
    lost = set(INPUTS) - set(program.inputs)
    if lost:
        raise InvariantError(f"after {after}: inputs lost: {sorted(lost)}")
    for node in program.graph.nodes:
        why = _violation(node)
        if why:
            raise InvariantError(f"after {after}: {why}\n{neighbourhood(node)}")
    if os.environ.get("ZOFX_VERIFY") == "full":
        _check_shapes(program.graph, after)


def _violation(node: fx.Node) -> str | None:
    if node.op not in ("placeholder", "call_function", "output"):
        return f"{node.op} nodes are not part of a program"
    if node.op == "output":
        return None
    if "val" not in node.meta:
        return "a node without a shape"
    schema: Any = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable:
        return "an op that writes to its arguments"
    if any(word in str(node.target) for word in FORBIDDEN):
        return "an autograd op in a forward-only program"
    return None


def _check_shapes(graph: fx.Graph, after: str) -> None:
    again = fx.Graph()
    moved: dict[fx.Node, fx.Node] = {}
    again.graph_copy(graph, moved)
    infer_shapes(again, everything=True)
    for old, new in moved.items():
        if not same_type(old.meta["val"], new.meta["val"]):
            raise InvariantError(
                f"after {after}: annotated {old.meta['val']}, inferred {new.meta['val']}\n{neighbourhood(old)}"
            )


def neighbourhood(node: fx.Node) -> str:
    """The node with the lines around it."""
    nodes = list(node.graph.nodes)
    place = nodes.index(node)
    return "\n".join(
        f"{'→' if n is node else ' '} {n.format_node()}"
        for n in nodes[max(0, place - WINDOW) : place + WINDOW + 1]
    )

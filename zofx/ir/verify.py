"""The rules every program obeys, checked after every pass. A failure shows the node and its lines.

well formed    defined before used; a placeholder is an input or a tensor of the table, once; every
               tensor is read and has data
functional     no op writes to its arguments
forward only   no autograd op (invariant 8)
annotated      every call carries its shape; ZOFX_VERIFY=full infers them again and compares
"""

import os
from collections.abc import Iterator
from typing import Any

from torch import fx

from zofx.errors import InvariantError
from zofx.ir.program import Program, placeholders
from zofx.ir.rewrite import infer_shapes, same_type
from zofx.ir.schema import COEFFICIENTS, COTANGENT, INPUTS, KEYS

WINDOW = 5
KNOWN_INPUTS = {*INPUTS, KEYS, COEFFICIENTS, COTANGENT}
FORBIDDEN = ("backward", "autograd", "grad_enabled")


def verify(program: Program, after: str) -> None:
    """Check all rules.

    Args:
        program: what to check.
        after: the pass that made it, for the message.

    Raises:
        InvariantError: which rule, which node, its neighbours.
    """
    for complaint in _table_complaints(program):
        raise InvariantError(f"after {after}: {complaint}")
    made: set[fx.Node] = set()
    for node in program.graph.nodes:
        why = _violation(node)
        if not made.issuperset(node.all_input_nodes):
            why = "an op that reads a value made later"
        if why:
            raise InvariantError(f"after {after}: {why}\n{neighbourhood(node)}")
        made.add(node)
    if os.environ.get("ZOFX_VERIFY") == "full":
        _check_shapes(program.graph, after)


def _table_complaints(program: Program) -> Iterator[str]:
    """Where the placeholders and the tensor table disagree."""
    names = [str(node.target) for node in placeholders(program.graph)]
    read = {str(node.target) for node in placeholders(program.graph) if node.users}
    rules = {
        "placeholders that are there twice": {name for name in names if names.count(name) > 1},
        "placeholders that are no input and no tensor": set(program.inputs) - KNOWN_INPUTS,
        "inputs lost": set(INPUTS) - set(program.inputs),
        "tensors nobody reads": set(program.tensors) - read,
        "tensors without data": set(program.tensors) - set(program.data),
    }
    return (
        f"{what}: {', '.join(sorted(names_of_rule))}"
        for what, names_of_rule in rules.items()
        if names_of_rule
    )


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
                f"after {after}: annotated {old.meta['val']}, inferred {new.meta['val']}\n"
                f"{neighbourhood(old)}"
            )


def neighbourhood(node: fx.Node) -> str:
    """The node with the lines around it."""
    nodes = list(node.graph.nodes)
    place = nodes.index(node)
    return "\n".join(
        f"{'→' if n is node else ' '} {n.format_node()}"
        for n in nodes[max(0, place - WINDOW) : place + WINDOW + 1]
    )

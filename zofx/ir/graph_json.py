"""graph.json: a program's computation as data, and back.

    [{"op": "call", "target": "aten.linear.default", "args": [{"node": 3}, …], "kwargs": {…}}, …]

Only aten and zofx ops and a few size operators can be named, and nothing else runs: reading a file
resolves names, it never executes code from it.
"""

import json
import operator
from pathlib import Path
from typing import Any

import torch
from torch import fx

import zofx.ir.ops  # noqa: F401  # registers torch.ops.zofx
from zofx.errors import ArtifactError

NAMESPACES = ("aten", "zofx")
SIZE_ARITHMETIC = ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem")
SIZE_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
SIZE_OPERATORS = {
    f"operator.{name}": getattr(operator, name) for name in SIZE_ARITHMETIC + SIZE_COMPARISONS
} | {"torch.sym_max": torch.sym_max, "torch.sym_min": torch.sym_min}
NAMES = {function: name for name, function in SIZE_OPERATORS.items()}
KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
DAMAGE = (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError)
OP = {"placeholder": "placeholder", "call_function": "call", "output": "output"}


def dump_graph(graph: fx.Graph) -> str:
    """Graph → text."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    rows = []
    for node in graph.nodes:
        row: dict[str, Any] = {"op": OP[node.op], "target": _target_name(node)}
        if node.op != "placeholder":
            row["args"] = _encode(node.args, places)
            if node.kwargs:
                row["kwargs"] = {k: _encode(v, places) for k, v in node.kwargs.items()}
        rows.append(row)
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def op_types(graph: fx.Graph) -> tuple[str, ...]:
    """Names of the ops that a graph calls, in order, each once."""
    calls = (node for node in graph.nodes if node.op == "call_function")
    return tuple(sorted({_target_name(node) for node in calls}))


def load_graph(path: Path) -> fx.Graph:
    """Text → graph, without shapes.

    Raises:
        ArtifactError: damaged, or it names something that is not an op zofx knows.
    """
    try:
        return _read(json.loads(path.read_bytes()))
    except DAMAGE as error:
        raise ArtifactError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _read(rows: list[dict[str, Any]]) -> fx.Graph:
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for row in rows:
        nodes.append(_add(graph, row, nodes))
    if not nodes or nodes[-1].op != "output":
        raise ValueError("it does not end with an output")
    return graph


def _add(graph: fx.Graph, row: dict[str, Any], nodes: list[fx.Node]) -> fx.Node:
    arguments = _decode(row.get("args", []), nodes)
    options = {k: _decode(v, nodes) for k, v in row.get("kwargs", {}).items()}
    node: fx.Node
    match row["op"]:
        case "placeholder":
            node = graph.create_node("placeholder", row["target"])
        case "output":
            node = graph.output(*arguments)
        case "call":
            node = graph.call_function(_target(row["target"]), tuple(arguments), options)
        case other:
            raise ValueError(f"there is no kind of node '{other}'")
    return node


def _target_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return f"{node.target.namespace}.{node.target.__name__}"
    name: str = NAMES[node.target]
    return name


def _target(name: str) -> Any:
    if name in SIZE_OPERATORS:
        return SIZE_OPERATORS[name]
    namespace, op, overload = name.split(".")
    if namespace not in NAMESPACES:
        raise ValueError(f"'{name}' is not an op of {' or '.join(NAMESPACES)}")
    target = getattr(getattr(getattr(torch.ops, namespace), op), overload)
    if any(a.name == "filename" for a in target._schema.arguments):
        raise ValueError(f"'{name}' touches files")
    if target._schema.is_mutable:
        raise ValueError(f"'{name}' writes to its arguments")
    return target


def _encode(value: Any, places: dict[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return {"node": places[value]}
    if isinstance(value, (list, tuple)):
        return [_encode(v, places) for v in value]
    if isinstance(value, torch.device):
        return {"device": value.type}
    for kind, python in KINDS.items():
        if isinstance(value, python):
            return {kind: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise AssertionError(f"graph.json cannot hold {value!r}")


def _decode(value: Any, nodes: list[fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "device":
        return torch.device(content)
    found = getattr(torch, content)
    if not isinstance(found, KINDS[kind]):
        raise TypeError(f"{content} is not a {kind}")
    return found

"""graph.json: a program's computation as data, and back.

    [{"op": "call", "target": "aten.linear.default", "args": [{"node": 3}, …], "kwargs": {…}}, …]

Only listed ops (`zofx.ir.admitted_ops`) and a few operators on sizes can be named, with arguments
of the kinds they take, and nothing else runs: reading a file resolves names, it never executes
code from it.
"""

import json
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from zofx.errors import ArtifactError, UnsupportedError
from zofx.files.strict_json import parse_json
from zofx.ir.admitted_ops import admitted_ops, check_arguments, overload
from zofx.ir.symbols import OpOverload

SIZE_ARITHMETIC = ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem")
SIZE_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
SIZE_OPERATORS = {
    f"operator.{name}": getattr(operator, name) for name in SIZE_ARITHMETIC + SIZE_COMPARISONS
} | {"torch.sym_max": torch.sym_max, "torch.sym_min": torch.sym_min}
NAMES = {function: name for name, function in SIZE_OPERATORS.items()}
KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
DEVICES = ("cpu", "cuda")
MOST_NODES = 1 << 20
DAMAGE = (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError)
NEGATIVE = "operator.neg"
OP = {"placeholder": "placeholder", "call_function": "call", "output": "output"}


def dump_graph(graph: fx.Graph) -> str:
    """Graph → text.

    Raises:
        UnsupportedError: it calls an op that a reader would refuse.
    """
    _require_admitted(graph)
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
        return _read(parse_json(path.read_bytes()))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except DAMAGE as error:
        raise ArtifactError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _require_admitted(graph: fx.Graph) -> None:
    unknown = set(op_types(graph)) - admitted_ops() - SIZE_OPERATORS.keys()
    if unknown:
        raise UnsupportedError(
            "this program cannot be stored",
            [
                f"graph.json may not name {name}: list it in zofx/ir/admitted_ops.py, after a look "
                "at what it does with wrong arguments"
                for name in sorted(unknown)
            ],
        )


def _read(rows: list[dict[str, Any]]) -> fx.Graph:
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    if len(rows) > MOST_NODES:
        raise ValueError(f"it has {len(rows)} nodes, and no program has {MOST_NODES}")
    names = [row["target"] for row in rows if row["op"] == "placeholder"]
    if len(names) != len(set(names)):
        raise ValueError("two inputs have one name")
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
            if not isinstance(row["target"], str):
                raise TypeError("the name of an input is no text")
            node = graph.create_node("placeholder", row["target"])
        case "output":
            (result,) = arguments
            results = result if isinstance(result, (list, tuple)) else [result]
            if not results or not all(isinstance(value, fx.Node) for value in results):
                raise TypeError("the output is no value of the graph")
            node = graph.output(result)
        case "call":
            target = _target(row["target"], arguments, options)
            node = graph.call_function(target, tuple(arguments), options)
        case other:
            raise ValueError(f"there is no kind of node '{other}'")
    return node


def _target_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, OpOverload):
        return f"{node.target.namespace}.{node.target.__name__}"
    name: str = NAMES[node.target]
    return name


def _target(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if name not in SIZE_OPERATORS:
        target = overload(name)
        check_arguments(target, args, kwargs)
        return target
    numbers = all(isinstance(a, (fx.Node, int, float)) for a in args)
    if kwargs or not numbers or len(args) != (1 if name == NEGATIVE else 2):
        raise ValueError(f"{name} is of two values or numbers")
    return SIZE_OPERATORS[name]


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
        if type(content) is not int or content < 0:
            raise ValueError(f"{content!r} is the place of no node")
        return nodes[content]
    if kind == "device":
        if content not in DEVICES:
            raise ValueError(f"{content!r} is no device of {DEVICES}")
        return torch.device(content)
    constant = getattr(torch, content)
    if not isinstance(constant, KINDS[kind]):
        raise TypeError(f"{content} is not a {kind}")
    return constant

"""Guard the model against what some versions of ONNX Runtime cannot run.

    Attention(q, k, v, …)   →   If(rows of q > 0) then Attention(q, k, v, …) else no rows
    y, , inverse = Unique(x)   →   y, indices, inverse = Unique(x)

Attention refuses zero rows, which P = 1 leaves for the other probes; all other ops have nothing to
do then. Nothing is copied: a branch reads values outside it. An unnamed output before a named one
is valid ONNX, and stops versions 1.24 and 1.25 at an assertion when they fold constants.
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with
from onnx_ir.tape import Tape

from zofx.runtimes.onnx_export.fusions import sizes


def guard_attention(model: ir.Model) -> None:
    """Ask first, where there may be none: wherever rows are as many as no input has."""
    given = {sizes(value)[0] for value in model.graph.inputs if value.shape}
    for node in [node for node in model.graph if node.op_type == "Attention"]:
        if sizes(node.inputs[0])[0] not in given:
            _ask_first(model.graph, node)


def name_outputs(model: ir.Model) -> None:
    """Name the second output of every Unique, which nothing reads."""
    for number, node in enumerate(n for n in model.graph.all_nodes() if n.op_type == "Unique"):
        for value in node.outputs:
            value.name = value.name or f"unique_{number}.indices"


def _ask_first(graph: ir.Graph, node: ir.Node) -> None:
    (attended,) = node.outputs
    tape = Tape()
    rows = tape.op("Shape", node.inputs[:1], {"start": 0, "end": 1})
    before = tape.op("Shape", node.inputs[:1], {"start": 0, "end": -1})
    last = tape.op("Constant", [], {"value_ints": list(sizes(attended)[-1:])})
    shape = tape.op("Concat", [before, last], {"axis": 0})
    branches = {
        "then_branch": _branch(attended, "some", node.op_type, node.inputs, node.attributes),
        "else_branch": _branch(attended, "none", "ConstantOfShape", [shape], {}),
    }
    some = tape.op("Cast", [rows], {"to": ir.DataType.BOOL})
    made = tape.op("If", [some], branches)
    made.type, made.shape = attended.type, attended.shape
    graph.insert_before(node, tape.nodes)
    replace_all_uses_with(attended, made)
    graph.remove(node, safe=True)


def _branch(
    like: ir.Value,
    which: str,
    op: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, ir.Attr],
) -> ir.Graph:
    """One op; names are unique in a model, branches and all."""
    name = f"{like.name}.{which}"
    result = ir.Value(name=name, type=like.type, shape=like.shape)
    node = ir.Node("", op, inputs, attributes, outputs=[result], name=name)
    return ir.Graph([], [result], nodes=[node], name=which)

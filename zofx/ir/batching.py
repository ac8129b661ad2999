"""Any op under a further leading axis, by torch's own batching rules.

    f(a, b)   →   vmap(f)(a, b)        a: [P, …] for some operands, as they are for the others

`torch.vmap` knows what an axis in front does to an op: an index is shifted, a convolution becomes a
grouped one. What it calls is traced on the annotated shapes and put into the graph before the op.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from zofx.ir.program import output_node
from zofx.ir.rewrite import Editor, value_of


def batched(edit: Editor, node: fx.Node, leading: Collection[fx.Node]) -> list[fx.Node]:
    """The ops that compute `node` once for each entry of the first axis of some operands.

    Args:
        edit: of the graph that it is in.
        node: a call whose other operands are as they were; left in the graph.
        leading: the operands [P, …] that have the axis; all others are the same for each entry.

    Returns:
        The values [P, …], one or as many as the op returns, placed before the node; none where
        torch has no rule for it.
    """
    operands = list(node.all_input_nodes)
    values = [value_of(operand) for operand in operands]
    axes = tuple(0 if operand in leading else None for operand in operands)

    def one(*given: Any) -> Any:
        by_node = dict(zip(operands, given, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), by_node.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a call's target

    try:  # a rule that reads a size as the number it is while tracing is no rule for all sizes
        with edit.mode, torch.no_grad(), edit.mode.shape_env.error_on_new_guards():
            run = make_fx(torch.vmap(one, in_dims=axes), tracing_mode="symbolic")
            traced = run(*values)
    except (RuntimeError, NotImplementedError, ValueError):
        return []
    return _inlined(edit, node, traced.graph, operands)


def _inlined(
    edit: Editor, node: fx.Node, graph: fx.Graph, operands: list[fx.Node]
) -> list[fx.Node]:
    """Copy a traced graph before a node; its placeholders are these operands."""
    moved: dict[fx.Node, fx.Node] = {}
    given = iter(operands)
    for each in graph.nodes:
        if each.op == "placeholder":
            moved[each] = next(given)
        elif each.op == "call_function":
            with edit.graph.inserting_before(node):
                moved[each] = edit.graph.node_copy(each, moved.__getitem__)
            moved[each].meta = {}
            value_of(moved[each])
        elif each.op != "output":
            raise AssertionError(f"a traced op holds a {each.op} node")
    result: Any = output_node(graph).args[0]
    results = result if isinstance(result, (list, tuple)) else (result,)
    return [moved[each] for each in results]

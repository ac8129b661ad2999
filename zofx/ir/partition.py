"""A program with a cut → two: what is below it, and what is above.

    program(x, …)  =  above(below(x), x, …)         below: input_ids, attention_mask → hidden

Each has the tensors it reads; what is cheap and read on both sides of the cut is in both.
"""

import torch
from torch import fx

from zofx.ir import ops  # noqa: F401  # registers torch.ops.zofx
from zofx.ir.program import Program, output_node, placeholders
from zofx.ir.rewrite import Editor
from zofx.ir.schema import HIDDEN, TOKENS

cut = torch.ops.zofx.cut.default


def split(program: Program) -> tuple[Program | None, Program]:
    """Take a program apart at its cut.

    Returns:
        What is below, with result `hidden` f32[N, T, H], and what is above, with that as an input;
        None and the program itself, if it has no cut.
    """
    if not program.graph.find_nodes(op="call_function", target=cut):
        return None, program
    return _below(program), _above(program)


def _above(program: Program) -> Program:
    edit = Editor(program)
    node = _cut(edit)
    value = node.meta["val"]
    edit.replace(node, edit.add_input(HIDDEN, value.shape, value.dtype))
    return edit.done()


def _below(program: Program) -> Program:
    edit = Editor(program)
    output_node(edit.graph).args = _cut(edit).args
    below = edit.done()
    for node in list(placeholders(below.graph)):
        if node.target not in (*TOKENS, *below.tensors):
            below.graph.erase_node(node)
    return below


def _cut(edit: Editor) -> fx.Node:
    node: fx.Node = next(iter(edit.graph.find_nodes(op="call_function", target=cut)))
    return node

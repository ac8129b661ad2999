"""A program with a cut → frozen prefix and trainable remainder.

    program(x, …)  =  remainder(prefix(x), x, …)      prefix: input_ids, attention_mask → hidden

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
        The frozen prefix, with result `hidden` f32[N, T, H], and the trainable remainder, with that
        as an input; None and the program itself, if it has no cut.
    """
    if not program.graph.find_nodes(op="call_function", target=cut):
        return None, program
    return _prefix(program), _remainder(program)


def _remainder(program: Program) -> Program:
    edit = Editor(program)
    node = _cut(edit)
    value = node.meta["val"]
    edit.replace(node, edit.add_input(HIDDEN, value.shape, value.dtype))
    return edit.done()


def _prefix(program: Program) -> Program:
    edit = Editor(program)
    output_node(edit.graph).args = _cut(edit).args
    prefix = edit.done()
    for node in list(placeholders(prefix.graph)):
        if node.target not in (*TOKENS, *prefix.tensors):
            prefix.graph.erase_node(node)
    return prefix


def _cut(edit: Editor) -> fx.Node:
    node: fx.Node = next(iter(edit.graph.find_nodes(op="call_function", target=cut)))
    return node

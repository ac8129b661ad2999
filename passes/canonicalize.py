"""One spelling for what later passes look for; nothing else changes.

    addmm(b, view(x), W), b + x·W, matmul(x, Wᵀ)   →   linear(x, W or its transpose, b)     W a weight
    dropout(x), alias(x), contiguous(x), x.to(own dtype), x + 0, assertions                 →   x

A weight stored as [in, out] (GPT-2's Conv1D) becomes a frozen tensor `NAME.T` of shape [out, in]; `merge` turns it back.
Exact: linear(x, Wᵀ) is the same product; engines may sum it in another order.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from zofx.facts import CANONICAL
from zofx.pipeline import Pass, Remarker
from zofx.program import Program, TensorSpec, is_call, shape_of
from zofx.rewrite import Editor, same_type

aten = torch.ops.aten

ALWAYS_IDENTITY = (
    aten.alias.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
)
CASTS = (
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten._to_copy.default,
    aten.expand.default,
    aten.view.default,
    aten.reshape.default,
)
TRANSPOSES = (aten.t.default, aten.numpy_T.default)


@dataclass(frozen=True)
class Canonicalize(Pass):
    """See the module."""

    name: ClassVar[str] = "canonicalize"
    establishes = (CANONICAL,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rewrite in one walk."""
        edit = Editor(program)
        for node in edit.nodes:
            if is_call(node, aten._assert_tensor_metadata.default, aten._assert_scalar.default):
                edit.graph.erase_node(node)
            elif _is_identity(node):
                edit.replace(node, node.args[0])
            elif is_call(node, aten.addmm.default, aten.mm.default, aten.matmul.default):
                _to_linear(edit, program, node, remark)
        return edit.done()


def _is_identity(node: fx.Node) -> bool:
    if is_call(node, *ALWAYS_IDENTITY):
        return True
    if is_call(node, *CASTS):
        return same_type(node.meta["val"], node.args[0].meta["val"])  # type: ignore[union-attr]
    return (
        is_call(node, aten.add.Tensor)
        and type(node.args[1]) in (int, float)
        and node.args[1] == 0
        and same_type(node.meta["val"], node.args[0].meta["val"])  # type: ignore[union-attr]
    )


def _to_linear(edit: Editor, program: Program, node: fx.Node, remark: Remarker) -> None:
    """A product with a weight becomes a linear; a product of activations stays."""
    bias, x, weight = node.args if len(node.args) == 3 else (None, *node.args)
    if not isinstance(weight, fx.Node) or not isinstance(x, fx.Node) or node.kwargs:
        return
    if is_call(weight, *TRANSPOSES) and _is_matrix(program, weight.args[0]):
        stored: Any = weight.args[0]
    elif _is_matrix(program, weight):
        stored = _transposed(edit, program, weight, remark)
    else:
        return
    linear = edit.call(node, aten.linear.default, x, stored, bias)
    linear.meta["val"] = node.meta["val"]  # the same value; later nodes of this walk ask for its type
    edit.replace(node, linear)
    edit.graph.erase_node(node)


def _is_matrix(program: Program, node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in program.tensors and len(shape_of(node)) == 2


def _transposed(edit: Editor, program: Program, weight: fx.Node, remark: Remarker) -> fx.Node:
    origin = program.tensors[str(weight.target)]
    name = f"{origin.name}.T"
    if edit.has_tensor(name):
        return edit.placeholder(name)
    spec = TensorSpec(
        name, origin.role, origin.shape[::-1], origin.dtype, origin.name, form="transposed"
    )
    remark(origin.name, "applied", "stored [in, out], kept as [out, in]")
    return edit.add_tensor(spec, lambda: program.load(origin.name).t().contiguous())

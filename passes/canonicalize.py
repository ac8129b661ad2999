"""One spelling for what later passes look for; nothing else changes.

    addmm(b, x, W), matmul(x, W), matmul(x, Wᵀ)   →   linear(x, W or its transpose, b)    W a weight
    addmm(b, x, y)                                →   b + matmul(x, y)                     y is not
    baddbmm(b, x, y, β, α)                        →   β·b + α·bmm(x, y)
    dropout(x), alias(x), contiguous(x), x.to(own dtype), x + 0, assertions   →   x
    attention(q, k, v)   →   attention(q, K, V)    k, v of one head, K, V of as many as q
    x.to(dtype), x & y   →   _to_copy(x, dtype=dtype), bitwise_and(x, y)
    f(rows(x))           →   rows(f(x))      f acts row by row, rows: [N, T, D] → [N·T, D]
    view(rows(x))        →   x               if that is the shape of x

So what some models compute on N·T rows (GPT-2 every product, OPT its MLP) is [N, T, D] here too.
A weight stored as [in, out] (GPT-2's Conv1D) becomes a frozen tensor `NAME.T` of shape [out, in];
`merge` turns it back.
Exact: linear(x, Wᵀ) is the same product; engines may sum it in another order.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from zofx.ir.facts import CANONICAL
from zofx.ir.patterns import row_by_row
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Loader, Program, TensorSpec, is_call, shape_of
from zofx.ir.rewrite import Editor, run_node, same_type
from zofx.ir.schema import Form, Stage, transposed
from zofx.ir.traits import Trait, has

aten = torch.ops.aten

# Python's operators on masks, in aten's own names.
SPELLINGS = {
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
}
PRODUCTS = (aten.addmm.default, aten.mm.default, aten.matmul.default)
TRANSPOSES = (aten.t.default, aten.numpy_T.default)


@dataclass(frozen=True)
class Canonicalize(Pass):
    """See the module."""

    name: ClassVar[str] = "canonicalize"
    stage = Stage.NORMALIZE
    establishes = (CANONICAL,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Respell op by op, then undo the flattening."""
        edit = Editor(program)
        for node in edit.nodes:
            if has(node, Trait.ASSERTION):
                edit.graph.erase_node(node)
            elif _is_identity(node):
                edit.replace(node, node.all_input_nodes[0])
            elif is_call(node, aten.baddbmm.default):
                _scaled_sum(edit, node)
            elif is_call(node, *PRODUCTS) and not node.kwargs:
                _product(edit, program, node, remark)
            elif has(node, Trait.CAST):
                dtype = node.meta["val"].dtype
                _respell(edit, node, aten._to_copy.default, node.args[0], dtype=dtype)
            elif is_call(node, aten.scaled_dot_product_attention.default):
                _give_heads(edit, node)
            elif node.target in SPELLINGS:
                _respell(edit, node, SPELLINGS[node.target], *node.args)
        _unflatten(edit)
        return _with_transposed_scores(edit.done())


def _respell(edit: Editor, node: fx.Node, target: Any, *args: Any, **kwargs: Any) -> None:
    """The same value by another op."""
    new = edit.call(node, target, *args, **kwargs)
    new.meta["val"] = node.meta["val"]
    edit.replace(node, new)
    edit.graph.erase_node(node)


def _is_identity(node: fx.Node) -> bool:
    if has(node, Trait.IDENTITY):
        return True
    if has(node, Trait.CAST) or has(node, Trait.SIZED):
        return _keeps_type(node)
    addend = node.args[1] if is_call(node, aten.add.Tensor) else None
    return isinstance(addend, (int, float)) and addend == 0 and _keeps_type(node)


def _keeps_type(node: fx.Node) -> bool:
    return same_type(node.meta["val"], node.all_input_nodes[0].meta["val"])


def _product(edit: Editor, program: Program, node: fx.Node, remark: Remarker) -> None:
    """A product with a weight becomes a linear; a product of activations stays one."""
    bias, x, weight = node.args if len(node.args) == 3 else (None, *node.args)
    is_vector = bias is None or len(shape_of(bias)) == 1  # type: ignore[arg-type]
    stored = _stored_by_rows(edit, program, weight, remark) if is_vector else None
    if stored is not None:
        result = edit.call(node, aten.linear.default, x, stored, bias)
    elif bias is not None:
        product = edit.call(node, aten.matmul.default, x, weight)
        result = edit.call(node, aten.add.Tensor, bias, product)
    else:
        return
    result.meta["val"] = node.meta["val"]  # a later cast asks for it
    edit.replace(node, result)
    edit.graph.erase_node(node)


def _scaled_sum(edit: Editor, node: fx.Node) -> None:
    """β·b + α·x·y by an op each; b need not be as large."""
    addend, *factors = node.args[:3]
    scales = {**dict(zip(("beta", "alpha"), node.args[3:], strict=False)), **node.kwargs}
    value: Any = edit.call(node, aten.bmm.default, *factors)
    if scales.get("alpha", 1) != 1:
        value = edit.call(node, aten.mul.Tensor, value, scales["alpha"])
    if scales.get("beta", 1) != 1:
        addend = edit.call(node, aten.mul.Tensor, addend, scales["beta"])
    result = edit.call(node, aten.add.Tensor, addend, value)
    result.meta["val"] = node.meta["val"]
    edit.replace(node, result)
    edit.graph.erase_node(node)


def _stored_by_rows(
    edit: Editor, program: Program, weight: Any, remark: Remarker
) -> fx.Node | None:
    """The tensor [out, in] that holds the right-hand side of a product, if that is a weight."""
    if _is_transpose(weight) and _is_matrix(program, weight.args[0]):
        stored: fx.Node = weight.args[0]
        return stored
    return _transposed(edit, program, weight, remark) if _is_matrix(program, weight) else None


def _is_transpose(node: Any) -> bool:
    """Of a matrix; `W.T` is traced as a permutation."""
    turns = is_call(node, aten.permute.default) and list(node.args[1]) == [1, 0]
    return turns or is_call(node, *TRANSPOSES)


def _is_matrix(program: Program, node: Any) -> bool:
    if not isinstance(node, fx.Node) or str(node.target) not in program.tensors:
        return False
    return len(shape_of(node)) == 2


def _transposed(edit: Editor, program: Program, weight: fx.Node, remark: Remarker) -> fx.Node:
    origin = program.tensors[str(weight.target)]
    name = transposed(origin.name)
    if edit.has_tensor(name):
        return edit.placeholder(name)
    spec = TensorSpec(
        name, origin.role, origin.shape[::-1], origin.dtype, origin.name, form=Form.TRANSPOSED
    )
    remark(origin.name, "applied", "stored [in, out], kept as [out, in]")
    return edit.add_tensor(spec, lambda: program.load(origin.name).t().contiguous())


def _with_transposed_scores(program: Program) -> Program:
    """A transposed weight has the transpose of its origin's sensitivities."""
    scores = {name: choice.scores for name, choice in program.choices.items() if choice.scores}
    for spec in program.tensors.values():
        if spec.form == Form.TRANSPOSED and (make := scores.get(str(spec.origin))):
            scores[spec.name] = partial(_transpose, make)
    return program.choosing("scores", scores)


def _transpose(make: Loader) -> Tensor:
    return make().t().contiguous()


def _give_heads(edit: Editor, attention: fx.Node) -> None:
    """Of shape [N, heads, T, D]: torch broadcasts the one head, engines want it for each."""
    query, *others = attention.args[:3]
    heads = shape_of(query)[1]  # type: ignore[arg-type]
    for place, one in enumerate(others, start=1):
        if shape_of(one)[1] == 1 != heads:  # type: ignore[arg-type]
            every = edit.call(attention, aten.expand.default, one, [-1, heads, -1, -1])
            every.meta["val"] = run_node(every, lambda node: node.meta["val"])
            attention.update_arg(place, every)


def _unflatten(edit: Editor) -> None:
    """Sink the views that flatten below ops on rows, until they meet their inverse."""
    source: dict[fx.Node, fx.Node] = {}  # [N·T, D] → the [N, T, D] it is the rows of
    for node in edit.nodes:
        if has(node, Trait.RESHAPE):
            of = node.all_input_nodes[0]
            if of in source and same_type(node.meta["val"], source[of].meta["val"]):
                edit.replace(node, source[of])
            elif _flattens(node):
                source[node] = of
        elif row_by_row(node, source.__contains__):
            sources = [source[a] for a in node.all_input_nodes if a in source]
            if len({str(shape_of(x)[:-1]) for x in sources}) == 1:
                source |= _sink(edit, node, source)


def _flattens(view: fx.Node) -> bool:
    """Whether a view joins all axes but the last, which it keeps."""
    of = shape_of(view.all_input_nodes[0])
    return len(shape_of(view)) == 2 < len(of) and str(shape_of(view)[1]) == str(of[-1])


def _sink(edit: Editor, node: fx.Node, source: dict[fx.Node, fx.Node]) -> dict[fx.Node, fx.Node]:
    """f(rows(x)) becomes rows(f(x)); returns it with its own source f(x)."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda a: source.get(a, a))
    whole = edit.call(node, node.target, *args, **kwargs)  # type: ignore[arg-type]
    whole.meta["val"] = run_node(whole, lambda a: a.meta["val"])
    rows = edit.call(node, aten.reshape.default, whole, [-1, shape_of(node)[-1]])
    rows.meta["val"] = node.meta["val"]
    edit.replace(node, rows)
    edit.graph.erase_node(node)
    return {rows: whole}

"""Mark where activations stop depending on tokens alone, so that the frozen prefix runs once.

    f(θ, z, C; x)  =  g(θ, z, C; cut(h(x)), x)          h: [N, T] tokens → f32[N, T, H]

h reads no trainable, key, coefficient or scored position, so h(x) is a constant of x: a run keeps
it per row. The cut is the last value [N, T, H] through which everything above sees what matrices
have made of the tokens. What else crosses (masks, rotary tables) is cheap and made again above.
Refuses a program where several values of matrices cross, or nothing is below the trainables.
Exact: `zofx.cut` is the identity.
Source: Liu et al. 2021, AutoFreeze, arXiv 2102.01386 (a cache of the activations below what
trains).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from zofx.errors import UnsupportedError
from zofx.ir.facts import CUT, HAS_TRAINABLES
from zofx.ir.ops import zofx_ops
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, is_call, shape_of
from zofx.ir.rewrite import Editor
from zofx.ir.schema import FROZEN_ROLES, TOKENS, Form, Stage

aten = torch.ops.aten


@dataclass(frozen=True)
class CutFrozenPrefix(Pass):
    """See the module."""

    name: ClassVar[str] = "cut-frozen-prefix"
    stage = Stage.PARTITION
    requires = (HAS_TRAINABLES,)
    establishes = (CUT,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Try values from the last to the first."""
        edit = Editor(program)
        _ask_tokens_for_sizes(edit)
        prefix = _Prefix(edit, program)
        if prefix.products.isdisjoint(prefix.edge):
            raise UnsupportedError(
                "there is nothing to keep between steps",
                [
                    "no matrix is multiplied by before the first trainable; leave "
                    "--train-from-layer out"
                ],
            )
        for node in reversed(edit.nodes):
            if node in prefix.products and prefix.has_tokens(node) and not prefix.around(node):
                edit.replace(node, edit.call(node.next, zofx_ops.cut.default, node))
                remark(str(node), "applied", "the frozen prefix is a function of the tokens alone")
                return edit.done()
        crossing = ", ".join(sorted(node.format_node() or str(node) for node in prefix.edge)[:3])
        raise UnsupportedError(
            "the activations below the first trainable are more than one value per token",
            [f"these cross: {crossing}, …"],
        )


class _Prefix:
    """What depends on tokens and frozen tensors alone.

    Attributes:
        made: of it, what a matrix has taken part in → its operands of that kind.
        products: of those, what was multiplied by one, not only looked up in one.
        edge: of those in `made`, what is read above.
    """

    def __init__(self, edit: Editor, program: Program) -> None:
        ids = edit.placeholder("input_ids")
        self._layout = [str(size) for size in shape_of(ids)]
        self.made: dict[fx.Node, list[fx.Node]] = {}
        self.products: set[fx.Node] = set()
        self.edge: set[fx.Node] = set()
        remainder: set[fx.Node] = set()
        for node in edit.nodes:
            operands = node.all_input_nodes
            moves = node.op == "placeholder" and not _still(node, program)
            if moves or node.op == "output" or not remainder.isdisjoint(operands):
                remainder.add(node)
                self.edge.update(a for a in operands if a in self.made)
            elif any(a in self.made or _is_matrix(a, program) for a in operands):
                self.made[node] = [a for a in operands if a in self.made]
                looked_up = is_call(node, aten.embedding.default)
                if not looked_up and (
                    any(_is_matrix(a, program) for a in operands)
                    or not self.products.isdisjoint(operands)
                ):
                    self.products.add(node)

    def has_tokens(self, node: fx.Node) -> bool:
        """Whether a value is f32[N, T, H]."""
        value = node.meta["val"]
        return (
            isinstance(value, torch.Tensor)
            and value.dtype == torch.float32
            and value.dim() == 3
            and [str(size) for size in value.shape[:2]] == self._layout
        )

    def around(self, node: fx.Node) -> bool:
        """Whether the remainder sees a matrix's work on the tokens otherwise than through it."""
        seen, rest = {node}, list(self.edge)
        while rest:
            value = rest.pop()
            if value in seen:
                continue
            if not self.made[value]:
                return True
            seen.add(value)
            rest += self.made[value]
        return False


def _ask_tokens_for_sizes(edit: Editor) -> None:
    """Read N and T off the tokens, whatever input the capture read them off."""
    ids = edit.placeholder("input_ids")
    axes = {str(size): axis for axis, size in enumerate(shape_of(ids))}
    for node in edit.graph.find_nodes(op="call_function", target=aten.sym_size.int):
        axis = axes.get(str(node.meta["val"]))
        if axis is not None:
            edit.set_args(node, ids, axis)


def _still(node: fx.Node, program: Program) -> bool:
    """Whether a placeholder is the same in every step for the same tokens."""
    spec = program.tensors.get(str(node.target))
    return node.target in TOKENS if spec is None else spec.role in FROZEN_ROLES


def _is_matrix(node: fx.Node, program: Program) -> bool:
    """Whether a node is a frozen weight of two axes or more; tables a model computes are not."""
    spec = program.tensors.get(str(node.target)) if node.op == "placeholder" else None
    return spec is not None and len(spec.shape) > 1 and spec.form != Form.COMPUTED

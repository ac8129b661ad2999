"""Let chosen tensors train whole.

    W frozen                            →   W a trainable, f32
    linear(x, W, b),  either trains     →   linear(x, W) + b
    layer_norm(x, w, b),  either trains →   layer_norm(x) · w + b

What reads a trainable is then one of few ops, each with a form for probes (`stack-probes`).
Exact up to rounding, u = 2⁻²⁴: a norm is scaled and shifted in steps of their own, so |Δy| ≤
2·u·(|y| + |y − b|); a bias is added after the sum, so |Δy| ≤ 2·γ·(|x|·|W|ᵀ + |b|) with
γ = n·u / (1 − n·u), n = in + 3.
Source: Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv 2305.17333.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx

from zofx.ir.facts import HAS_TRAINABLES, TENSORS_SELECTED
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, is_call
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role, Stage

aten = torch.ops.aten


@dataclass(frozen=True)
class SplitDense(Pass):
    """See the module."""

    name: ClassVar[str] = "split-dense"
    stage = Stage.SPLIT
    requires = (TENSORS_SELECTED,)
    establishes = (HAS_TRAINABLES,)
    destroys = (TENSORS_SELECTED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Change the role of every chosen tensor, and part what it is added to."""
        edit = Editor(program)
        trained = {edit.placeholder(name) for name in program.tensors if name in program.chosen}
        for node in edit.nodes:
            if is_call(node, aten.linear.default) and not trained.isdisjoint(node.args[1:]):
                _part_bias(edit, node)
            elif is_call(node, aten.layer_norm.default) and not trained.isdisjoint(node.args[2:4]):
                _part_norm(edit, node)
        for node in trained:
            spec = program.tensors[str(node.target)]
            edit.replace_data(
                replace(spec, role=Role.TRAINABLE, dtype=torch.float32), program.data[spec.name]
            )
        remark("trainables", "applied", f"{len(trained)} tensors train whole")
        return edit.done(chosen=frozenset())


def _part_bias(edit: Editor, linear: fx.Node) -> None:
    """linear(x, W, b) → linear(x, W) + b."""
    x, weight, bias = [*linear.args, None][:3]
    if bias is None:
        return
    after = linear.next
    product = edit.call(after, aten.linear.default, x, weight)
    edit.replace(linear, edit.call(after, aten.add.Tensor, product, bias))


def _part_norm(edit: Editor, norm: fx.Node) -> None:
    """layer_norm(x, w, b) → layer_norm(x) · w + b."""
    x, shape, weight, bias = [*norm.args, None, None][:4]
    eps = norm.args[4:]
    after = norm.next
    result = edit.call(after, aten.layer_norm.default, x, shape, None, None, *eps)
    if weight is not None:
        result = edit.call(after, aten.mul.Tensor, result, weight)
    if bias is not None:
        result = edit.call(after, aten.add.Tensor, result, bias)
    edit.replace(norm, result)

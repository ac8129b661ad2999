"""Cut the chosen coordinates out of each weight: they train as a trainable, the rest is frozen.

    linear(x, W, b)   →   linear(x, W₀, b) + sparse_linear(x, W[index], index)
    W₀ = W with zeros at index

Exact up to rounding: the same products are summed in another order, with two more additions, so
|Δy| ≤ 2·γ·(|x|·|W|ᵀ + |b|) with γ = n·u / (1 − n·u), n = in + 3, u = 2⁻²⁴.
HostTheta are f32 whatever the checkpoint holds.
Source: Guo et al. 2024, arXiv 2406.02913, listing 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zofx.ir.facts import COORDINATES_SELECTED, HAS_TRAINABLES
from zofx.ir.patterns import linears_of
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, TensorSpec
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Form, Role, Stage

aten = torch.ops.aten
sparse_linear = torch.ops.zofx.sparse_linear.default


@dataclass(frozen=True)
class SplitSparse(Pass):
    """See the module."""

    name: ClassVar[str] = "split-sparse"
    stage = Stage.SPLIT
    requires = (COORDINATES_SELECTED,)
    establishes = (HAS_TRAINABLES,)
    destroys = (COORDINATES_SELECTED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rewrite every linear whose weight has an index."""
        edit = Editor(program)
        for name, choice in program.choices.items():
            if choice.entries is not None:
                _split(edit, program, name, choice.entries)
                remark(name, "applied", f"slice of {choice.entries.numel()}")
        return edit.done().choosing("entries", {})


def _split(edit: Editor, program: Program, name: str, positions: Tensor) -> None:
    """Two tensors more, other data for the weight, one more term in each of its linears."""
    spec, shape = program.tensors[name], tuple(positions.shape)
    index = edit.add_tensor(
        TensorSpec(f"{name}.index", Role.INDEX, shape, torch.int32, name, form=Form.INDEX),
        lambda: positions,
    )
    values = edit.add_tensor(
        TensorSpec(f"{name}.slice", Role.TRAINABLE, shape, torch.float32, name, form=Form.SLICE),
        lambda: _cut(program.load(name), positions),
    )
    edit.replace_data(spec, lambda: _rest(program.load(name), positions))
    out, width = spec.shape
    columns = torch.unique(positions % width).numel()
    deepest = int(torch.unique(positions // width, return_counts=True)[1].max())
    for linear in linears_of(edit.graph, name):
        after = linear.next
        extra = edit.call(
            after, sparse_linear, linear.args[0], values, index, out, columns, deepest
        )
        edit.replace(linear, edit.call(after, aten.add.Tensor, linear, extra))


def _cut(weight: Tensor, index: Tensor) -> Tensor:
    return weight.flatten()[index.long()].float()


def _rest(weight: Tensor, index: Tensor) -> Tensor:
    rest = weight.clone()
    rest.view(-1)[index.long()] = 0
    return rest

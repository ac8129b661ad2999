"""Cut the chosen coordinates out of each weight: the rest is frozen, they become a slice that trains.

    linear(x, W, b)   →   linear(x, W₀, b) + sparse_linear(x, W[index], index)      W₀ = W with zeros at index

Exact up to the rounding of one more addition: |Δy| ≤ (in + 2)·u·(|x|·|W|ᵀ) with u = 2⁻²⁴, since the same products are summed in another order.
Slices are f32 whatever the checkpoint holds.
Source: Guo et al. 2024, arXiv 2406.02913, listing 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zofx.facts import SELECTED, SLICED
from zofx.matching import linears_of
from zofx.pipeline import Pass, Remarker
from zofx.program import Program, Role, TensorSpec
from zofx.rewrite import Editor

aten = torch.ops.aten
sparse_linear = torch.ops.zofx.sparse_linear.default


@dataclass(frozen=True)
class SplitSparse(Pass):
    """See the module."""

    name: ClassVar[str] = "split-sparse"
    requires = (SELECTED,)
    establishes = (SLICED,)
    destroys = (SELECTED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rewrite every linear whose weight has an index."""
        edit = Editor(program)
        for name, positions in program.selection.items():
            spec = program.tensors[name]
            shape = tuple(positions.shape)
            index = edit.add_tensor(
                TensorSpec(f"{name}.index", Role.INDEX, shape, torch.int32, name, form="index"),
                lambda i=positions: i,
            )
            values = edit.add_tensor(
                TensorSpec(f"{name}.slice", Role.SLICE, shape, torch.float32, name, form="slice"),
                lambda n=name, i=positions: _cut(program.load(n), i),
            )
            edit.replace_data(spec, lambda n=name, i=positions: _rest(program.load(n), i))
            for linear in linears_of(edit.graph, name):
                after = linear.next
                extra = edit.call(after, sparse_linear, linear.args[0], values, index, spec.shape[0])
                edit.replace(linear, edit.call(after, aten.add.Tensor, linear, extra))
            remark(name, "applied", f"slice of {positions.numel()}")
        return edit.done(selection={})


def _cut(weight: Tensor, index: Tensor) -> Tensor:
    return weight.flatten()[index.long()].float()


def _rest(weight: Tensor, index: Tensor) -> Tensor:
    rest = weight.clone()
    rest.view(-1)[index.long()] = 0
    return rest

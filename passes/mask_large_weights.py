"""Let only small weights move, as they are now: a mask that is made of θ and stored nowhere.

    z   →   z ⊙ [|θ| ≤ h]        h = the `fraction` quantile of |W| of the pretrained matrix

The threshold is fixed, the mask is not: a weight that grows over it rests, one that shrinks moves.
One-dimensional trainables, a few numbers each, have no threshold of their own and move whole.
Exact: a product with 0 or 1.
Source: Liu et al. 2024, Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM
Fine-Tuning, arXiv 2402.15751 (which calls 1 − fraction the sparsity).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zofx.errors import PipelineError
from zofx.ir.directions import directions_of
from zofx.ir.facts import PERTURBED
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Stage

zofx = torch.ops.zofx


@dataclass(frozen=True)
class MaskLargeWeights(Pass):
    """See the module.

    Attributes:
        fraction: how much of each matrix is small, in (0, 1].
    """

    name: ClassVar[str] = "mask-large-weights"
    stage = Stage.PERTURB
    serves: ClassVar[dict[str, str]] = {"fraction": "fraction"}
    requires = (PERTURBED,)
    fraction: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise PipelineError(f"mask-large-weights.fraction={self.fraction}: must be in (0, 1]")

    def run(self, program: Program, remark: Remarker) -> Program:
        """Mask the direction of every matrix."""
        edit = Editor(program)
        masked = 0
        for name, direction in list(directions_of(edit.graph)):
            if len(program.tensors[name].shape) < 2:
                continue
            limit = threshold(program.load(name), self.fraction)
            values = edit.placeholder(name)
            small = edit.call(direction.next, zofx.mask_small.default, direction, values, limit)
            edit.replace(direction, small)
            masked += 1
        remark("trainables", "applied", f"{masked} matrices, {self.fraction:g} of each is small")
        return edit.done()


def threshold(weight: Tensor, fraction: float) -> float:
    """The largest of the `fraction` smallest magnitudes: that many entries are at or below it."""
    magnitudes = weight.detach().abs().flatten()
    count = max(1, round(fraction * magnitudes.numel()))
    return float(magnitudes.kthvalue(count).values)

"""Choose evenly spaced coordinates of every matrix, as if all weights were equally sensitive.

    index(W) = ⌊i·n/k⌋,  i = 0 … k − 1        n entries of W, k = round(fraction · n)

Needs no scores, so `zofx plan` takes it in place of `select-sensitive` where there are none. Ranks
choose as many, but crowd into few matrices, and there into few columns.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from zofx.errors import UsageError
from zofx.ir.facts import CANONICAL, COORDINATES_SELECTED
from zofx.ir.patterns import trainable_weights
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program
from zofx.ir.schema import Stage


@dataclass(frozen=True)
class SelectEvenly(Pass):
    """See the module.

    Attributes:
        fraction: how much of the eligible weights trains.
    """

    name: ClassVar[str] = "select-evenly"
    stage = Stage.SELECT
    serves: ClassVar[dict[str, str]] = {"fraction": "fraction"}
    requires = (CANONICAL,)
    establishes = (COORDINATES_SELECTED,)
    fraction: float = 0.001

    def run(self, program: Program, remark: Remarker) -> Program:
        """The same fraction of each matrix, in equal steps."""
        selection = {}
        for name in trainable_weights(program, remark):
            size = program.tensors[name].size
            count = round(self.fraction * size)
            if count:
                selection[name] = (torch.arange(count) * size // count).to(torch.int32)
        if not selection:
            raise UsageError(
                f"{self}: that fraction of every matrix rounds to none, and nothing would train; "
                "take a larger one"
            )
        return program.choosing("entries", selection)

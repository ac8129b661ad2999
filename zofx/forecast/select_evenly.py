"""Choose the coordinates to train as if all weights were equally sensitive: what a plan assumes.

    index(W) = every (1/fraction)-th position of W

Stands in for `select-sensitive` where there are no scores. Real choices crowd into few matrices,
and there into few columns: the same number trains, other matrices hold them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from zofx.errors import UsageError
from zofx.ir.facts import CANONICAL, COORDINATES_SELECTED
from zofx.ir.patterns import trainable_weights
from zofx.ir.pipeline import Pass, Pipeline, Remarker
from zofx.ir.program import Program

REPLACED = "select-sensitive"


@dataclass(frozen=True)
class SelectSpread(Pass):
    """See the module.

    Attributes:
        fraction: how much of the eligible weights trains.
    """

    name: ClassVar[str] = "select-spread"
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
        return program.with_(selection=selection)


def without_scores(pipeline: Pipeline) -> Pipeline:
    """The pipeline with the pass that ranks weights replaced."""
    return Pipeline(
        tuple(
            SelectSpread(getattr(item, "fraction")) if item.name == REPLACED else item  # noqa: B009
            for item in pipeline.passes
        )
    )

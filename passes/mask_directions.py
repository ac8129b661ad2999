"""Perturb a random part of each trainable, the same part for some steps.

    z   →   z ⊙ m        m = [16 random bits < keep · 2¹⁶] of (seed, step // interval, slice)

scope=trainable keeps the same share of every trainable. scope=global keeps of each the share of its
weights that are among the `keep` largest magnitudes of all: which entries is random all the same.
Exact: a product with 0 or 1. Each entry stays with probability keep, rounded to 2⁻¹⁶.
Source: Zhang et al. 2024, Revisiting Zeroth-Order Optimization for Memory-Efficient LLM
Fine-Tuning, arXiv 2402.11592, §5 (sparse gradients). Its public code draws the mask as normal <
ratio, which is another share; here the share is the one that is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from zofx.errors import PipelineError
from zofx.ir.directions import directions_of, draw_of
from zofx.ir.facts import PERTURBED
from zofx.ir.ops import zofx_ops
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.ir.schema import KEYS, Stage
from zofx.zo.random.direction_spec import KEEP_ALL

SAMPLED = 10_000_000
"""Magnitudes looked at for a quantile over all weights."""


@dataclass(frozen=True)
class MaskDirections(Pass):
    """See the module.

    Attributes:
        keep: share of the entries that are perturbed, in (0, 1].
        interval: steps that a mask holds; 0 for all of the run.
        scope: the same share of each trainable, or more of those with large weights.
    """

    name: ClassVar[str] = "mask-directions"
    stage = Stage.PERTURB
    requires = (PERTURBED,)
    keep: float = 0.8
    interval: int = 0
    scope: Literal["trainable", "global"] = "trainable"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or self.interval < 0:
            raise PipelineError(
                f"mask-directions{{keep={self.keep} interval={self.interval}}}: keep must be in "
                "(0, 1] and interval a number of steps"
            )

    def run(self, program: Program, remark: Remarker) -> Program:
        """Mask the draw of every trainable, whatever is made of it afterwards."""
        edit = Editor(program)
        shares = self._shares(program)
        keys = edit.placeholder(KEYS)
        for name, direction in list(directions_of(edit.graph)):
            draw, kept = draw_of(direction), round(shares[name] * KEEP_ALL)
            op = zofx_ops.mask_random.default
            mask = edit.call(draw.next, op, draw, keys, name, kept, self.interval)
            edit.replace(draw, mask)
        spread = f"{min(shares.values()):.3g} to {max(shares.values()):.3g}"
        period = f"for {self.interval} steps" if self.interval else "for the run"
        remark("trainables", "applied", f"{len(shares)} trainables, {spread} of each, {period}")
        return edit.done()

    def _shares(self, program: Program) -> Mapping[str, float]:
        """How much of each trainable is kept."""
        names = [spec.name for spec in program.trainables]
        if self.scope == "trainable":
            return dict.fromkeys(names, self.keep)
        limit = _quantile(program, names, 1 - self.keep)
        return {name: float((program.load(name).abs() >= limit).float().mean()) for name in names}


def _quantile(program: Program, names: list[str], at: float) -> float:
    """A quantile of the magnitudes of all trainables, from evenly spaced entries of each."""
    total = sum(program.tensors[name].size for name in names)
    stride = -(-total // SAMPLED)
    sample = torch.cat([program.load(name).flatten()[::stride].abs() for name in names])
    place = min(sample.numel(), max(1, round(at * sample.numel()) + 1))
    return float(sample.kthvalue(place).values)

"""Perturb one group of trainables at a time: each has a projected gradient of its own.

    z   →   z · [it is the turn of the trainable's group]

by=step: step t moves group t mod G, on a batch that is kept for G steps: the next group sees what
the last one did (Gauss–Seidel). by=query: the G directions of a step are one per group, and all
move at its end (Jacobi). Groups go by name: level=layer takes what has the same number in its name
together, and what has none by its module; level=module takes the parameters of one module.
Exact: a product with 0 or 1.
Source: Zhang et al. 2024, Revisiting Zeroth-Order Optimization for Memory-Efficient LLM
Fine-Tuning, arXiv 2402.11592, §5 (block-wise). Its public code reuses one seed for every block of a
step; here the directions of different trainables are independent.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from zofx.ir.directions import directions_of, draw_of
from zofx.ir.facts import PERTURBED
from zofx.ir.ops import zofx_ops
from zofx.ir.patterns import block_of
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.ir.schema import KEYS, Stage


@dataclass(frozen=True)
class AlternateBlocks(Pass):
    """See the module.

    Attributes:
        by: what counts the turns.
        level: what makes a group.
    """

    name: ClassVar[str] = "alternate-blocks"
    stage = Stage.PERTURB
    requires = (PERTURBED,)
    by: Literal["step", "query"] = "step"
    level: Literal["layer", "module"] = "layer"

    def run(self, program: Program, remark: Remarker) -> Program:
        """Let the draw of every trainable wait for its turn, whatever is made of it afterwards."""
        edit = Editor(program)
        names = [group_of(spec.origin or spec.name, self.level) for spec in program.trainables]
        groups = list(dict.fromkeys(names))
        turn = {
            spec.name: groups.index(g) for spec, g in zip(program.trainables, names, strict=True)
        }
        keys, count = edit.placeholder(KEYS), len(groups)
        for name, direction in list(directions_of(edit.graph)):
            draw, op = draw_of(direction), zofx_ops.mask_turn.default
            waits = edit.call(draw.next, op, draw, keys, turn[name], count, self.by)
            edit.replace(draw, waits)
        remark("trainables", "applied", f"{len(turn)} trainables in {count} groups, by {self.by}")
        return edit.done()


def group_of(name: str, level: str) -> str:
    """The block that a parameter belongs to: "model.layers.3", or its module."""
    module = re.sub(r"\.(weight|bias)\b.*$", "", name)
    block = block_of(name) if level == "layer" else None
    return f"{block[0]}.{block[1]}" if block else module

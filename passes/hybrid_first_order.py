"""Leave the last blocks to exact gradients; everything before them trains by probes, if anything.

    trainables of the last L blocks, and of what follows them   →   trained by exact gradients

Those tensors are read as they are, in every probe. Their gradients are ops of a backward graph
(`reverse-mode`) that keeps the activations of these blocks only, so memory grows with L, not with
the model. With L = all nothing is left for probes.
Exact: the program at C = 0 is the one before.
Source: Zhang et al. 2024, Revisiting Zeroth-Order Optimization for Memory-Efficient LLM
Fine-Tuning, arXiv 2402.11592, §5 (hybrid training); Tan et al. 2025, ElasticZO, arXiv 2501.04287.
"""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from zofx.errors import PipelineError
from zofx.ir.facts import EXACT, HAS_TRAINABLES
from zofx.ir.patterns import block_of
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, placeholders
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role, Stage


@dataclass(frozen=True)
class HybridFirstOrder(Pass):
    """See the module.

    Attributes:
        layers: L, how many of the last numbered blocks, or "all" for every trainable.
    """

    name: ClassVar[str] = "hybrid-first-order"
    stage = Stage.PERTURB
    requires = (HAS_TRAINABLES,)
    establishes = (EXACT.undone_by("take a method of probes alone"),)
    layers: str = "1"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d*|all", self.layers):
            raise PipelineError(
                f"hybrid-first-order.layers={self.layers}: a number of blocks, from 1, or all"
            )

    def run(self, program: Program, remark: Remarker) -> Program:
        """Change the role of the trainables from the first of those blocks on."""
        if self.layers == "all":
            return self._give(program, [spec.name for spec in program.trainables], remark)
        of = {s.name: block_of(s.origin or s.name) for s in program.trainables}
        block_of_name = {name: block and block[1] for name, block in of.items()}
        blocks = sorted({block for block in block_of_name.values() if block is not None})
        count = int(self.layers)
        if count >= len(blocks):
            raise PipelineError(
                f"hybrid-first-order.layers={count}: {len(blocks)} numbered blocks train, and at "
                "least one is left for probes; for exact gradients alone say layers=all "
                "(--exact-layers all)"
            )
        first = blocks[-count]
        order = {node: place for place, node in enumerate(program.graph.nodes)}
        used = {
            str(node.target): min(order[user] for user in node.users)
            for node in placeholders(program.graph)
            if node.target in block_of_name
        }
        begin = min(used[name] for name, block in block_of_name.items() if block == first)
        return self._give(program, [name for name in block_of_name if used[name] >= begin], remark)

    def _give(self, program: Program, exact: list[str], remark: Remarker) -> Program:
        """Change the role of some tensors."""
        edit = Editor(program)
        for name in exact:
            spec = program.tensors[name]
            edit.replace_data(replace(spec, role=Role.EXACT), program.data[name])
        size = sum(program.tensors[name].size for name in exact)
        whole = len(program.trainables)
        remark("trainables", "applied", f"{len(exact)} of {whole} tensors, {size} weights")
        return edit.done()

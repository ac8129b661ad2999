"""Leave the last blocks to exact gradients; everything before them trains by probes.

    trainables of the last L blocks, and of what follows them   →   trained by backpropagation

Those tensors are read as they are, in every probe. A backward pass through the last blocks keeps
their activations only, so memory grows with L, not with the model. No inference engine has a
backward pass: artifacts with such tensors run on the torch runtime.
Exact: the program at C = 0 is the one before.
Source: Zhang et al. 2024, Revisiting Zeroth-Order Optimization for Memory-Efficient LLM
Fine-Tuning, arXiv 2402.11592, §5 (hybrid training); Tan et al. 2025, ElasticZO, arXiv 2501.04287.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from zofx.errors import PipelineError
from zofx.ir.facts import EXACT, HAS_TRAINABLES, ROUNDED, Conflict
from zofx.ir.patterns import block_of
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, placeholders
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role, Stage


@dataclass(frozen=True)
class HybridFirstOrder(Pass):
    """See the module.

    Attributes:
        layers: L, how many of the last numbered blocks.
    """

    name: ClassVar[str] = "hybrid-first-order"
    stage = Stage.PERTURB
    requires = (HAS_TRAINABLES,)
    establishes = (EXACT.undone_by("take a method of probes alone"),)
    conflicts = (
        Conflict(
            ROUNDED,
            "exact gradients pass through its rounding, which has no derivative: "
            "take a method of probes alone",
        ),
    )
    layers: int = 1

    def run(self, program: Program, remark: Remarker) -> Program:
        """Change the role of the trainables from the first of those blocks on."""
        of = {s.name: block_of(s.origin or s.name) for s in program.trainables}
        found = {name: block and block[1] for name, block in of.items()}
        blocks = sorted({block for block in found.values() if block is not None})
        if not 0 < self.layers < len(blocks):
            raise PipelineError(
                f"hybrid-first-order.layers={self.layers}: the model has {len(blocks)} numbered "
                "blocks; "
                "at least one goes by each way"
            )
        first = blocks[-self.layers]
        edit = Editor(program)
        order = {node: place for place, node in enumerate(edit.nodes)}
        used = {
            str(node.target): min(order[user] for user in node.users)
            for node in placeholders(edit.graph)
            if node.target in found
        }
        begin = min(used[name] for name, block in found.items() if block == first)
        exact = [name for name in found if used[name] >= begin]
        for name in exact:
            spec = program.tensors[name]
            edit.replace_data(replace(spec, role=Role.EXACT), program.data[name])
        size = sum(program.tensors[name].size for name in exact)
        remark("trainables", "applied", f"{len(exact)} of {len(found)} tensors, {size} weights")
        return edit.done()

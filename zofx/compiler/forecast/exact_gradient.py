"""What exact gradients take: a forward graph that returns residuals, and a backward graph.

    joint ─partition─▶ forward, backward          rows of a part = positions of a part / T
    stays    = weights of the backward graph (and of the forward graph, beside probes)
    comes    = RESIDUE · residuals + order · max(peak of the forward without them, of the backward)
    time     = products of both graphs over the whole batch

A batch goes through in parts (`zofx.runs.exact_gradient`), so memory does not grow with its rows.
On PyTorch both graphs read the same weights; an engine holds each graph's own, packed.
"""

from dataclasses import replace
from typing import Final

from zofx.compiler.forecast.engine_memory import Footprint
from zofx.compiler.forecast.op_costs import Axes, Shapes
from zofx.ir.partition import split
from zofx.ir.program import Program, results_of
from zofx.ir.residuals import partition
from zofx.ir.schema import FROZEN_ROLES, Role
from zofx.session import RESIDUAL_POSITIONS

RESIDUE: Final = 1.5
"""Bytes resident per byte of residuals: blocks of an engine's arena have other sizes. Measured on
ONNX Runtime: SmolLM2-135M, LoRA from layers 0, 15 and 26, one step of 24 and of 192 positions."""


class ExactGradientCost:
    """The two graphs on an engine.

    Args:
        joint: scores and gradients, of `reverse-mode`.
        axes: of a step; `rows` is the batch.
        runtime: "ort" or "torch".

    Attributes:
        rows: of a part.
        trained: bytes of what trains by exact gradients.
        residuals: bytes that a part's forward leaves for its backward.
        multiply_adds: of the products of a step.
        integer: how many of these are of 8-bit integers.
    """

    def __init__(self, joint: Program, axes: Axes, runtime: str) -> None:
        _, remainder = split(joint)
        graphs = partition(remainder)
        self.rows = min(axes.rows, max(1, RESIDUAL_POSITIONS // axes.tokens))
        of_part = replace(axes, rows=self.rows, probes=1)
        self.forward, self.backward = (
            Footprint(graph, Shapes(graph, of_part), runtime) for graph in graphs
        )
        self.trained = sum(s.nbytes for s in joint.tensors.values() if s.role is Role.EXACT)
        _, *residuals = results_of(graphs[0].graph)
        self.residuals = sum(map(self.forward.shapes.bytes, residuals))
        work = [Footprint(graph, Shapes(graph, replace(of_part, rows=axes.rows)), runtime)
                for graph in graphs]  # fmt: skip
        self.multiply_adds = sum(each.multiply_adds for each in work)
        self.integer = sum(each.integer for each in work)
        self.moved = sum(each.moved() for each in work)

    def weights(self, probed: bool) -> int:
        """Bytes of weights that an engine holds beside those of the scores' own graph."""
        if not self.forward.engine.fed:
            return 0
        graphs = (self.forward, self.backward) if probed else (self.backward,)
        return sum(graph.still(*FROZEN_ROLES) + graph.copies() for graph in graphs)

    def passing(self) -> int:
        """The most bytes that a part takes."""
        beside = self.forward.peak() - self.residuals
        order = self.forward.order
        return round(RESIDUE * self.residuals + order * max(beside, self.backward.peak()))

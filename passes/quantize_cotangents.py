"""Multiply cotangents as 8-bit integers, a step of rounding for each row of them.

    dx = dy·Ŵ,  Ŵ = s·codes   →   dx = t·(Q(dy ∘ s)·codesᵀ)
    Q(v) = round(v / t),  t = max |v| / 127 of each row of v

The scales of Ŵ lie along the axis that is summed over, so they go into the cotangents first.
Meaning is approximate: an entry of dx is off by at most t/2 · Σ_o |codes[i, o]|, and by what f32
rounds. The forward graph is not touched.
Source: rounding by rows, Yao et al. 2022 (ZeroQuant), arXiv 2206.01861; of cotangents, Banner et
al. 2018, Scalable Methods for 8-bit Training of Neural Networks, arXiv 1805.11046.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from zofx.ir.facts import QUANTIZED, ROW_SCALED
from zofx.ir.ops import zofx_ops
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Stage

aten = torch.ops.aten


@dataclass(frozen=True)
class QuantizeCotangents(Pass):
    """See the module."""

    name: ClassVar[str] = "quantize-cotangents"
    stage = Stage.LOWER
    requires = (QUANTIZED, ROW_SCALED)
    exact = False

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rewrite every product of cotangents with a matrix in int8-row."""
        edit = Editor(program)
        products = edit.graph.find_nodes(
            op="call_function", target=zofx_ops.linear_int8_transpose.default
        )
        for node in list(products):
            self._rewrite(edit, node)
        remark("products", "applied", f"{len(products)} of cotangents, as integers")
        return edit.done()

    def _rewrite(self, edit: Editor, node: fx.Node) -> None:
        dy, codes, scales = node.args
        scaled = edit.call(node, aten.mul.Tensor, dy, scales)
        steps = edit.call(node, zofx_ops.row_scales.default, scaled)
        levels = edit.call(node, zofx_ops.round_rows.default, scaled, steps)
        times = edit.call(node, zofx_ops.linear_rounded_transpose.default, levels, steps, codes)
        edit.replace(node, times)

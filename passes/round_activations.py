"""Multiply integers: round what enters a frozen matrix to 8 bits, differences between probes apart.

    linear_int8(x, Ŵ, b)   →   y_0 = Q(x_0)·Ŵᵀ,   y_p = y_0 + Q(x_p − x_0)·Ŵᵀ,   + b
    Q(v) = s·round(v / s),   s = max |v| / 127 of each row of v

Meaning is approximate: |Q(v) − v| ≤ max |v| / 254 elementwise. Rounded on their own, two probes
differ by rounding errors as large as x, and ε·z drowns in them. Here the base is rounded once for
all probes and the difference in steps of its own size, so the error of y_p − y_0 is relative to the
difference itself: the network is a rounded one, and its slopes survive (benchmarks/precision.py).
Products of 8-bit integers are several times faster than those of floats where the processor has
instructions for them (VNNI). x meets the graph in f32, so slices, norms and attention stay whole.
Skips, with a remark: a product whose input has its probes elsewhere than in its first axis.
Source: rounding by rows, Yao et al. 2022 (ZeroQuant), arXiv 2206.01861; differences between probes
are zofx's own.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from zofx.errors import UsageError
from zofx.facts import QUANTIZED, STACKED
from zofx.pipeline import Pass, Remarker
from zofx.program import COEFFICIENTS, Program, shape_of
from zofx.rewrite import Editor

aten = torch.ops.aten
zofx = torch.ops.zofx


@dataclass(frozen=True)
class RoundActivations(Pass):
    """See the module."""

    name: ClassVar[str] = "round-activations"
    requires = (QUANTIZED, STACKED)
    exact = False

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rewrite every product with a matrix in int8-row."""
        edit = Editor(program)
        rounding = _Rounding(edit)
        linears = edit.graph.find_nodes(op="call_function", target=zofx.linear_int8.default)
        if not linears:
            raise UsageError(
                "round-activations found no matrix in int8-row, the format whose products are "
                "products of integers: --set quantize-frozen.format=int8-row"
            )
        count = 0
        for linear in linears:
            x, codes, *_ = linear.args
            if rounding.axes_of_probes(x) in ([], [0]):
                rounding.rewrite(linear)
                count += 1
            else:
                why = "its input has probes in another axis than its first: it stays in f32"
                remark(str(program.tensors[codes.target].origin), "skipped", why)
        apart = len(rounding.rounded)
        remark("linears", "applied", f"{count} products of {apart} rounded activations")
        return edit.done()


class _Rounding:
    """One walk over the products; what several of them read is rounded once.

    Attributes:
        rounded: activation → its codes and the steps of these.
    """

    def __init__(self, edit: Editor) -> None:
        self.rounded: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
        self._edit = edit
        self._coefficients = edit.placeholder(COEFFICIENTS)
        (self._probes,) = shape_of(self._coefficients)[0].node.expr.free_symbols

    def rewrite(self, linear: fx.Node) -> None:
        """Round, multiply, add up."""
        x, codes, scales, bias = linear.args
        assert isinstance(x, fx.Node)
        stacked = bool(self.axes_of_probes(x))
        if x not in self.rounded:
            self.rounded[x] = self._round(x, linear, stacked)
        call = self._edit.call
        y = call(linear, zofx.linear_rounded.default, *self.rounded[x], codes, scales)
        if stacked:
            y = call(linear, zofx.sum_probes.default, y, self._coefficients)
        if bias is not None:
            y = call(linear, aten.add.Tensor, y, bias)
        self._edit.replace(linear, y)

    def _round(self, x: fx.Node, before: fx.Node, stacked: bool) -> tuple[fx.Node, fx.Node]:
        call = self._edit.call
        if stacked:
            x = call(before, zofx.difference_probes.default, x, self._coefficients)
        steps = call(before, zofx.row_scales.default, x)
        return call(before, zofx.round_rows.default, x, steps), steps

    def axes_of_probes(self, x: fx.Node) -> list[int]:
        """Where a size counts P: none above the first slice, the rows below it."""
        return [
            axis
            for axis, size in enumerate(shape_of(x))
            if isinstance(size, torch.SymInt) and self._probes in size.node.expr.free_symbols
        ]

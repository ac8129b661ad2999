"""Multiply integers: round what enters a frozen matrix to 8 bits, differences between probes apart.

    linear_int8(x, Ŵ, b)   →   y_0 = Q(x_0)·Ŵᵀ,   y_p = y_0 + Q(x_p − x_0)·Ŵᵀ,   + b
    Q(v) = s·round(v / s),   s = max |v| / 127 of each row of v
    values of an attention:   Q(v) + Q′(v − Q(v)) in place of Q(v),   Q′ of step s / 254

Meaning is approximate: |Q(v) − v| ≤ max |v| / 254 elementwise, ≤ max |v| / 254² with both terms.
Rounded on their own, two probes differ by rounding errors as large as x, and ε·z drowns in them.
Here the base is rounded once for all probes and the difference in steps of its own size, so the
error of y_p − y_0 is relative to the difference itself: the network is a rounded one, and its
slopes survive (benchmarks/precision.py). They suffer most from what becomes values: that has two
terms, by a second product with a matrix that is small where heads share it.
Products of 8-bit integers are several times faster than those of floats where the processor has
instructions for them (VNNI). x meets the graph in f32, so slices, norms and attention stay whole.
Skips, with a remark: a product whose input has its probes elsewhere than in its first axis.
Source: rounding by rows, Yao et al. 2022 (ZeroQuant), arXiv 2206.01861; differences between probes
and the second term are zofx's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import fx

from zofx.errors import UsageError
from zofx.facts import QUANTIZED, STACKED
from zofx.matching import summands
from zofx.ops.rounding import FINER
from zofx.pipeline import Pass, Remarker
from zofx.program import COEFFICIENTS, Program, shape_of
from zofx.rewrite import Editor

aten = torch.ops.aten
zofx = torch.ops.zofx

Term: TypeAlias = tuple[fx.Node, fx.Node]
"""Codes and the steps of their rows."""


@dataclass(frozen=True)
class RoundActivations(Pass):
    """See the module.

    Attributes:
        values: terms of what becomes values of an attention, 1 or 2.
    """

    name: ClassVar[str] = "round-activations"
    requires = (QUANTIZED, STACKED)
    exact = False
    values: int = 2

    def __post_init__(self) -> None:
        if self.values not in (1, 2):
            raise UsageError(
                f"round-activations{{values={self.values}}}: what becomes values of an attention "
                "has 1 or 2 terms"
            )

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rewrite every product with a matrix in int8-row."""
        edit = Editor(program)
        rounding = _Rounding(edit, values_of(edit.graph) if self.values == 2 else set())
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
        apart, finer = len(rounding.rounded), len(rounding.finer)
        twice = f", {finer} of them in two terms" if finer else ""
        remark("linears", "applied", f"{count} products of {apart} rounded activations{twice}")
        return edit.done()


def values_of(graph: fx.Graph) -> set[fx.Node]:
    """The products with matrices in int8-row that values of an attention are sums of."""
    calls = graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default)
    values = (call.args[2] for call in calls)
    return {made for value in values for made in summands(value, zofx.linear_int8.default)}


class _Rounding:
    """One walk over the products; what several of them read is rounded once.

    Args:
        edit: the program.
        twice: the products whose input has two terms.

    Attributes:
        rounded: activation → what is rounded of it, and its term.
        finer: activation → its second term.
    """

    def __init__(self, edit: Editor, twice: set[fx.Node]) -> None:
        self.rounded: dict[fx.Node, tuple[fx.Node, Term]] = {}
        self.finer: dict[fx.Node, Term] = {}
        self._edit, self._twice = edit, twice
        self._coefficients = edit.placeholder(COEFFICIENTS)
        (self._probes,) = shape_of(self._coefficients)[0].node.expr.free_symbols

    def rewrite(self, linear: fx.Node) -> None:
        """Round, multiply, add up."""
        x, codes, scales, bias = linear.args
        assert isinstance(x, fx.Node)
        call = self._edit.call
        products = (
            call(linear, zofx.linear_rounded.default, *term, codes, scales)
            for term in self._terms(x, linear)
        )
        y = next(products)
        for finer in products:
            y = call(linear, aten.add.Tensor, y, finer)
        if self.axes_of_probes(x):
            y = call(linear, zofx.sum_probes.default, y, self._coefficients)
        if bias is not None:
            y = call(linear, aten.add.Tensor, y, bias)
        self._edit.replace(linear, y)

    def _terms(self, x: fx.Node, linear: fx.Node) -> Iterator[Term]:
        """Of what a product reads."""
        call = self._edit.call
        if x not in self.rounded:
            whole = x
            if self.axes_of_probes(x):
                whole = call(linear, zofx.difference_probes.default, x, self._coefficients)
            steps = call(linear, zofx.row_scales.default, whole)
            self.rounded[x] = whole, self._rounded(whole, steps, linear)
        whole, (codes, steps) = self.rounded[x]
        yield codes, steps
        if linear in self._twice:
            if x not in self.finer:
                left = call(linear, zofx.left_over.default, whole, codes, steps)
                steps = call(linear, aten.mul.Tensor, steps, FINER)
                self.finer[x] = self._rounded(left, steps, linear)
            yield self.finer[x]

    def _rounded(self, x: fx.Node, steps: fx.Node, before: fx.Node) -> Term:
        return self._edit.call(before, zofx.round_rows.default, x, steps), steps

    def axes_of_probes(self, x: fx.Node) -> list[int]:
        """Where a size counts P: none above the first slice, the rows below it."""
        return [
            axis
            for axis, size in enumerate(shape_of(x))
            if isinstance(size, torch.SymInt) and self._probes in size.node.expr.free_symbols
        ]

"""Multiply integers: round what enters a frozen matrix to 8 bits, differences between probes apart.

    linear_int8(x, Ŵ, b)   →   y_0 = Q(x_0)·Ŵᵀ,   y_p = y_0 + Q(x_p − x_0)·Ŵᵀ,   + b
    Q(v) = s·round(v / s),   s = max |v| / 127 of each row of v
    values of an attention:   y_0 = Q(x_0)·Ŵᵀ + Q′(x_0 − Q(x_0))·Ŵᵀ,   Q′ of step s / 254

Meaning is approximate: |Q(v) − v| ≤ max |v| / 254 elementwise, ≤ max |v| / 254² with both terms.
Rounded on their own, two probes differ by rounding errors as large as x, and ε·z drowns in them.
Here the base is rounded once for all probes and the difference in steps of its own size, so the
error of y_p − y_0 is relative to the difference itself: the network is a rounded one, and its
slopes survive (benchmarks/precision.py). They suffer most from the base of what becomes values:
that has two terms, which costs as many rows again as the base has, in that product alone.
Products of 8-bit integers are several times faster than those of floats where the processor has
instructions for them (VNNI). x meets the graph in f32, so slices, norms and attention stay whole.
Skips, with a remark: a product whose input has its probes elsewhere than in its first axis.
Source: rounding by rows, Yao et al. 2022 (ZeroQuant), arXiv 2206.01861; differences between probes
and the second term are zofx's own.
"""

from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, ClassVar, TypeAlias

import torch
from torch import fx

from zofx.errors import UsageError
from zofx.facts import QUANTIZED, STACKED
from zofx.matching import summands
from zofx.ops.rounding import FINER
from zofx.pipeline import Pass, Remarker
from zofx.program import COEFFICIENTS, Program, placeholders, shape_of
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
        found = (n for n in placeholders(edit.graph) if n.target == COEFFICIENTS)
        self._coefficients = next(found, None)
        self._probes = set() if self._coefficients is None else _symbols(self._coefficients, 0)

    def rewrite(self, linear: fx.Node) -> None:
        """Round, multiply, add up."""
        x, codes, scales, bias = linear.args
        assert isinstance(x, fx.Node)
        call, stacked = self._edit.call, bool(self.axes_of_probes(x))
        terms = self._terms(x, linear, stacked)
        if stacked:
            term = terms[0] if len(terms) == 1 else self._joined(terms, linear)
            y = call(linear, zofx.linear_rounded.default, *term, codes, scales)
            y = call(linear, zofx.sum_probes.default, y, self._coefficients, len(terms))
        else:
            each = (call(linear, zofx.linear_rounded.default, *t, codes, scales) for t in terms)
            y = reduce(partial(call, linear, aten.add.Tensor), each)
        if bias is not None:
            y = call(linear, aten.add.Tensor, y, bias)
        self._edit.replace(linear, y)

    def _terms(self, x: fx.Node, linear: fx.Node, stacked: bool) -> list[Term]:
        """What this product multiplies: all probes, and what is left of probe 0 if it has two."""
        if x not in self.rounded:
            self.rounded[x] = self._first(x, linear, stacked)
        if linear not in self._twice:
            return [self.rounded[x][1]]
        if x not in self.finer:
            self.finer[x] = self._second(*self.rounded[x], linear, stacked)
        return [self.rounded[x][1], self.finer[x]]

    def _joined(self, terms: list[Term], before: fx.Node) -> Term:
        """As rows of one product."""
        codes, steps = (
            self._edit.call(before, aten.cat.default, part) for part in zip(*terms, strict=True)
        )
        return codes, steps

    def _first(self, x: fx.Node, before: fx.Node, stacked: bool) -> tuple[fx.Node, Term]:
        """Of every probe."""
        call = self._edit.call
        if stacked:
            x = call(before, zofx.difference_probes.default, x, self._coefficients)
        steps = call(before, zofx.row_scales.default, x)
        return x, (call(before, zofx.round_rows.default, x, steps), steps)

    def _second(self, x: fx.Node, term: Term, before: fx.Node, stacked: bool) -> Term:
        """Of probe 0, which all others have added."""
        call = self._edit.call
        base: tuple[fx.Node, ...] = (x, *term)
        if stacked:
            base = tuple(
                call(before, zofx.first_probe.default, value, self._coefficients) for value in base
            )
        left = call(before, zofx.left_over.default, *base)
        steps = call(before, aten.mul.Tensor, base[-1], FINER)
        return call(before, zofx.round_rows.default, left, steps), steps

    def axes_of_probes(self, x: fx.Node) -> list[int]:
        """Where a size counts P: none above the first slice or without probes, the rows below."""
        return [axis for axis in range(len(shape_of(x))) if self._probes & _symbols(x, axis)]


def _symbols(x: fx.Node, axis: int) -> set[Any]:
    """What the size of an axis is made of, numbers aside."""
    size = shape_of(x)[axis]
    return set(size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else set()

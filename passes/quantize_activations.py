"""Multiply integers: round what enters a frozen matrix to 8 bits, differences between probes apart.

    linear_int8(x, Ŵ, b)   →   y_0 = Q(x_0)·Ŵᵀ + b,   y_p = y_0 + Q(x_p − x_0)·Ŵᵀ
    Q(v) = s·round(v / s),   s = max |v| / 127 of each row of v
    values of an attention:    y_0 = Q(x_0)·Ŵᵀ + Q′(x_0 − Q(x_0))·Ŵᵀ + b,   Q′ of step s / 254

Meaning is approximate: |Q(v) − v| ≤ max |v| / 254 elementwise, ≤ max |v| / 254² with both terms.
Rounded on their own, two probes differ by rounding errors as large as x, and ε·z drowns in them.
Here the base is rounded once for all probes and the difference in steps of its own size, so the
error of y_p − y_0 is relative to the difference itself: the network is a rounded one, and its
slopes survive (benchmarks/precision.py). They suffer most from the base of what becomes values:
that has two terms, in that product alone.
Products of 8-bit integers are several times faster than those of floats where the processor has
instructions for them (VNNI). x meets the graph in f32, so trainables, norms and attention stay
whole. Skips, with a remark: a product whose input has its probes elsewhere than in its first axis.
Source: rounding by rows, Yao et al. 2022 (ZeroQuant), arXiv 2206.01861; differences between probes
and the second term are zofx's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, ClassVar, TypeAlias

import torch
from torch import fx

from zofx.errors import PipelineError, UsageError
from zofx.ir.facts import PARTED, QUANTIZED, ROUNDED, ROW_SCALED, STACKED
from zofx.ir.ops import zofx_ops
from zofx.ir.ops.rounding import FINER
from zofx.ir.patterns import summands
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, placeholders, shape_of
from zofx.ir.rewrite import Editor
from zofx.ir.schema import COEFFICIENTS, Stage
from zofx.ir.symbols import symbols

aten = torch.ops.aten

Term: TypeAlias = tuple[fx.Node, fx.Node]
"""Codes and the steps of their rows."""


@dataclass(frozen=True)
class QuantizeActivations(Pass):
    """See the module.

    Attributes:
        values: terms of what becomes values of an attention, 1 or 2.
    """

    name: ClassVar[str] = "quantize-activations"
    stage = Stage.LOWER
    serves: ClassVar[dict[str, str]] = {"activations": ""}
    requires = (QUANTIZED, ROW_SCALED)
    establishes = (ROUNDED.undone_by("--activations none"),)
    exact = False
    values: int = 2

    def __post_init__(self) -> None:
        if self.values not in (1, 2):
            raise UsageError(
                f"quantize-activations{{values={self.values}}}: what becomes values of an "
                "attention "
                "has 1 or 2 terms"
            )

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rewrite every product with a matrix in int8-row."""
        if STACKED.name in program.facts and PARTED.name not in program.facts:
            raise PipelineError(
                "quantize-activations rounds what probes differ by, so it takes them apart: put "
                "split-base-probe before it"
            )
        edit = Editor(program)
        rounding = _Rounding(edit, values_of(edit.graph) if self.values == 2 else set())
        products = list(rounding.products())
        if not products:
            raise UsageError(
                "quantize-activations finds no matrix in int8-row; quantize-frozen skipped them "
                "all (`zofx compile --verbose` says why): --activations none"
            )
        count = 0
        for base, others in products:
            if others is None or rounding.axes_of_probes(others.args[0]) == [0]:
                rounding.rewrite(base, others)
                count += 1
            else:
                why = "its input has probes in another axis than its first: it stays in f32"
                name = str(base.args[1].target)  # type: ignore[union-attr]  # a tensor of codes
                remark(str(program.tensors[name].origin), "skipped", why)
        apart, finer = len(rounding.rounded) - len(rounding.differences), len(rounding.finer)
        twice = f", {finer} of them in two terms" if finer else ""
        remark("linears", "applied", f"{count} products of {apart} rounded activations{twice}")
        return edit.done()


def values_of(graph: fx.Graph) -> set[fx.Node]:
    """The products with matrices in int8-row that values of an attention are sums of."""
    calls = graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default)
    values = (call.args[2] for call in calls)
    return {made for value in values for made in summands(value, zofx_ops.linear_int8.default)}


class _Rounding:
    """One walk over the products; what several of them read is rounded once.

    Args:
        edit: the program.
        twice: the products whose input has two terms.

    Attributes:
        rounded: activation → its term.
        finer: activation → its second term.
        differences: activation of the other probes → what it differs from the first one's by.
    """

    def __init__(self, edit: Editor, twice: set[fx.Node]) -> None:
        self.rounded: dict[fx.Node, Term] = {}
        self.finer: dict[fx.Node, Term] = {}
        self.differences: dict[fx.Node, fx.Node] = {}
        self._edit, self._twice = edit, twice
        tables = (n for n in placeholders(edit.graph) if n.target == COEFFICIENTS)
        table = next(tables, None)
        self._probes = frozenset[Any]() if table is None else _symbols(table, 0)

    def products(self) -> Iterator[tuple[fx.Node, fx.Node | None]]:
        """Those of the first probe, or above the trainables, each with that of the other probes.

        The other probes' product follows the first one's, with the same matrix
        (`split-base-probe`).
        """
        calls = self._edit.graph.find_nodes(op="call_function", target=zofx_ops.linear_int8.default)
        pairs: list[tuple[fx.Node, fx.Node | None]] = []
        last: dict[Any, int] = {}
        for call in calls:
            x, codes, *_ = call.args
            if self.axes_of_probes(x):
                pairs[last[codes]] = pairs[last[codes]][0], call
            else:
                last[codes] = len(pairs)
                pairs.append((call, None))
        yield from pairs

    def rewrite(self, base: fx.Node, others: fx.Node | None) -> None:
        """Round, multiply, add up; of the other probes what they differ by."""
        x, codes, scales, bias = base.args
        call, multiply = self._edit.call, zofx_ops.linear_rounded.default
        each = (call(base, multiply, *term, codes, scales) for term in self._terms(x, base))
        y = reduce(partial(call, base, aten.add.Tensor), each)
        if bias is not None:
            y = call(base, aten.add.Tensor, y, bias)
        self._edit.replace(base, y)
        if others is not None:
            term = self._term(self._difference(others.args[0], x, others), others)
            change = call(others, multiply, *term, codes, scales)
            self._edit.replace(others, call(others, zofx_ops.plus_base.default, change, y))

    def _terms(self, x: Any, linear: fx.Node) -> list[Term]:
        """What is rounded of x, and what of the rest if it has two."""
        term = self._term(x, linear)
        if linear not in self._twice:
            return [term]
        if x not in self.finer:
            self.finer[x] = self._second(x, term, linear)
        return [term, self.finer[x]]

    def _difference(self, x: Any, base: Any, before: fx.Node) -> fx.Node:
        if x not in self.differences:
            self.differences[x] = self._edit.call(before, zofx_ops.minus_base.default, x, base)
        return self.differences[x]

    def _term(self, x: fx.Node, before: fx.Node) -> Term:
        if x not in self.rounded:
            steps = self._edit.call(before, zofx_ops.row_scales.default, x)
            self.rounded[x] = self._edit.call(before, zofx_ops.round_rows.default, x, steps), steps
        return self.rounded[x]

    def _second(self, x: fx.Node, term: Term, before: fx.Node) -> Term:
        """Of what rounding took."""
        left = self._edit.call(before, zofx_ops.left_over.default, x, *term)
        steps = self._edit.call(before, aten.mul.Tensor, term[1], FINER)
        return self._edit.call(before, zofx_ops.round_rows.default, left, steps), steps

    def axes_of_probes(self, x: Any) -> list[int]:
        """Where a size counts P: of the other probes the rows, of all else none."""
        return [axis for axis in range(len(shape_of(x))) if self._probes & _symbols(x, axis)]


def _symbols(x: fx.Node, axis: int) -> frozenset[Any]:
    """What the size of an axis is made of, numbers aside."""
    return symbols(shape_of(x)[axis])

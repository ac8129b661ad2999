"""Evaluate P probes in one forward: rows are replicated at the first op that reads a slice.

    c: f32[Q] → f32[P, Q]      logprob[N, C] → logprob[P, N, C]
    f(x, θ + Σ c_q z_q) for each row of c   →   f(replicate(x), θ + C z)
    x: [N, …] → [P·N, …], one copy per probe

Frozen weights are read once for all probes; embeddings, masks, rotary tables and layers before the
first slice run once, too. Downstream of a slice every value has P·N rows: what it meets there is
replicated when it has rows of its own, and a size that counts rows is multiplied by P. A model that
addresses rows by number downstream of a slice gets its inputs replicated instead (at=input): always
right, only slower.
Exact: row (p, n) sees the operands it would see alone; engines may sum a product of another shape
in another order.
"""

import operator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NoReturn

import torch
from torch import fx
from torch.fx.node import map_arg

from zofx.errors import UnsupportedError
from zofx.facts import PERTURBED, STACKED
from zofx.pipeline import Pass, Remarker
from zofx.program import COEFFICIENTS, INPUTS, Program, is_call, output_node, placeholders
from zofx.rewrite import Editor

aten = torch.ops.aten
zofx = torch.ops.zofx

# Ops that may tell rows apart by number; harmless above the slices, not below.
ADDRESSES_ROWS = frozenset(
    {
        aten.index.Tensor, aten.index_add.default, aten.index_put.default,
        aten.index_select.default, aten.scatter.src,
    }
)  # fmt: skip
# Ops op(x, slice, …) with a meaning for a slice [P, k] and x: [P·N, …].
READS_SLICE = (zofx.sparse_linear.default,)


@dataclass(frozen=True)
class StackProbes(Pass):
    """See the module.

    Attributes:
        at: where rows are replicated.
    """

    name: ClassVar[str] = "stack-probes"
    requires = (PERTURBED,)
    establishes = (STACKED,)
    at: Literal["slice", "input"] = "slice"

    def run(self, program: Program, remark: Remarker) -> Program:
        """Replicate, rewire, and show the probes in the result."""
        edit = Editor(program)
        directions = edit.placeholder(COEFFICIENTS).meta["val"].shape[0]
        coefficients = edit.change_input(COEFFICIENTS, (edit.new_axis(), directions))
        stacking = _Stacking(edit, coefficients)
        culprit = stacking.addresses_rows()
        if self.at == "input" or culprit:
            stacking.replicate_inputs()
            why = f": {culprit.format_node()} addresses rows by number" if culprit else ""
            remark("input", "applied", f"replicated at the input{why}")
        else:
            stacking.replicate_at_slices()
            remark("slices", "applied", f"{len(stacking.copies)} values replicated on the way")
        output = output_node(edit.graph)
        (result,) = output.all_input_nodes
        output.args = (edit.call(output, zofx.split_probes.default, result, coefficients),)
        return edit.done()


class _Stacking:
    """One walk over the graph; `stacked` are the values with P·N rows."""

    def __init__(self, edit: Editor, coefficients: fx.Node) -> None:
        self.edit = edit
        self.coefficients = coefficients
        self.with_probes = set(
            edit.graph.find_nodes(op="call_function", target=zofx.perturb.default)
        )
        self.stacked: set[fx.Node] = set()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.sizes: dict[fx.Node, fx.Node] = {}
        ids = edit.placeholder("input_ids").meta["val"]
        self.rows = ids.shape[0].node.expr
        self.turned = self._turned()

    def addresses_rows(self) -> fx.Node | None:
        """The first op below a slice that may address rows by number, or has turned them."""
        below: set[fx.Node] = set()
        for node in self.edit.nodes:
            if any(a in below or a in self.with_probes for a in node.all_input_nodes):
                below.add(node)
                if is_call(node, *ADDRESSES_ROWS) or not self.turned.isdisjoint(
                    (node, *node.all_input_nodes)
                ):
                    return node
        return None

    def _turned(self) -> set[fx.Node]:
        """Values with rows on another axis than the first, [T, N, …], and all made from them."""
        turned: set[fx.Node] = set()
        for node in self.edit.nodes:
            value = node.meta.get("val")
            sizes = value.shape[1:] if isinstance(value, torch.Tensor) else ()
            if any(map(self._counts_rows, sizes)) or not turned.isdisjoint(node.all_input_nodes):
                turned.add(node)
        return turned

    def replicate_inputs(self) -> None:
        """Every row of every input becomes P rows; sizes follow by themselves."""
        first = next(n for n in self.edit.nodes if n.op == "call_function")
        for node in list(placeholders(self.edit.graph)):
            if node.target in INPUTS:
                self.edit.replace(node, self.copy_of(node, first))
        for node in self.edit.nodes:
            if node.op == "call_function":
                self._check_slice_use(node)
                if self._counts_rows(node.meta.get("val")) or node in self.copies.values():
                    self.stacked.add(node)
                if node not in self.copies.values():
                    node.meta.pop("val", None)

    def replicate_at_slices(self) -> None:
        """Follow the slices downwards."""
        for node in self.edit.nodes:
            if node.op != "call_function":
                continue
            reads = self._check_slice_use(node)
            if not reads and not any(a in self.stacked for a in node.all_input_nodes):
                continue
            below = partial(self._below, user=node)
            node.args, node.kwargs = map_arg(node.args, below), map_arg(node.kwargs, below)
            node.meta.pop("val", None)
            self.stacked.add(node)

    def _check_slice_use(self, node: fx.Node) -> bool:
        """Whether a node reads a slice with probes; only in a place that knows what they are."""
        places = [place for place, arg in enumerate(node.args) if arg in self.with_probes]
        if not places:
            return False
        if not is_call(node, *READS_SLICE):
            self._refuse(
                f"{node.target} reads one, and stack-probes knows no form of it with probes"
            )
        x = node.all_input_nodes[0]
        if x in self.turned or not (x in self.stacked or self._counts_rows(x.meta.get("val"))):
            self._refuse(f"{node.target} multiplies a value whose first axis is not its rows")
        return True

    def _refuse(self, why: str) -> NoReturn:
        raise UnsupportedError(
            "these slices cannot be evaluated under several probes at once", [why]
        )

    def _below(self, operand: fx.Node, user: fx.Node) -> fx.Node:
        """What a stacked op reads in place of an operand."""
        if operand in self.stacked or operand in self.with_probes:
            return operand
        value = operand.meta.get("val")
        if isinstance(value, torch.SymInt) and self._counts_rows(value):
            return self._size_of(operand, user)
        if isinstance(value, torch.Tensor) and value.dim() and self._counts_rows(value.shape[0]):
            return self.copy_of(operand, user)
        return operand

    def copy_of(self, value: fx.Node, before: fx.Node) -> fx.Node:
        """The value with P·N rows, made once."""
        if value not in self.copies:
            self.copies[value] = self.edit.call(
                before, zofx.replicate.default, value, self.coefficients
            )
            self.stacked.add(self.copies[value])
        return self.copies[value]

    def _size_of(self, size: fx.Node, before: fx.Node) -> fx.Node:
        """P times a size that counts rows (N, N·T, …), made once."""
        if size not in self.sizes:
            probes = self.edit.call(before, aten.sym_size.int, self.coefficients, 0)
            self.sizes[size] = self.edit.call(before, operator.mul, probes, size)
        return self.sizes[size]

    def _counts_rows(self, value: Any) -> bool:
        """Whether a size, or the leading size of a tensor, is a multiple of N."""
        if isinstance(value, torch.Tensor):
            return value.dim() > 0 and self._counts_rows(value.shape[0])
        return isinstance(value, torch.SymInt) and self.rows in value.node.expr.free_symbols

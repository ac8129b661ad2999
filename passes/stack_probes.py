"""Evaluate P probes in one forward: rows are replicated at the first op that reads a trainable.

    c: f32[Q] → f32[P, Q]      logprob[N, C] → logprob[P, N, C]
    f(x, θ + Σ c_q z_q) for each row of c   →   f(replicate(x), θ + C z)
    x: [N, …] → [P·N, …], one copy per probe

Frozen weights are read once for all probes; embeddings, masks, rotary tables and layers before the
first trainable run once, too. A trainable that is a whole weight multiplies by P weights in one
batched product; one that meets activations element by element is given to each of its rows.
Downstream of a trainable every value has P·N rows: what it meets there is replicated when it has
rows of its own, and a size that counts rows is multiplied by P. An op that has no such form
computes vmap over the probes, by torch's rules: what it reads of rows is [P, N, …] for it. A model
that addresses rows by number downstream of a trainable gets its inputs replicated instead
(at=input): always right, only slower.
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
from zofx.ir.batch_rows import BatchRows
from zofx.ir.batching import batched
from zofx.ir.facts import PERTURBED, STACKED
from zofx.ir.ops import zofx_ops
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, is_call, output_node, placeholders
from zofx.ir.rewrite import Editor, value_of
from zofx.ir.schema import COEFFICIENTS, INPUTS, Stage
from zofx.ir.symbols import expression
from zofx.ir.traits import Trait, has

aten = torch.ops.aten

# What reads a trainable, and where → the op that reads one with probes.
PROBE_FORMS = {
    (zofx_ops.sparse_linear.default, 1): zofx_ops.sparse_linear.default,
    (aten.linear.default, 1): zofx_ops.probe_linear.default,
    (aten.embedding.default, 0): zofx_ops.probe_embedding.default,
}


@dataclass(frozen=True)
class StackProbes(Pass):
    """See the module.

    Attributes:
        at: where rows are replicated.
    """

    name: ClassVar[str] = "stack-probes"
    stage = Stage.BATCH
    requires = (PERTURBED,)
    establishes = (STACKED,)
    at: Literal["trainable", "input"] = "trainable"

    def run(self, program: Program, remark: Remarker) -> Program:
        """Replicate, rewire, and show the probes in the result."""
        edit = Editor(program)
        directions = edit.placeholder(COEFFICIENTS).meta["val"].shape[0]
        coefficients = edit.change_input(COEFFICIENTS, (edit.new_axis(), directions))
        stacking = _Stacking(edit, coefficients)
        culprit = stacking.rows.addressed(stacking.with_probes)
        if self.at == "input" or culprit:
            stacking.replicate_inputs()
            why = f": {culprit.format_node()} addresses rows by number" if culprit else ""
            remark("input", "applied", f"replicated at the input{why}")
        else:
            stacking.replicate_at_slices()
            copies = len(stacking.rows.copies)
            remark("trainables", "applied", f"{copies} values replicated on the way")
        output = output_node(edit.graph)
        (result,) = output.all_input_nodes
        output.args = (edit.call(output, zofx_ops.split_probes.default, result, coefficients),)
        return edit.done()


class _NoFormError(Exception):
    """An op reads a trainable, and there is no form of it with probes here."""


class _Stacking:
    """One walk over the graph, in which readers of trainables read them with probes."""

    def __init__(self, edit: Editor, coefficients: fx.Node) -> None:
        self.edit = edit
        self.coefficients = coefficients
        perturbed = edit.graph.find_nodes(op="call_function", target=zofx_ops.perturb.default)
        # What is made of trainables alone → how many axes it has beside that of the probes.
        self.with_probes = {n: n.args[0].meta["val"].dim() for n in perturbed}
        self.rows = BatchRows(edit, coefficients)
        self.before = {node: node.meta.get("val") for node in edit.nodes}
        self.gone: set[fx.Node] = set()
        self.at_input = False

    def replicate_inputs(self) -> None:
        """Every row of every input becomes P rows; sizes follow by themselves."""
        self.at_input = True
        first = next(n for n in self.edit.nodes if n.op == "call_function")
        for node in list(placeholders(self.edit.graph)):
            if node.target in INPUTS:
                self.edit.replace(node, self.rows.copy_of(node, first))
        for node in self.edit.nodes:
            if node.op == "call_function" and node not in self.gone:
                try:
                    reads = self._take_probes(node)
                except _NoFormError as why:
                    self._over_probes(node, str(why))
                    continue
                copied = node in self.rows.copies.values()
                if reads or copied or self.rows.counted_by(node.meta.get("val")):
                    self.rows.stacked.add(node)
                if not copied:
                    node.meta.pop("val", None)

    def replicate_at_slices(self) -> None:
        """Follow the trainables downwards."""
        for node in self.edit.nodes:
            if node.op != "call_function" or node in self.gone:
                continue
            try:
                reads = self._take_probes(node)
            except _NoFormError as why:
                self._over_probes(node, str(why))
                continue
            if not reads and not any(a in self.rows.stacked for a in node.all_input_nodes):
                continue
            stacked = partial(self._stacked, user=node)
            node.args, node.kwargs = map_arg(node.args, stacked), map_arg(node.kwargs, stacked)
            node.meta.pop("val", None)
            self.rows.stacked.add(node)

    def _take_probes(self, node: fx.Node) -> bool:
        """Let a reader of a trainable read it with probes; whether its result has rows by that."""
        if node in self.with_probes or self.with_probes.keys().isdisjoint(node.all_input_nodes):
            return False
        places = [
            place
            for place, arg in enumerate(node.args)
            if isinstance(arg, fx.Node) and arg in self.with_probes
        ]
        if (
            is_call(node, aten.embedding.default)
            and places == [0]
            and not self.rows.lead(node.args[1])
        ):
            self._look_up(node)
            return False
        if len(places) == 1 and (node.target, places[0]) in PROBE_FORMS:
            self._require_rows(node, next(a for a in node.args if a not in self.with_probes))
            self._to_probe_form(node)
        elif is_call(node, aten.unsqueeze.default) and node.args[1] == 0:
            self._to_rows(node)
        elif has(node, Trait.ELEMENTWISE) and any(map(self.rows.of, node.all_input_nodes)):
            self._require_broadcast(node, places)
            for place in places:
                rows = self._rows_of(node.args[place], node)
                node.update_arg(place, rows)
        elif _makes_a_weight(node):
            self._between_weights(node, places)
            return False
        else:
            raise _NoFormError(f"{node.target} reads one, and there is no form of it with probes")
        return True

    def _to_probe_form(self, node: fx.Node) -> None:
        """The same op for a trainable [P, *k] and rows [P·N, …]."""
        if is_call(node, aten.linear.default):
            if len(node.args) > 2 and node.args[2] is not None:
                raise _NoFormError(f"{node.format_node()} has a bias")
            node.args, node.target = node.args[:2], zofx_ops.probe_linear.default
        elif is_call(node, aten.embedding.default):
            node.args, node.target = node.args[:2], zofx_ops.probe_embedding.default

    def _look_up(self, node: fx.Node) -> None:
        """Rows of a table per probe by an index that is the same for every row of a batch."""
        self.with_probes[node] = node.meta.pop("val").dim()
        table, index = node.args[:2]
        node.args, node.kwargs, node.target = (table, [None, index]), {}, aten.index.Tensor

    def _between_weights(self, node: fx.Node, places: list[int]) -> None:
        """A weight per probe, no rows; an operand of fewer axes gets axes of 1 after the probes."""
        axes = node.meta.pop("val").dim()
        self.with_probes[node] = axes
        if is_call(node, aten.t.default):
            node.args, node.target = (node.args[0], 1, 2), aten.transpose.int
            return
        for place in places:
            operand: Any = node.args[place]
            for _ in range(axes - self.with_probes[operand]):
                operand = self.edit.call(node, aten.unsqueeze.default, operand, 1)
            node.update_arg(place, operand)

    def _to_rows(self, node: fx.Node) -> None:
        """Values that are expanded over the rows: every row gets its probe's."""
        dims = node.meta["val"].dim()
        node.args, node.target = (
            (node.args[0], self.rows.batch_size(node), dims),
            zofx_ops.probe_rows.default,
        )

    def _rows_of(self, values: Any, user: fx.Node) -> fx.Node:
        """A trainable with probes as an operand that meets rows."""
        dims = user.meta["val"].dim()
        if self.with_probes[values] == dims:  # its own first axis is 1, in place of the rows
            values = self.edit.call(user, aten.squeeze.dim, values, 1)
        batch = self.rows.batch_size(user)
        rows = self.edit.call(user, zofx_ops.probe_rows.default, values, batch, dims)
        self.rows.stacked.add(rows)
        return rows

    def _require_rows(self, node: fx.Node, x: Any) -> None:
        if not self.rows.lead(x):
            raise _NoFormError(f"{node.target} reads a value whose first axis is not its rows")

    def _require_broadcast(self, node: fx.Node, places: list[int]) -> None:
        """What meets rows has no axis in their place, or one of 1."""
        value = node.meta["val"]
        dims = value.dim()
        rows = value.shape[0] if dims else None
        if not isinstance(rows, torch.SymInt) or expression(rows) != self.rows.number:
            raise _NoFormError(f"{node.target} reads one beside rows of another number")
        for place in places:
            operand: Any = node.args[place]
            if self.with_probes[operand] == dims and value_of(operand).shape[1] != 1:
                raise _NoFormError(f"{node.target} reads one along the rows")

    def _over_probes(self, node: fx.Node, why: str) -> None:
        """Compute an op once per probe, on [P, N, …] where it reads rows."""
        leading: set[fx.Node] = set()
        for operand in list(node.all_input_nodes):
            if operand in self.with_probes:
                leading.add(operand)
            elif operand in self.rows.stacked:
                own = self._of_one_probe(operand, node, why)
                node.replace_input_with(operand, own)
                if isinstance(self.before[operand], torch.Tensor):
                    leading.add(own)
        results = batched(self.edit, node, leading)
        if not results:
            self._refuse(why)
        made = self.before[node]
        listed = isinstance(made, (list, tuple))
        for result, value in zip(results, made if listed else (made,), strict=True):  # type: ignore[arg-type]  # mypy forgets what `listed` tells
            self._put(node, result, value, results.index(result) if listed else None)
        self.gone.add(node)
        self.edit.graph.erase_node(node)

    def _of_one_probe(self, operand: fx.Node, user: fx.Node, why: str) -> fx.Node:
        """A stacked value as [P, N, …]; a size that counts rows as it was."""
        value = self.before.get(operand)
        if isinstance(value, torch.SymInt):
            if self.at_input:
                self._refuse(why)
            if not self.rows.counted_by(value):
                return operand
            probes = self.edit.call(user, aten.sym_size.int, self.coefficients, 0)
            return self.edit.call(user, operator.floordiv, operand, probes)
        if not isinstance(value, torch.Tensor) or not self.rows.counted_by(value):
            self._refuse(why)
        return self.edit.call(user, zofx_ops.split_probes.default, operand, self.coefficients)

    def _put(self, node: fx.Node, result: fx.Node, value: Any, index: int | None) -> None:
        """Let what read an op, or one of its results, read this; rows are joined with probes."""
        if self.rows.counted_by(value):
            joined = self.edit.call(node, aten.flatten.using_ints, result, 0, 1)
            self.rows.stacked.add(joined)
        else:
            joined, self.with_probes[result] = result, value.dim()
        self.before[joined] = value
        for user in list(node.users):
            if index is None:
                user.replace_input_with(node, joined)
            elif user.args[1] == index:
                self.edit.replace(user, joined)
                self.gone.add(user)
                self.edit.graph.erase_node(user)

    def _refuse(self, why: str) -> NoReturn:
        raise UnsupportedError(
            "these trainables cannot be evaluated under several probes at once", [why]
        )

    def _stacked(self, operand: fx.Node, user: fx.Node) -> fx.Node:
        """What a stacked op reads in place of an operand."""
        if operand in self.rows.stacked or operand in self.with_probes:
            return operand
        value = operand.meta.get("val")
        if isinstance(value, torch.SymInt) and self.rows.counted_by(value):
            return self.rows.size_of(operand, user)
        if isinstance(value, torch.Tensor) and value.dim() and self.rows.counted_by(value.shape[0]):
            return self.rows.copy_of(operand, user)
        return operand


def _makes_a_weight(node: fx.Node) -> bool:
    """Whether an op on trainables alone makes a weight, with or without an axis of probes."""
    batched = has(node, Trait.BATCHED) or has(node, Trait.ELEMENTWISE)
    return batched or is_call(node, aten.t.default)

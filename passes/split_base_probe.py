"""Take the first probe apart from the others: what has P·N rows becomes two values.

    x: [P·N, …]   →   x_0: [N, …]   and   x′: [(P − 1)·N, …]          the same of weights [P, …]
    f(x, C)       →   f(x_0, C[:1])  and  f(x′, C[1:])                for every op on them

An op that is done to the first probe alone, or to what the others differ from it by, takes whole
tensors then, where each would have to be cut out of the other. Frozen weights are read twice. What
is above the trainables stays as it is, and the first probe reads it without a copy.
Exact: row (p, n) meets the operands it met before; engines may sum a product of another shape in
another order.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from torch import fx
from torch.fx.node import map_arg

from zofx.ir.facts import PARTED, STACKED
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, is_call, shape_of
from zofx.ir.rewrite import Editor
from zofx.ir.schema import COEFFICIENTS, Stage

aten = torch.ops.aten
zofx = torch.ops.zofx

Parts: TypeAlias = tuple[fx.Node, fx.Node]
"""Of the first probe, of the others."""


@dataclass(frozen=True)
class SplitBaseProbe(Pass):
    """See the module."""

    name: ClassVar[str] = "split-base-probe"
    stage = Stage.LOWER
    serves: ClassVar[dict[str, str]] = {"activations": ""}
    requires = (STACKED,)
    establishes = (PARTED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Follow the table of coefficients downwards; the result has all probes again."""
        edit = Editor(program)
        parting = _Parting(edit)
        for node in edit.nodes:
            if node.op == "call_function" and not parting.parts.keys().isdisjoint(
                node.all_input_nodes
            ):
                parting.part(node)
        remark("probes", "applied", f"{len(parting.parts) - 1} values in two parts")
        return edit.done()


class _Parting:
    """One walk over the graph.

    Attributes:
        parts: what depends on the number of probes → its two parts.
    """

    def __init__(self, edit: Editor) -> None:
        self._edit = edit
        self._table = edit.placeholder(COEFFICIENTS)
        first = next(n for n in edit.nodes if n.op == "call_function")
        rows = partial(edit.call, first, aten.slice.Tensor, self._table, 0)
        self.parts: dict[fx.Node, Parts] = {self._table: (rows(0, 1), rows(1, sys.maxsize))}

    def part(self, node: fx.Node) -> None:
        """An op that reads a value in parts."""
        call = self._edit.call
        if is_call(node, zofx.split_probes.default):
            whole = call(node, aten.cat.default, self.parts[node.args[0]])  # type: ignore[index]
            self._edit.set_args(node, whole, self._table)
        elif is_call(node, zofx.replicate.default):
            x: Any = node.args[0]
            self.parts[node] = x, call(node, zofx.replicate.default, x, self.parts[self._table][1])
        else:
            base, others = (self._again(node, number) for number in range(2))
            self.parts[node] = base, others

    def _again(self, node: fx.Node, number: int) -> fx.Node:
        """The same op on one of the parts."""

        def own(operand: fx.Node) -> fx.Node:
            return self.parts[operand][number] if operand in self.parts else operand

        target: Any = node.target
        args, kwargs = map_arg(_with_all_sizes(node), own), map_arg(node.kwargs, own)
        return self._edit.call(node, target, *args, **kwargs)


def _with_all_sizes(node: fx.Node) -> tuple[Any, ...]:
    """Its arguments, a size −1 written out: of no rows, which one probe leaves, none follows."""
    if not is_call(node, aten.view.default, aten.reshape.default):
        return node.args
    x, given = node.args
    whole = shape_of(node)
    sizes = [
        whole[axis] if size == -1 and isinstance(whole[axis], int) else size
        for axis, size in enumerate(given)  # type: ignore[arg-type]  # a view's sizes
    ]
    return x, sizes

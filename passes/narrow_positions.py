"""Sink the choice of scored positions up through every position-wise op.

    select(f(x), p)   →   f(select(x, p))        f acts on each position alone
    select(x + y, p)  →   select(x, p) + select(y, p)

So the head never sees a token that is not scored. From the logits up, a value is narrowed when
everything that reads it is, and its op keeps positions apart; where that ends, one select is
inserted per value. In a decoder that leaves the last attention with all T positions and the output
projection, the last MLP, the last norm and the head with S of them.
Exact: the same numbers from the same operands; engines may sum a product of another shape in
another order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import fx

from zofx.ir.facts import CANONICAL, NARROWED
from zofx.ir.patterns import row_by_row
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, is_call, shape_of
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Stage

aten = torch.ops.aten
select = torch.ops.zofx.select_positions.default


@dataclass(frozen=True)
class NarrowPositions(Pass):
    """See the module."""

    name: ClassVar[str] = "narrow-positions"
    stage = Stage.NORMALIZE
    requires = (CANONICAL,)
    establishes = (NARROWED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Find the narrowed values bottom-up, then put selects at their edge."""
        edit = Editor(program)
        (chosen,) = edit.graph.find_nodes(op="call_function", target=select)
        logits, positions = chosen.args
        layout = shape_of(logits)[:2]
        has_positions = partial(_has_positions, layout)
        narrow = _narrowed_values(edit, chosen, has_positions)
        if logits not in narrow:
            op = logits.target if isinstance(logits, fx.Node) else logits
            remark("logits", "skipped", f"{op} is not known to act on each position alone")
            return edit.done()
        selected: dict[fx.Node, fx.Node] = {}
        for node in edit.nodes:
            if node not in narrow:
                continue
            edge = [a for a in node.all_input_nodes if a not in narrow and has_positions(a)]
            for value in edge:
                if value not in selected:
                    selected[value] = edit.call(node, select, value, positions)
                node.replace_input_with(value, selected[value])
            node.meta.pop("val")
        edit.replace(chosen, logits)
        remark("logits", "applied", f"{len(narrow)} ops run at scored positions only")
        return edit.done()


def _narrowed_values(
    edit: Editor, chosen: fx.Node, has_positions: Callable[[fx.Node], bool]
) -> set[fx.Node]:
    """Position-wise values that only narrowed ops (or the select itself) read."""
    narrow: set[fx.Node] = set()
    for node in reversed(edit.nodes):
        if (
            node.users
            and all(user is chosen or user in narrow for user in node.users)
            and _position_wise(node, has_positions)
        ):
            narrow.add(node)
    return narrow


def _position_wise(node: fx.Node, has_positions: Callable[[fx.Node], bool]) -> bool:
    """Whether the result at row n, position t depends on the operands there and nowhere else."""
    if not has_positions(node):
        return False
    if is_call(node, aten.mean.dim):
        return node.args[1] in ([-1], [2]) and len(node.args) == 3 and bool(node.args[2])
    return row_by_row(node, has_positions)


def _has_positions(layout: tuple[Any, ...], node: fx.Node) -> bool:
    """Whether a value is laid out [*layout, features], layout the axes of the logits.

    Those are [N, T], and [N, m + T] where a prompt stands before the text.
    """
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() != 3:
        return False
    return [str(s) for s in value.shape[:2]] == [str(s) for s in layout]

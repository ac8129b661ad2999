"""The rows of a batch in a graph: which values have them, and these P times over.

    x: [N, …]   →   replicate(x): [P·N, …], one copy per probe
    N, N·T, …   →   P·N, P·N·T, …

A value has rows if its first axis is a multiple of N. On a later axis, as in [T, N, …], they are
turned: no copy per probe of such a value is contiguous, so it has none.
"""

import operator
from collections.abc import Container
from typing import Any

import torch
from torch import fx

from zofx.ir.ops import zofx_ops
from zofx.ir.rewrite import Editor
from zofx.ir.symbols import expression, symbols
from zofx.ir.traits import Trait, has

aten = torch.ops.aten


class BatchRows:
    """The rows of one graph.

    Args:
        edit: of the graph, annotated as it was before any rewrite.
        coefficients: the placeholder f32[P, Q].

    Attributes:
        stacked: the values that have P·N rows.
        copies: value → the same with P·N rows.
        number: N, as an expression.
    """

    def __init__(self, edit: Editor, coefficients: fx.Node) -> None:
        self._edit, self._coefficients = edit, coefficients
        self._sizes: dict[fx.Node, fx.Node] = {}
        self.stacked: set[fx.Node] = set()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.number = expression(edit.placeholder("input_ids").meta["val"].shape[0])
        self._turned = self._find_turned()

    def counted_by(self, value: Any) -> bool:
        """Whether a size, or the leading size of a tensor, is a multiple of N."""
        if isinstance(value, torch.Tensor):
            return value.dim() > 0 and self.counted_by(value.shape[0])
        return isinstance(value, torch.SymInt) and self.number in symbols(value)

    def of(self, value: fx.Node) -> bool:
        """Whether a value has rows, N or P·N of them."""
        return value in self.stacked or self.counted_by(value.meta.get("val"))

    def lead(self, value: Any) -> bool:
        """Whether the first axis of a value is the rows."""
        return value not in self._turned and self.of(value)

    def addressed(self, roots: Container[fx.Node]) -> fx.Node | None:
        """The first op downstream of the roots that may address rows by number, or has turned them.

        Args:
            roots: what is made of trainables alone.
        """
        downstream: set[fx.Node] = set()
        for node in self._edit.nodes:
            if any(a in downstream or a in roots for a in node.all_input_nodes):
                downstream.add(node)
                near = (node, *node.all_input_nodes)
                if has(node, Trait.ADDRESSES) or not self._turned.isdisjoint(near):
                    return node
        return None

    def copy_of(self, value: fx.Node, before: fx.Node) -> fx.Node:
        """The value with P·N rows, made once."""
        if value not in self.copies:
            copy = self._edit.call(before, zofx_ops.replicate.default, value, self._coefficients)
            self.copies[value] = copy
            self.stacked.add(copy)
        return self.copies[value]

    def size_of(self, size: fx.Node, before: fx.Node) -> fx.Node:
        """P times a size that counts rows, made once."""
        if size not in self._sizes:
            probes = self._edit.call(before, aten.sym_size.int, self._coefficients, 0)
            self._sizes[size] = self._edit.call(before, operator.mul, probes, size)
        return self._sizes[size]

    def batch_size(self, before: fx.Node) -> fx.Node:
        """N."""
        return self._edit.call(before, aten.sym_size.int, self._edit.placeholder("input_ids"), 0)

    def _find_turned(self) -> set[fx.Node]:
        """Values with rows on another axis than the first, [T, N, …], and all made from them."""
        turned: set[fx.Node] = set()
        for node in self._edit.nodes:
            value = node.meta.get("val")
            sizes = value.shape[1:] if isinstance(value, torch.Tensor) else ()
            if any(map(self.counted_by, sizes)) or not turned.isdisjoint(node.all_input_nodes):
                turned.add(node)
        return turned

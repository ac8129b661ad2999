"""Shapes of a graph after a rewrite."""

import pytest
import torch
from torch import fx

from zofx.ir.rewrite import infer_shapes
from zofx.ir.symbols import new_mode

aten = torch.ops.aten


def turned(shape: list[int]) -> fx.Graph:
    """view(permute(x)), as a model is traced whose x lies in memory the other way round."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    with new_mode():
        x.meta["val"] = torch.empty(2, 3, 4)
    turned = graph.call_function(aten.permute.default, (x, [0, 2, 1]))
    graph.output(graph.call_function(aten.view.default, (turned, shape)))
    return graph


def test_a_view_that_memory_does_not_allow_is_a_copy() -> None:
    """The same values in the same order; only where a view is none."""
    graph = turned([2, 12])
    infer_shapes(graph, everything=True)
    *_, made, _ = graph.nodes
    assert made.target is aten.reshape.default
    assert made.meta["val"].shape == (2, 12)
    x = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(aten.reshape.default(x.permute(0, 2, 1), [2, 12]), x.mT.flatten(1))
    kept = turned([2, 4, 3])
    infer_shapes(kept, everything=True)
    assert [n.target for n in kept.nodes][2] is aten.view.default


def test_a_view_of_another_number_of_elements_stays_an_error() -> None:
    """No copy mends that."""
    with pytest.raises((ValueError, RuntimeError)):
        infer_shapes(turned([2, 13]), everything=True)

"""The verifier: a program broken on purpose, and the rule that says so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from tests.golden import captured
from tests.passes.toys import OneLinear
from zofx.errors import InvariantError
from zofx.ir.program import Program, TensorSpec, output_node
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role
from zofx.ir.verify import verify

aten = torch.ops.aten


@pytest.fixture
def program() -> Program:
    """A copy of its own: these tests do write to graphs."""
    return Editor(captured(OneLinear())).done()


def only(graph: fx.Graph, target: Any) -> fx.Node:
    node: fx.Node
    (node,) = graph.find_nodes(op="call_function", target=target)
    return node


def linear(program: Program) -> fx.Node:
    return only(program.graph, aten.linear.default)


def append(program: Program, op: str, target: object, *args: object) -> fx.Node:
    """A node before the result that takes the result's place, with a shape."""
    end = output_node(program.graph)
    with program.graph.inserting_before(end):
        node = program.graph.create_node(op, target, args)  # type: ignore[arg-type]
    node.meta["val"] = end.all_input_nodes[0].meta["val"]
    return node


def result(program: Program) -> fx.Node:
    return output_node(program.graph).all_input_nodes[0]


def twice(program: Program) -> None:
    with program.graph.inserting_before(next(iter(program.graph.nodes))):
        program.graph.placeholder("input_ids").meta["val"] = torch.empty(0)


def unknown(program: Program) -> None:
    with program.graph.inserting_before(next(iter(program.graph.nodes))):
        program.graph.placeholder("labels").meta["val"] = torch.empty(0)


def unread(program: Program) -> None:
    linear(program).args = linear(program).args[:2]


def backwards(program: Program) -> None:
    linear(program).append(only(program.graph, aten.embedding.default))


def unannotated(program: Program) -> None:
    del linear(program).meta["val"]


def writes(program: Program) -> None:
    append(program, "call_function", aten.add_.Tensor, result(program), 1)


def differentiates(program: Program) -> None:
    append(program, "call_function", aten._log_softmax_backward_data.default, result(program))


def nests(program: Program) -> None:
    append(program, "get_attr", "weight")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (twice, "after x: placeholders that are there twice: input_ids"),
        (unknown, "after x: placeholders that are no input and no tensor: labels"),
        (unread, "after x: tensors nobody reads: fc.bias"),
        (backwards, "after x: an op that reads a value made later\n"),
        (unannotated, "after x: a node without a shape\n"),
        (writes, "after x: an op that writes to its arguments\n"),
        (differentiates, "after x: an autograd op in a forward-only program\n"),
        (nests, "after x: get_attr nodes are not part of a program\n"),
    ],
)
def test_a_broken_graph(program: Program, damage: Callable[[Program], None], message: str) -> None:
    """Each rule of the module's table, by a graph that breaks it alone."""
    verify(program, "x")
    damage(program)
    with pytest.raises(InvariantError) as caught:
        verify(program, "x")
    assert str(caught.value).startswith(message)


def test_a_broken_table(program: Program) -> None:
    """Tensors without a placeholder, without data, and inputs that are gone."""
    spec = TensorSpec("extra", Role.FROZEN, (1,), torch.float32)
    with pytest.raises(InvariantError, match="tensors nobody reads: extra"):
        verify(program.with_(tensors={**program.tensors, "extra": spec}), "x")
    with pytest.raises(InvariantError, match=r"tensors without data: embed\.weight, fc\.bias"):
        verify(program.with_(data={"fc.weight": program.data["fc.weight"]}), "x")
    renamed = TensorSpec("targets", Role.FROZEN, (1,), torch.float32)
    with pytest.raises(InvariantError, match="inputs lost: targets"):
        verify(program.with_(tensors={**program.tensors, "targets": renamed}), "x")


def test_a_wrong_annotation_is_found_on_request(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZOFX_VERIFY=full infers every shape again; without it annotations are believed."""
    linear(program).meta["val"] = linear(program).meta["val"].to(torch.float64)
    monkeypatch.delenv("ZOFX_VERIFY", raising=False)
    verify(program, "x")
    monkeypatch.setenv("ZOFX_VERIFY", "full")
    with pytest.raises(InvariantError, match=r"(?s)float64.*inferred.*→ %linear"):
        verify(program, "x")


def test_the_message_shows_the_neighbourhood(program: Program) -> None:
    """The node is marked among the lines around it."""
    unannotated(program)
    with pytest.raises(InvariantError) as caught:
        verify(program, "x")
    _, *lines = str(caught.value).splitlines()
    assert [line[0] for line in lines].count("→") == 1
    marked = next(number for number, line in enumerate(lines) if line[0] == "→")
    assert "aten.embedding.default" in lines[marked - 1]
    assert "aten.linear.default" in lines[marked]
    assert "zofx.select_positions.default" in lines[marked + 1]

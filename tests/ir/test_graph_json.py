"""graph.json: what is written reads back, and nothing but a program can be read."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from tests.artifacts import Case, Family
from tests.golden import apply, batch, captured, run, with_scores
from tests.passes.toys import Broadcasts, Masked, Toy, TwoLinears
from zofx.artifact import layout
from zofx.errors import ArtifactError, UnsupportedError
from zofx.ir.admitted_ops import admitted_ops, overload
from zofx.ir.graph_json import dump_graph, load_graph
from zofx.ir.program import Program

WHOLE = (
    "canonicalize, narrow-positions, select-sensitive{fraction=0.2}, split-sparse, "
    "quantize-frozen{format=codebook}, insert-perturbation, stack-probes"
)
Rows = list[dict[str, Any]]


def compiled() -> Program:
    return apply(WHOLE, with_scores(captured(TwoLinears()), "fc.weight", "head.weight"))[0]


def listing(graph: fx.Graph) -> list[tuple[str, str, str, str]]:
    """Everything a graph says, nodes by their place."""
    places = {node: place for place, node in enumerate(graph.nodes)}

    def shown(value: Any) -> str:
        return str(fx.node.map_arg(value, lambda node: f"%{places[node]}"))

    return [(n.op, str(n.target), shown(n.args), shown(n.kwargs)) for n in graph.nodes]


def reread(graph: fx.Graph, path: Path) -> fx.Graph:
    path.write_text(dump_graph(graph), encoding="utf-8")
    return load_graph(path)


@pytest.mark.parametrize(
    "make",
    [compiled, partial(captured, TwoLinears()), partial(captured, Masked())],
    ids=["compiled", "captured", "masked"],
)
def test_a_program_reads_back(make: Callable[[], Program], tmp_path: Path) -> None:
    """The same nodes with the same arguments, and the same bits of the same result."""
    program = make()
    again = program.with_(graph=reread(program.graph, tmp_path / "graph.json"))
    assert listing(again.graph) == listing(program.graph)
    inputs = batch(coefficients=[[0.25], [-0.5]])
    torch.testing.assert_close(run(again, inputs), run(program, inputs), rtol=0, atol=0)


@pytest.mark.parametrize("model", [Broadcasts(), Masked()], ids=lambda m: type(m).__name__)
def test_arguments_of_every_kind_read_back(model: Toy, tmp_path: Path) -> None:
    """Types, devices, sizes, lists with nodes in them, and None."""
    graph = captured(model).graph
    assert listing(reread(graph, tmp_path / "graph.json")) == listing(graph)


def test_an_artifacts_graph_is_written_as_it_reads(family: Family, case: Case) -> None:
    """Reading and writing again changes no byte, for every kind of artifact."""
    path = family.artifact(case) / layout.GRAPH
    assert dump_graph(load_graph(path)) == path.read_text()


def call(target: Any, *args: Any, **more: Any) -> Rows:
    """A program of one call."""
    return [
        {"op": "placeholder", "target": "input_ids"},
        {"op": "call", "target": target, "args": list(args), **more},
        {"op": "output", "target": "output", "args": [{"node": 1}]},
    ]


X = {"node": 0}


def test_a_program_of_one_call_is_read(tmp_path: Path) -> None:
    """What the refused ones below are refused for is only what is wrong in each."""
    (tmp_path / "graph.json").write_text(json.dumps(call("aten.neg.default", X)))
    assert [n.op for n in load_graph(tmp_path / "graph.json").nodes] == [
        "placeholder", "call_function", "output",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "os.system.default",
        "builtins.eval.default",
        "prim.Print.default",
        "bitsandbytes.dequantize_4bit.default",
        "aten.from_file.default",
        "aten.add_.Tensor",
        "aten.copy_.default",
        "aten.no_such_op.default",
        "aten.add.NoSuchOverload",
        "aten.name.upper",
        "aten.add",
        "aten._print.default",
        "aten.manual_seed.default",
        "aten.max_pool2d_with_indices_backward.default",
        "aten.max_unpool2d.default",
        "aten._embedding_bag_dense_backward.default",
        "aten._no_grad_embedding_renorm_.default",
        "aten.as_strided.default",
        "aten.empty.memory_format",
        "aten.sparse_coo_tensor.indices",
        "operator.methodcaller",
        "operator.setitem",
        "torch.load",
        "",
        None,
        7,
    ],
)
def test_only_ops_can_be_named(target: Any, tmp_path: Path) -> None:
    """Nothing else is looked up: no modules, no files, no op that writes."""
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(call(target, X)))
    with pytest.raises(ArtifactError, match=r"graph\.json is damaged"):
        load_graph(path)


@pytest.mark.parametrize(
    "rows",
    [
        {},
        [],
        [None],
        [{}],
        call("aten.neg.default", {"node": 9}),
        call("aten.neg.default", {"node": -1}),
        call("aten.neg.default", {"node": True}),
        call("aten.neg.default"),
        call("aten.neg.default", X, X),
        call("aten.neg.default", X, kwargs={"self": X}),
        call("aten.neg.default", X, kwargs={"out": X}),
        call("aten.neg.default", "text"),
        call("aten.add.Tensor", X, None),
        call("aten.cat.default", [X, "text"]),
        call("aten.view.default", X, [1.5]),
        call("aten.new_zeros.default", X, [1 << 20, 1 << 20]),
        call("aten.repeat.default", X, [1 << 33]),
        call("aten.arange.default", 10**15),
        call("operator.mul", X, "text"),
        call("operator.mul", [X], 10**9),
        call("operator.neg", X, X),
        call("aten._to_copy.default", X, kwargs={"device": {"device": "meta"}}),
        call("aten.neg.default", {"tensor": 0}),
        call("aten.neg.default", {"node": 0, "dtype": "float32"}),
        call("aten.neg.default", X, kwargs=[1]),
        call("aten._to_copy.default", X, kwargs={"dtype": {"dtype": "load"}}),
        call("aten._to_copy.default", X, kwargs={"dtype": {"dtype": "float33"}}),
        call("aten._to_copy.default", X, kwargs={"device": {"device": "abacus"}}),
        call("aten.neg.default", X)[:2],
        [{**row, "op": "call_module"} for row in call("aten.neg.default", X)],
    ],
    ids=str,
)
def test_damage_is_reported(rows: Any, tmp_path: Path) -> None:
    """JSON that is no program is one ArtifactError that names the file."""
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ArtifactError, match=r"graph\.json is damaged"):
        load_graph(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '[{"op": "placeholder", "target": "\\ud800"}]', f"[{'9' * 5000}]", "NaN", ""],
    ids=["deep", "half a character", "5000 digits", "NaN", "empty"],
)
def test_json_that_readers_choke_on_is_reported(text: str, tmp_path: Path) -> None:
    """As damage of that file, never as a fault of the reader."""
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=r"graph\.json is damaged"):
        load_graph(path)
    with pytest.raises(ArtifactError, match=r"absent cannot be read: No such file"):
        load_graph(tmp_path / "absent")


def test_every_admitted_op_is_a_function(tmp_path: Path) -> None:
    """It exists, writes to none of its arguments, opens no file; each name is listed once."""
    for name in admitted_ops():
        schema = overload(name)._schema
        assert not schema.is_mutable, name
        assert not any(a.name in ("filename", "generator") for a in schema.arguments), name


def test_an_op_that_readers_refuse_is_not_written() -> None:
    """The refusal says where it is to be listed."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.aten.digamma.default, (x,)))
    with pytest.raises(UnsupportedError, match=r"aten\.digamma\.default: list it in"):
        dump_graph(graph)


def test_a_file_cut_anywhere_is_reported(tmp_path: Path) -> None:
    """No prefix of a graph is a graph, and neither is one that is not text."""
    whole, path = dump_graph(compiled().graph).encode().rstrip(), tmp_path / "graph.json"
    for data in (*(whole[:cut] for cut in range(0, len(whole), 97)), whole[:-1], b"\xff" + whole):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"graph\.json is damaged"):
            load_graph(path)

"""Lowerings of zofx:: ops that depend on what is lowered."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.artifacts import CASES, Case, Family
from tests.golden import batch, captured
from tests.ir.test_ops import CLUSTERED, DEEP, OUT, SCATTERED, SHARED, WIDTH
from tests.passes.toys import OneLinear
from tests.runtimes.test_rounding import Call
from zofx import __version__
from zofx.artifact.manifest import read_manifest
from zofx.compiler.write import write_program
from zofx.ir import sparse_cost
from zofx.ir.facts import COORDINATES_SELECTED
from zofx.ir.ops import zofx_ops
from zofx.ir.pipeline import Pipeline
from zofx.ir.program import Program
from zofx.ir.schema import INPUTS, VOCABULARY
from zofx.models.capture import capture
from zofx.passes import PASSES
from zofx.runtimes.onnx_export.contrib_ops import ms
from zofx.runtimes.onnx_export.export import OPSET, translate
from zofx.runtimes.onnx_export.fusions import sizes
from zofx.zo.types import FloatArray


class Wide(nn.Module):
    """An embedding, one square linear, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, WIDTH)
        self.fc = nn.Linear(WIDTH, OUT, bias=False)
        self.head = nn.Linear(OUT, 16, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Logits f32[N, T, 16]."""
        return SimpleNamespace(logits=self.head(self.fc(self.embed(input_ids))))


def compiled(index: Tensor) -> Program:
    """The toy with these coordinates of its square weight trainable."""
    model = Wide().eval()
    weights = {name: p.detach().clone for name, p in model.named_parameters()}
    program = capture(model, weights, causal=False)
    selection = {"fc.weight": index.int()}
    program = program.choosing("entries", selection)
    program = program.with_(facts=program.facts | {COORDINATES_SELECTED.name})
    text = "split-sparse, insert-perturbation, stack-probes"
    return Pipeline.parse(text, PASSES).run(program)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_table_of_16_bits_says_what_one_of_32_does(stored: torch.dtype, tmp_path: Path) -> None:
    """Its numbers are all in f32; what is looked up is widened, the table is not."""
    text = (
        "canonicalize, select-parameters{match=bias}, split-dense, quantize-frozen{format=int4}, "
        "insert-perturbation, stack-probes"
    )
    results = []
    for kept in (None, stored):
        program = Pipeline.parse(text, PASSES).run(captured(OneLinear(32), stored=kept))
        folder = tmp_path / str(kept)
        folder.mkdir()
        write_program(program, folder)
        engine = onnxruntime.InferenceSession(folder / "graph.onnx")
        inputs = batch()
        feeds = {name: inputs[name].numpy() for name in INPUTS}
        z = np.ones((1, 7), np.float32)
        feeds |= {"fc.bias": program.load("fc.bias").numpy(), "fc.bias.z": z}
        feeds["coefficients"] = np.array([[0.5], [-0.5]], np.float32)
        results.append(engine.run(None, feeds)[0])
        (table,) = (s for s in program.tensors.values() if s.name == "embed.weight")
        assert table.dtype is (kept or torch.float32)
    assert np.array_equal(*results)


def test_entries_that_share_rows_are_added_by_threads_that_do_not(tmp_path: Path) -> None:
    """No two updates of a call are of one row, so any number of threads adds the same numbers.

    ONNX Runtime's threads lose updates of a row that several of them have: with all entries in one
    call about one run in two differed here.
    """
    rows, width, entries = 1500, 4096, 8192
    rng = np.random.default_rng(2)
    index = np.sort(rng.choice(rows * width, entries, replace=False)).astype(np.int32)
    deepest = int(np.bincount(index // width).max())
    columns = len(np.unique(index % width))

    def call(x: Tensor, values: Tensor, index: Tensor) -> Tensor:
        return zofx_ops.sparse_linear(x, values, index, rows, columns, deepest)

    x = torch.from_numpy(rng.standard_normal((2, 32, width)).astype(np.float32))
    values = torch.from_numpy(rng.standard_normal((2, entries)).astype(np.float32))
    inputs = x, values, torch.from_numpy(index)
    model = translate(torch.export.export(Call(call), inputs))
    model.opset_imports.update({"": OPSET})
    results = []
    for threads in (1, 2, 4):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        engine = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        names = [value.name for value in engine.get_inputs()]
        feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        results += [engine.run(None, feeds)[0] for _ in range(10)]
    assert {one.tobytes() for one in results} == {results[0].tobytes()}
    dense = torch.zeros(2, rows * width, dtype=torch.float64)
    dense[:, index] = values.double()
    exact = x.double() @ dense.view(2, rows, width).mT
    size = x.double().abs() @ dense.abs().view(2, rows, width).mT
    assert (torch.from_numpy(results[0]) - exact).abs().le((deepest + 1) * 2**-24 * size).all()
    scatters = [node for node in model.graph if node.op_type == "ScatterND"]
    assert len(scatters) == deepest > 10


@pytest.mark.parametrize(("at_once", "parts"), [(1, 60), (8 * 7, 9), (8 * 59, 2), (8 * 60, 1)])
def test_a_block_that_is_made_in_parts_has_the_same_bits(
    at_once: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 rows over 8 columns, some rows at a time; rows 7 to 20 have no entries."""
    rng = np.random.default_rng(5)
    place = [(r, c) for r in range(60) if not 7 <= r < 21 for c in range(8) if rng.random() < 0.6]
    row, column = np.array(place).T
    index = torch.from_numpy((row * 40 + 5 * column).astype(np.int32))
    deepest = int(np.bincount(row).max())
    x = torch.from_numpy(rng.standard_normal((2, 3, 40)).astype(np.float32))
    values = torch.from_numpy(rng.standard_normal((2, len(index))).astype(np.float32))

    def call(x: Tensor, values: Tensor, index: Tensor) -> Tensor:
        return zofx_ops.sparse_linear(x, values, index, 60, 8, deepest)

    def scored() -> tuple[FloatArray, int]:
        model = translate(torch.export.export(Call(call), (x, values, index)))
        model.opset_imports.update({"": OPSET, ms.domain: ms.version})
        engine = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
        names = [value.name for value in engine.get_inputs()]
        feeds = dict(zip(names, (v.numpy() for v in (x, values, index)), strict=True))
        products = [node for node in model.graph if node.op_type == "FusedMatMul"]
        return engine.run(None, feeds)[0], len(products)

    whole, one = scored()
    monkeypatch.setattr(sparse_cost, "BLOCK_ENTRIES", at_once)
    parts_of_block, many = scored()
    assert (one, many) == (1, parts)
    np.testing.assert_array_equal(parts_of_block, whole)
    dense = torch.zeros(2, 60 * 40, dtype=torch.float64)
    dense[:, index.long()] = values.double()
    exact = x.double() @ dense.view(2, 60, 40).mT
    size = x.double().abs() @ dense.abs().view(2, 60, 40).mT
    assert (torch.from_numpy(parts_of_block) - exact).abs().le((8 + 1) * 2**-24 * size).all()


@pytest.mark.parametrize("shape", [(4_001,), (19, 211)])
def test_the_engine_perturbs_as_theta_is_moved(shape: tuple[int, ...], tmp_path: Path) -> None:
    """A product, rounded, then a sum, rounded: whatever ONNX Runtime makes one op of."""
    rng = np.random.default_rng(3)
    values, z, coefficients = (
        rng.standard_normal(size).astype(np.float32) for size in (shape, (1, *shape), (3, 1))
    )
    inputs = {"values": values, "z": z, "coefficients": coefficients}
    tensors = tuple(torch.from_numpy(value) for value in inputs.values())
    model = translate(torch.export.export(Call(zofx_ops.perturb), tensors))
    model.opset_imports.update({"": OPSET, ms.domain: ms.version})
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    engine = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    names = [value.name for value in engine.get_inputs()]
    (logprob,) = engine.run(None, dict(zip(names, inputs.values(), strict=True)))
    moved = np.stack([values + z[0] * c for c in coefficients[:, 0]])
    np.testing.assert_array_equal(logprob, moved)
    assert {node.op_type for node in ir.load(tmp_path / "optimized.onnx").graph} >= {"Add"}


def test_a_block_is_made_when_its_product_is_due(tmp_path: Path) -> None:
    """It waits for the tokens: what does not, ONNX Runtime makes first, for all layers."""
    write_program(compiled(CLUSTERED), tmp_path)
    (made,) = (n for n in ir.load(tmp_path / "graph.onnx").graph if n.op_type == "ScatterElements")
    zeros, places, values = made.inputs
    for value, waits in ((zeros, True), (places, True), (values, False)):
        assert ("input_ids" in read_by(value)) is waits


def read_by(value: ir.Value | None) -> set[str | None]:
    """Names of the inputs that a value is made of."""
    if value is None or (node := value.producer()) is None:
        return set() if value is None else {value.name}
    return {name for operand in node.inputs for name in read_by(operand)}


def test_a_size_is_read_once(tmp_path: Path) -> None:
    """And a node says nothing of where it came from, which ONNX Runtime would keep."""
    write_program(compiled(CLUSTERED), tmp_path)
    nodes = list(ir.load(tmp_path / "graph.onnx").graph)
    read = [
        sizes(node.inputs[0])[node.attributes.get_int("start") : node.attributes.get_int("end")]
        for node in nodes
        if node.op_type == "Shape" and node.inputs[0].shape is not None
    ]
    assert len(read) == len(set(read)) > 1
    assert not any(node.metadata_props for node in nodes)


@pytest.mark.parametrize(
    ("index", "op"),
    [
        (SCATTERED, "ScatterND"),
        (SHARED, "ScatterND"),
        (CLUSTERED, "ScatterElements"),
        (DEEP, "ScatterElements"),
    ],
)
def test_a_sparse_product_is_lowered_by_where_its_entries_are(
    index: Tensor, op: str, tmp_path: Path
) -> None:
    """Scattered entries go one by one, clustered ones as a block; both score as moved ones do."""
    program = compiled(index)
    write_program(program, tmp_path)
    ops = {
        n.op_type for n in onnx.load(tmp_path / "graph.onnx", load_external_data=False).graph.node
    }
    assert {"ScatterND", "ScatterElements"} & ops == {op}

    rng = np.random.default_rng(1)
    ids = rng.integers(0, 16, (2, 5))
    positions, targets = np.array([[1, 4], [0, 3]]), rng.integers(0, 16, (2, 2, 3))
    theta = program.load("fc.weight.slice").numpy()
    z = rng.standard_normal((1, index.numel())).astype(np.float32)
    matrix = np.array([[0.5], [-0.5], [0.0]], np.float32)
    engine = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "positions": positions,
        "targets": targets,
        "coefficients": matrix,
        "fc.weight.slice": theta,
        "fc.weight.slice.z": z,
    }
    (product,) = engine.run(None, feeds)

    embed, head = (program.load(n).double() for n in ("embed.weight", "head.weight"))
    for probe, (c,) in enumerate(matrix.tolist()):
        weight = program.load("fc.weight").double().flatten()
        weight[index] = torch.from_numpy(theta + np.float32(c) * z[0]).double()
        hidden = embed[torch.from_numpy(ids)] @ weight.view(OUT, WIDTH).T
        logits = hidden @ head.T
        rows = torch.arange(2)[:, None]
        p = logits[rows, torch.from_numpy(positions)].log_softmax(-1)
        expected = p.gather(-1, torch.from_numpy(targets)).mean(1).numpy()
        # f32 sums of WIDTH and then OUT products of the sizes at hand, twice (logit and logsumexp).
        size = float((embed.abs() @ weight.view(OUT, WIDTH).abs().T @ head.abs().T).max())
        bound = 2 * (WIDTH + OUT + 8) * 2**-24 * size
        assert np.abs(product[probe] - expected).max() <= bound


def test_the_exporter_keeps_its_advice_to_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one warning of torch.onnx, whose level is what it was before."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.addHandler(caplog.handler)  # torch's loggers do not pass on what they say
    try:
        write_program(compiled(CLUSTERED), tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.name.startswith("torch.onnx")]
    assert logger.level == level


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2", "tiny_roberta"])
def test_every_output_is_read(family: Family, model: str) -> None:
    """ONNX Runtime keeps one that is not, such as Attention's keys, to the end of a run.

    Outputs of Unique have names all the same: ONNX Runtime 1.24 takes none without.
    """
    case = next(case for case in CASES if case.model == model)
    graph = onnx.load(family.artifact(case) / "graph.onnx", load_external_data=False).graph
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    assert "Attention" in {node.op_type for node in graph.node}
    made = {n for node in graph.node if node.op_type != "Unique" for n in node.output if n}
    assert made <= read


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2", "tiny_roberta"])
def test_tables_are_inputs_with_a_default(family: Family, model: str) -> None:
    """With free rows, and nothing has to be fed; where there are none, all is constant."""
    case = next(case for case in CASES if case.model == model)
    folder = family.artifact(case)
    graph = onnx.load(folder / "graph.onnx", load_external_data=False).graph
    given = {value.name for value in graph.input} & {value.name for value in graph.initializer}
    engine = onnxruntime.InferenceSession(folder / "graph.onnx")
    assert given == {value.name for value in engine.get_overridable_initializers()}
    assert not given & {value.name for value in engine.get_inputs()}
    tables = {row.name for row in read_manifest(folder).tensors if row.role in VOCABULARY}
    assert given == tables
    assert bool(given) is (model != "tiny_roberta")  # which reads where the padding is
    for value in graph.input:
        if value.name in given:
            assert value.type.tensor_type.shape.dim[0].dim_param


def test_a_model_names_its_maker_and_every_output_before_a_named_one(
    family: Family, case: Case
) -> None:
    """zofx, not the torch that happened to be there; and onnxruntime 1.24 loads no other graph."""
    folder = family.artifact(case)
    for file in folder.glob("*.onnx"):
        model = onnx.load(file, load_external_data=False)
        assert (model.producer_name, model.producer_version) == ("zofx", __version__)
        for node in model.graph.node:
            assert "" not in node.output, node.name

"""The noise model on a stock ONNX Runtime: the same bits as numpy."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import external_data_helper
from safetensors.numpy import save_file

from zofx.errors import ArtifactError, UsageError
from zofx.runtimes.onnx_export.noise_model import TABLE_BYTES, build_noise_model
from zofx.zo.random.noise import Kind, normal_table, sample
from zofx.zo.types import FloatArray, Key, key_words

KINDS: list[Kind] = ["gaussian", "rademacher"]
TRAINABLES = {
    "one": (1,),
    "model.layers.0.mlp.weight": (37, 5),
    "exact": (16, 16),
    "over": (257,),
    "scalar": (),
    "ω": (3, 1, 100),
}
KEYS = (
    Key(0, 0),
    Key(7, 3, 2),
    Key(2**63, 2**47, 2**15),
    Key(2**64 - 1, 2**48 - 1, 2**16 - 1),
    Key(0x9E37_79B9_7F4A_7C15, 12_345_678_901),
)
Nodes = list[onnx.NodeProto]


def session(model: onnx.ModelProto | Path, **options: Any) -> ort.InferenceSession:
    """One thread, CPU only."""
    config = ort.SessionOptions()
    config.intra_op_num_threads = 1
    for name, value in options.items():
        setattr(config, name, value)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, config, providers=["CPUExecutionProvider"])


def run(engine: ort.InferenceSession, keys: tuple[Key, ...]) -> dict[str, FloatArray]:
    """Output name → value."""
    names = [output.name for output in engine.get_outputs()]
    values = engine.run(names, {"keys": key_words(keys).view(np.int64)})
    return dict(zip(names, values, strict=True))


def expect(
    actual: dict[str, FloatArray],
    kind: Kind,
    trainables: Mapping[str, tuple[int, ...]],
    keys: tuple[Key, ...],
) -> None:
    """Every trainable under every key has the bits of the numpy sampler."""
    assert list(actual) == [f"{name}.z" for name in trainables]
    for name, shape in trainables.items():
        value = actual[f"{name}.z"]
        assert value.shape == (len(keys), *shape)
        assert value.dtype == np.float32
        for row, key in zip(value, keys, strict=True):
            expected = sample(kind, key, name, shape)
            np.testing.assert_array_equal(row.view(np.uint32), expected.view(np.uint32))


def nodes(graph: onnx.GraphProto) -> Nodes:
    """The nodes of a graph and of its subgraphs."""
    inner = [
        attribute.g
        for node in graph.node
        for attribute in node.attribute
        if attribute.HasField("g")
    ]
    return [*graph.node, *(node for body in inner for node in nodes(body))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_blocks", [1, 7, 1 << 14])
def test_bits_equal_numpy(kind: Kind, max_blocks: int) -> None:
    """Any trainables under any keys, in chunks that end inside trainables, at their ends, or
    never."""
    engine = session(build_noise_model(TRAINABLES, kind, max_blocks=max_blocks))
    expect(run(engine, KEYS), kind, TRAINABLES, KEYS)


@pytest.mark.parametrize("kind", KINDS)
def test_optimizations_change_no_bit(kind: Kind) -> None:
    """The engine's constant folding of 64-bit arithmetic is exact."""
    levels = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    model = build_noise_model(TRAINABLES, kind, max_blocks=5)
    for level in levels:
        expect(run(session(model, graph_optimization_level=level), KEYS), kind, TRAINABLES, KEYS)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_keys(kind: Kind) -> None:
    """One session takes no key, one key, or many, in any order of calls."""
    engine = session(build_noise_model(TRAINABLES, kind, max_blocks=7))
    for keys in (KEYS[:1], (), KEYS * 3, KEYS[1:2]):
        expect(run(engine, keys), kind, TRAINABLES, keys)


@pytest.mark.parametrize("kind", KINDS)
def test_many_slices(kind: Kind) -> None:
    """Hundreds of small trainables share the chunks and find their own counters."""
    trainables = {f"layers.{i}.w": (1 + 97 * i % 400,) for i in range(150)}
    keys = KEYS[1:3]
    expect(run(session(build_noise_model(trainables, kind)), keys), kind, trainables, keys)


def test_a_slice_longer_than_a_chunk() -> None:
    """A trainable may pass the default chunk size, and the next one still starts at block 1."""
    trainables = {"long": (16 * 20_001,), "next": (40,)}
    engine = session(build_noise_model(trainables, "gaussian"))
    expect(run(engine, KEYS[3:4]), "gaussian", trainables, KEYS[3:4])


@pytest.mark.parametrize("kind", KINDS)
def test_model_is_stock_onnx(kind: Kind) -> None:
    """The checker accepts it, shapes included, and it uses the standard domain only."""
    model = build_noise_model(TRAINABLES, kind)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    assert {node.domain for node in nodes(model.graph)} == {""}
    assert not model.functions


@pytest.mark.parametrize("kind", KINDS)
def test_size_is_that_of_the_algorithm(kind: Kind) -> None:
    """A billion values cost no more nodes than five, and the bytes of some longer numbers."""
    file = ("weights.safetensors", 0, TABLE_BYTES)
    small = build_noise_model({"w": (5,)}, kind, table_file=file)
    large = build_noise_model({"w": (40_000, 25_000)}, kind, table_file=file)
    assert len(nodes(large.graph)) <= len(nodes(small.graph)) <= 230
    assert len(large.SerializeToString()) < 12_000
    assert large.ByteSize() - small.ByteSize() < 150
    many = build_noise_model({f"{i}": (5,) for i in range(100)}, kind, table_file=file)
    assert many.ByteSize() - small.ByteSize() < 100 * 200


def test_table_in_the_weights_file(tmp_path: Path) -> None:
    """The quantiles are read in place, from the middle of the artifact's tensors."""
    path = tmp_path / "weights.safetensors"
    backwards = normal_table()[::-1].copy()  # so that the shipped table cannot be meant
    save_file({"a": np.ones(3, np.int8), "noise": backwards, "z": np.ones(5)}, path)
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + header])["noise"]["data_offsets"]
    file = (path.name, 8 + header + begin, end - begin)
    model = build_noise_model(TRAINABLES, "gaussian", table_file=file)
    assert model.ByteSize() < 20_000
    onnx.save(model, tmp_path / "noise.onnx")
    onnx.checker.check_model(str(tmp_path / "noise.onnx"), full_check=True)
    actual = run(session(tmp_path / "noise.onnx"), KEYS)["exact.z"]
    for row, key in zip(actual, KEYS, strict=True):
        expected = sample("gaussian", key, "exact", (16, 16), table=backwards)
        np.testing.assert_array_equal(row, expected)


def test_rademacher_needs_no_table() -> None:
    """Signs are computed from the bits: the file neither holds nor refers to a table."""
    model = build_noise_model(TRAINABLES, "rademacher", table_file=("weights.safetensors", 0, 4))
    assert not any(external_data_helper.uses_external_data(t) for t in model.graph.initializer)
    assert model.ByteSize() < 20_000


def test_a_table_of_another_size() -> None:
    """A byte range that cannot be the table is refused with its place."""
    with pytest.raises(ArtifactError, match=r"at byte 16 of weights\.safetensors has 1024"):
        build_noise_model(TRAINABLES, "gaussian", table_file=("weights.safetensors", 16, 1024))


@pytest.mark.parametrize(
    ("trainables", "options", "message"),
    [
        ({}, {}, "no trainables to perturb"),
        ({"a": (1,), "b": (2, 0)}, {}, r"slice 'b' of shape \[2, 0\] has no elements"),
        ({"a": (1,)}, {"max_blocks": 0}, "max_blocks=0 computes nothing"),
        ({"a": (1,)}, {"kind": "cauchy"}, "no noise of kind 'cauchy'; there are: gaussian"),
    ],
)
def test_what_has_no_model(
    trainables: dict[str, tuple[int, ...]], options: dict[str, Any], message: str
) -> None:
    """Impossible requests are refused when the model is built."""
    with pytest.raises(UsageError, match=message):
        build_noise_model(trainables, **{"kind": "gaussian", **options})

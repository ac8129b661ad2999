"""What an engine is given holds listed ops and the artifact's own tensors, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.artifacts import CASES, Case, Family
from zofx.artifact import layout
from zofx.artifact.manifest import read_manifest
from zofx.errors import ArtifactError
from zofx.runtimes.onnx_check import NOISE_OPS, OPS, check_model, check_models


def test_what_the_compiler_writes_is_admitted(family: Family, case: Case) -> None:
    """Every model of every kind of artifact."""
    folder = family.artifact(case)
    files = [name for name in read_manifest(folder).files if name.endswith(".onnx")]
    assert layout.ONNX in files
    check_models(folder, files)


def test_every_listed_op_exists() -> None:
    """In ONNX's own table, or in the one domain beside it."""
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    own = {name for name in NOISE_OPS if "." not in name}
    assert own <= known
    assert {name.rpartition(".")[0] for name in OPS - own} == {"com.microsoft"}
    assert not OPS & {"Loop", "Scan", "Optional", "RandomNormal", "StringNormalizer"}


def add(model: onnx.ModelProto, op: str, domain: str = "", **attributes: object) -> None:
    model.graph.node.append(helper.make_node(op, [], ["y"], domain=domain, **attributes))


def with_tensor(model: onnx.ModelProto, shape: list[int], location: str) -> None:
    tensor = model.graph.initializer.add(name="t", data_type=1, dims=shape, data_location=1)
    tensor.external_data.add(key="location", value=location)


def inner(model: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Loop", [], ["z"])], "body", [], [])
    add(model, "If", then_branch=body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: add(m, "Loop"), "calls 'Loop'"),
        (lambda m: add(m, "Scan"), "calls 'Scan'"),
        (lambda m: add(m, "Add", domain="evil"), "calls 'evil.Add'"),
        (lambda m: add(m, "Attention", domain="com.microsoft"), "calls 'com.microsoft.Attention'"),
        (inner, "calls 'Loop'"),
        (lambda m: with_tensor(m, [2], "/etc/passwd"), "reads tensors from '/etc/passwd'"),
        (lambda m: with_tensor(m, [2], "../weights.safetensors"), "reads tensors from"),
        (lambda m: with_tensor(m, [1 << 30, 1 << 30], layout.WEIGHTS), "has a tensor of shape"),
        (lambda m: with_tensor(m, [-1], layout.WEIGHTS), r"has a tensor of shape \[-1\]"),
        (lambda m: m.functions.add(name="f"), "has functions of its own"),
        (lambda m: m.graph.sparse_initializer.add(), "has sparse tensors"),
        (lambda m: m.ClearField("graph"), "has no graph"),
    ],
)
def test_what_it_never_writes_is_refused(
    family: Family, change: Callable[[onnx.ModelProto], object], message: str, tmp_path: Path
) -> None:
    """Before a session is made, with the name of the file."""
    model = onnx.load(family.artifact(CASES[0]) / layout.ONNX, load_external_data=False)
    change(model)
    onnx.save(model, tmp_path / layout.ONNX)
    with pytest.raises(ArtifactError, match=rf"graph\.onnx is no model of zofx: it {message}"):
        check_model(tmp_path / layout.ONNX)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    """Damage is reported as such."""
    for data in (b"", b"\xff" * 40, b"\x3a\x05" + b"\x0a\x7f"):
        (tmp_path / "graph.onnx").write_bytes(data)
        with pytest.raises(
            ArtifactError, match=r"is no model of zofx: it (has no graph|is damaged)"
        ):
            check_model(tmp_path / "graph.onnx")

"""The artifact's folder: it exists whole or not at all, and damage to one is reported."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from safetensors.numpy import load_file

from tests.artifacts import CASES, Case, Family
from zofx.artifact.layout import MANIFEST, STAGES, TRAINABLES, WEIGHTS
from zofx.artifact.manifest import (
    Manifest,
    TensorRow,
    is_only_an_artifact,
    read_manifest,
    read_trainables,
)
from zofx.errors import ArtifactError, UsageError
from zofx.files.atomic import file_digest
from zofx.ir.schema import Result
from zofx.zo.random.direction_spec import Noise

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def copied(family: Family, tmp_path: Path) -> Path:
    """An artifact to damage."""
    return Path(shutil.copytree(family.artifact(CASES[0]), tmp_path / "copy"))


def changed(folder: Path, change: Change) -> None:
    """Edit the manifest by hand."""
    payload = json.loads((folder / MANIFEST).read_text())
    change(payload)
    (folder / MANIFEST).write_text(json.dumps(payload))


def test_the_manifest_describes_the_folder(family: Family, case: Case) -> None:
    """Every tensor with its shape and type, every file with its digest; it reads back as it was."""
    folder = family.artifact(case)
    manifest = read_manifest(folder)
    text = (folder / MANIFEST).read_text()
    assert Manifest.from_json(text, folder / MANIFEST) == manifest
    assert manifest.to_json() == text
    assert manifest.noise.kind == case.noise
    assert manifest.files == {
        p.name: file_digest(p) for p in folder.iterdir() if p.name != MANIFEST
    }
    stored = {
        role: load_file(folder / file)
        for role, file in (("trainable", TRAINABLES), ("frozen", WEIGHTS))
    }
    rows = {row.name: row for row in manifest.tensors}
    assert rows.keys() == stored["trainable"].keys() | stored["frozen"].keys()
    for name, row in rows.items():
        value = stored["trainable" if row.role == "trainable" else "frozen"][name]
        assert value.shape == row.shape
        assert f"{value.dtype.kind.upper()}{8 * value.itemsize}" == row.dtype


def test_the_manifest_tells_what_an_engine_needs(family: Family, case: Case) -> None:
    """The ops of every graph, as the files themselves have them; and whether it is in two parts."""
    folder = family.artifact(case)
    manifest = read_manifest(folder)
    graphs = {file for file in manifest.files if file.endswith((".onnx", "x.json", "h.json"))}
    assert manifest.ops.keys() == graphs
    for file, ops in manifest.ops.items():
        assert list(ops) == sorted(called(folder / file))
    assert manifest.result is Result.LOGPROB
    assert manifest.cut == (case.from_layer is not None) == ("prefix.json" in graphs)
    assert manifest.calls("zofx.linear_nf4.default") == (case.quant == "nf4")
    assert manifest.calls("com.microsoft.MatMulBnb4") == (case.quant == "nf4")


def called(graph: Path) -> set[str]:
    """The ops of a file."""
    if graph.suffix == ".json":
        nodes = json.loads(graph.read_text(encoding="utf-8"))
        return {node["target"] for node in nodes if node["op"] == "call"}
    return {
        f"{n.domain}.{n.op_type}".lstrip(".")
        for n in nodes_of(onnx.load(graph, load_external_data=False).graph)
    }


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of its branches and loops, too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def test_tensors_lie_on_multiples_of_their_elements(family: Family, case: Case) -> None:
    """An engine may use the mapped bytes in place."""
    data = (family.artifact(case) / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 64 == 0
    end = 0
    for row in header.values():
        begin, finish = row["data_offsets"]
        width = int(row["dtype"].strip("BFIUOL") or 8) // 8
        assert begin == end
        assert begin % width == 0
        end = finish
    assert 8 + length + end == len(data)


def test_the_report_is_not_part_of_the_identity(family: Family) -> None:
    """Compiled again, slower, it is the same artifact; with another tensor it is not."""
    manifest = read_manifest(family.artifact(CASES[0]))
    assert replace(manifest, report={"seconds": {"capture": 1e9}}).hash == manifest.hash
    row = TensorRow("new", "frozen", (1,), "F32", None, "", None)
    assert replace(manifest, tensors=(*manifest.tensors, row)).hash != manifest.hash
    assert replace(manifest, noise=Noise("rademacher")).hash != manifest.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(version=7), "version 7, this zofx reads 8"),
        (
            lambda fields: fields.update(version=9, tensors="elsewhere"),
            "version 9, this zofx reads 8",
        ),
        (lambda fields: fields.update(format="zip"), "not a zofx manifest"),
        (lambda fields: fields.pop("version"), r"not a zofx manifest \(KeyError: 'version'\)"),
        (lambda fields: fields.pop("noise"), "not a zofx manifest"),
        (lambda fields: fields["tensors"][0].pop("form"), "not a zofx manifest"),
        (lambda fields: fields.update(result="loss"), "not a zofx manifest"),
        (lambda fields: fields["ops"].clear(), "was changed after it was written"),
        (lambda fields: fields["tensors"].pop(), "was changed after it was written"),
        (
            lambda fields: fields["noise"].update(kind="rademacher"),
            "was changed after it was written",
        ),
        (lambda fields: fields["files"].clear(), "was changed after it was written"),
    ],
)
def test_a_manifest_that_was_edited(copied: Path, change: Change, message: str) -> None:
    """Each kind of damage has its message, with what to do."""
    changed(copied, change)
    with pytest.raises(
        ArtifactError, match=rf"manifest\.json .*{message}.*compile the model again"
    ):
        read_manifest(copied)


def test_a_manifest_cut_anywhere(copied: Path) -> None:
    """No prefix of a manifest is one."""
    whole = (copied / MANIFEST).read_bytes().rstrip()
    for cut in (0, 1, *range(7, len(whole), 331), len(whole) - 1):
        (copied / MANIFEST).write_bytes(whole[:cut])
        with pytest.raises(ArtifactError, match=r"manifest\.json is not a zofx manifest"):
            read_manifest(copied)


def test_a_changed_byte_of_a_manifest_is_told_or_changes_nothing(copied: Path) -> None:
    """Outside the report, which is no part of the identity, no byte can change unnoticed."""
    whole, before = (copied / MANIFEST).read_bytes(), read_manifest(copied)
    for place in range(0, len(whole), 41):
        for flip in (0x80, 0x01):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            (copied / MANIFEST).write_bytes(damaged)
            try:
                manifest = read_manifest(copied, check=False)
            except ArtifactError:
                continue
            assert replace(manifest, report=before.report) == before


def test_a_file_that_is_missing_or_damaged(copied: Path) -> None:
    """Named, whichever it is; without `check` only that it is there is asked."""
    files = list(read_manifest(copied).files)
    for name in files:
        whole = (copied / name).read_bytes()
        (copied / name).write_bytes(whole[:-1])
        with pytest.raises(ArtifactError, match=rf"{name} is damaged: its SHA-256"):
            read_manifest(copied)
        read_manifest(copied, check=False)
        (copied / name).unlink()
        with pytest.raises(ArtifactError, match=f"lacks {name}; compile the model again"):
            read_manifest(copied, check=False)
        (copied / name).write_bytes(whole)
    assert read_manifest(copied).files.keys() == set(files)


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    """Says how to make one."""
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"is not a compiled artifact.*zofx compile"):
            read_manifest(folder)


def test_slices_are_writable_copies(copied: Path) -> None:
    """Moving θ leaves the file alone; a file that is none is an error."""
    before = file_digest(copied / TRAINABLES)
    for values in read_trainables(copied).values():
        values += 1
    assert file_digest(copied / TRAINABLES) == before
    (copied / TRAINABLES).write_bytes(b"\x00" * 20)
    with pytest.raises(ArtifactError, match=r"trainables\.safetensors cannot be read"):
        read_trainables(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop(WEIGHTS), f"does not list {WEIGHTS}"),
        (lambda files: files.pop("graph.json"), "does not list graph.json"),
        (lambda files: files.update({"../../etc/passwd": ""}), "lists '../../etc/passwd'"),
        (lambda files: files.update({"notes.txt": ""}), "lists 'notes.txt'"),
    ],
)
def test_the_list_of_files_is_closed(copied: Path, change: Change, message: str) -> None:
    """Also where the manifest's own hash was made again: nothing is outside, nothing unchecked."""
    manifest = read_manifest(copied)
    files = dict(manifest.files)
    change(files)
    (copied / MANIFEST).write_text(replace(manifest, files=files).to_json())
    with pytest.raises(ArtifactError, match=message):
        read_manifest(copied)


SPECIAL = {
    "bos_id": 0,
    "eos_id": None,
    "mask_id": None,
    "pad_id": 1,
    "adds_bos": True,
    "end_ids": [],
}


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"schedule": None}},
        {"model": {"max_positions": -1}},
        {"model": {"special": []}},
        {"model": {"special": {**SPECIAL, "pad_id": {}}}},
        {"model": {"special": {**SPECIAL, "bos_id": -1}}},
        {"model": {"special": {**SPECIAL, "adds_bos": 1}}},
        {"model": {"special": {**SPECIAL, "end_ids": [None]}}},
        {"model": {"source": 7}},
        {"config": {"eos_token_id": [1, None, "x"]}},
    ],
    ids=str,
)
def test_values_of_another_kind_are_reported(copied: Path, change: dict[str, Any]) -> None:
    """Also where the manifest's own hash was made again."""
    manifest = read_manifest(copied)
    whole = {name: {**getattr(manifest, name), **part} for name, part in change.items()}
    (copied / MANIFEST).write_text(replace(manifest, **whole).to_json())
    with pytest.raises(ArtifactError, match="is of the wrong kind"):
        read_manifest(copied)


def test_only_an_artifact_and_nothing_else_is_replaced(copied: Path) -> None:
    """Of any version, with or without printed stages; not with a file of the user's in it."""
    assert is_only_an_artifact(copied)
    (copied / STAGES).mkdir()
    changed(copied, lambda fields: fields.update(version=1))
    assert is_only_an_artifact(copied)
    (copied / "run").mkdir()
    assert not is_only_an_artifact(copied)
    for text in ("", "[]", "{}", '{"format": "zip", "files": {}}', "[" * 100_000):
        (copied / "run").rmdir() if (copied / "run").exists() else None
        (copied / MANIFEST).write_text(text)
        assert not is_only_an_artifact(copied)
    assert not is_only_an_artifact(copied / "absent")

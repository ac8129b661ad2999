"""Merging: what passes took apart is the checkpoint again, and answers as the session does."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from tests.artifacts import CASES, Case, Family
from tests.loads import KEYS, Load, batch
from tests.runtimes import reference
from zofx.artifact.layout import MANIFEST, WEIGHTS
from zofx.artifact.manifest import Manifest, TensorRow, read_manifest
from zofx.artifact.merge import merged_tensors
from zofx.errors import UnsupportedError
from zofx.models.hf_export import export_hf
from zofx.runtimes import RUNTIMES
from zofx.session import Session, unperturbed
from zofx.zo.types import FloatArray, Ray

UNIT = 2.0**-24
ASKED = Load("three rows", batch(3, 9, 2, 3, "left"), unperturbed())
MOVES = [Ray(key, coefficient) for key, coefficient in zip(KEYS, (0.02, -0.01, 0.05), strict=True)]
NF4_GAP = 0.152  # half the widest gap between two of its levels, in units of absmax


@pytest.fixture(scope="module")
def folder(family: Family, case: Case) -> Path:
    return family.artifact(case)


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


@pytest.fixture(scope="module")
def original(family: Family, case: Case) -> dict[str, Tensor]:
    """The checkpoint's file."""
    stored: dict[str, Tensor] = load_file(family.checkpoint(case) / "model.safetensors")
    return stored


@pytest.fixture(scope="module")
def merged(folder: Path) -> dict[str, Tensor]:
    """Before any training."""
    return dict(merged_tensors(folder))


def parts(manifest: Manifest, form: str) -> dict[str, list[TensorRow]]:
    """The rows of some form, by the weight they come from."""
    rows: dict[str, list[TensorRow]] = {}
    for row in manifest.tensors:
        if row.form == form:
            rows.setdefault(str(row.origin), []).append(row)
    return rows


def as_read(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """A weight as the program reads it: `NAME.T` is the transpose of `NAME`."""
    return tensors[name[:-2]].t() if name.endswith(".T") else tensors[name]


def test_every_tensor_comes_back_under_its_own_name(
    merged: dict[str, Tensor], original: dict[str, Tensor]
) -> None:
    """With its shape; what no pass touched has the same bits."""
    assert original.keys() - merged.keys() == set()
    for name, value in original.items():
        assert merged[name].shape == value.shape
        if value.dim() < 2:
            assert torch.equal(merged[name], value)


def test_a_trained_coordinate_begins_at_its_weight(
    manifest: Manifest, folder: Path, merged: dict[str, Tensor], original: dict[str, Tensor]
) -> None:
    """Exactly, whatever the format of the rest; with a codebook, up to a difference and a sum."""
    stored = load_file(folder / WEIGHTS)
    indices = parts(manifest, "index")
    assert indices
    for name, (index,) in indices.items():
        places = stored[index.name].long()
        before = as_read(name, original).flatten()[places]
        after = as_read(name, merged).flatten()[places]
        if name in parts(manifest, "codebook"):
            size = before.abs() + stored[f"{name}.centroids"].abs().max()
            assert ((after - before).abs() <= 2 * UNIT * size).all()
        else:
            assert torch.equal(after, before)


def stated_bound(form: str, weight: Tensor, values: list[Tensor]) -> Tensor:
    """How far a frozen weight may be from what it was, by the page of its format."""
    if form == "codebook":
        _, centroids = values
        return (weight[..., None] - centroids[:, None, :]).abs().amin(-1)
    scales = values[1].view(len(weight), -1, 1)
    share = NF4_GAP if form == "nf4" else 0.5
    return (share * scales).expand(-1, -1, weight.shape[1] // scales.shape[1]).reshape(weight.shape)


def test_a_frozen_weight_is_within_the_bound_of_its_format(
    manifest: Manifest, folder: Path, case: Case, merged: dict[str, Tensor],
    original: dict[str, Tensor],
) -> None:  # fmt: skip
    """Half a step for integers, half a gap for nf4, the nearest centroid for a codebook."""
    stored = load_file(folder / WEIGHTS)
    quantized = parts(manifest, case.quant)
    assert bool(quantized) is (case.quant != "none")
    for name, rows in quantized.items():
        before, after = as_read(name, original), as_read(name, merged)
        bound = stated_bound(case.quant, before, [stored[row.name] for row in rows])
        error = (after - before).abs()
        if f"{name}.index" in stored:
            trained = stored[f"{name}.index"].long()
            bound = bound.flatten().index_fill(0, trained, UNIT).view(bound.shape)
        assert (error <= bound + 4 * UNIT * (before.abs() + after.abs())).all(), name
        assert error.max() > 0
    touched = {name.removesuffix(".T") for name in quantized}
    for name in original.keys() - touched:
        assert torch.equal(merged[name], original[name])


def loaded(folder: Path, manifest: Manifest, theta: Mapping[str, FloatArray], out: Path) -> Any:
    """The exported checkpoint, by transformers alone."""
    export_hf(manifest.config, None, merged_tensors(folder, theta), out, None)
    masked = manifest.model["architecture"] == "masked-lm"
    return (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(out).eval()


def scores(model: Any, causal: bool) -> Tensor:
    """What `ASKED` asks for, in float64, from transformers' own forward."""
    given = {name: torch.from_numpy(value) for name, value in ASKED.batch.named().items()}
    mask, targets = given["attention_mask"], given["targets"]
    more = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if causal else {}
    with torch.no_grad():
        logits = model(input_ids=given["input_ids"], attention_mask=mask, **more).logits.double()
    log_probability = logits[torch.arange(len(mask))[:, None], given["positions"]].log_softmax(-1)
    chosen = log_probability.gather(-1, targets.clamp(min=0)) * (targets >= 0)
    mean: Tensor = chosen.sum(1) / (targets >= 0).sum(1).clamp(min=1)
    return mean


def test_the_export_answers_as_the_trained_session_does(
    session: Session, manifest: Manifest, folder: Path, tmp_path: Path
) -> None:
    """With θ moved, both stay within the rounding error of the program, so within twice of it."""
    session.move(MOVES)
    theta = session.read()
    wanted, bound = reference.evaluate(folder, ASKED.batch, (), ASKED.matrix, theta)
    causal = manifest.model["architecture"] == "causal-lm"
    exported = scores(loaded(folder, manifest, theta, tmp_path / "out"), causal).numpy()
    assert (np.abs(exported - ASKED.on(session)[0]) <= 2 * bound[0]).all()
    begun, _ = reference.evaluate(folder, ASKED.batch, (), ASKED.matrix)
    assert np.abs(begun - wanted).max() > 100 * bound.max()


GPT2 = next(case for case in CASES if case.model == "tiny_gpt2")


def test_transposed_weights_are_restored(family: Family) -> None:
    """GPT-2 stores [in, out]; θ moved at (row, column) of what is read arrives at (column, row)."""
    folder = family.artifact(GPT2)
    session = RUNTIMES["torch"].load(folder)
    before, start = dict(merged_tensors(folder)), session.read()
    session.move(MOVES)
    after, theta = dict(merged_tensors(folder, session.read())), session.read()
    stored = load_file(folder / WEIGHTS)
    name = "transformer.h.0.mlp.c_fc.weight"
    assert before[name].shape == (32, 128)
    places = stored[f"{name}.T.index"].long()
    moved = (after[name] - before[name]).nonzero()
    assert {(int(c), int(r)) for r, c in moved} == {divmod(int(p), 32) for p in places}
    rows, columns = places // 32, places % 32
    step = theta[f"{name}.T.slice"] - start[f"{name}.T.slice"]
    change = (after[name] - before[name])[columns, rows]
    torch.testing.assert_close(change, torch.from_numpy(step), rtol=0, atol=float(4 * UNIT))
    session.close()


def test_an_adapter_is_in_no_weight(family: Family, tmp_path: Path) -> None:
    """Nothing is exported, and the error says what trains and where to use it."""
    folder = shutil.copytree(family.artifact(GPT2), tmp_path / "art")
    manifest = read_manifest(folder)
    row = TensorRow("prefix.0.key", "trainable", (2, 5, 16), "F32", None, "adapter", None)
    changed = replace(manifest, tensors=(*manifest.tensors, row))
    (folder / MANIFEST).write_text(changed.to_json())
    tensors = merged_tensors(folder)
    with pytest.raises(UnsupportedError, match="trains a prefix, which stands before the text"):
        export_hf(manifest.config, None, tensors, tmp_path / "out", None)
    assert [path.name for path in tmp_path.iterdir()] == ["art"]

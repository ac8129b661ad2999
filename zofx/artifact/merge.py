"""Artifact + θ → the checkpoint's own tensors: what passes took apart is put together again.

    W = θ                              where it trains whole
    W = Ŵ + scatter(θ, index)          Ŵ from the artifact's codes: the model that was trained
    W = Ŵ + gain · left · θ · right    where a thin matrix trains beside it
    W = (W.T)ᵀ                         where canonicalize stored a transpose

One tensor at a time: memory is that of the largest.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest, TensorRow, read_manifest, read_trainables
from zofx.errors import UnsupportedError
from zofx.ir.formats import FORMATS
from zofx.ir.schema import Form, checkpoint_name
from zofx.zo.random.direction_spec import Basis, Noise
from zofx.zo.types import FloatArray


def merged_tensors(
    folder: Path, theta: Mapping[str, FloatArray] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the checkpoint an artifact was compiled from, with θ merged in.

    Args:
        folder: the artifact.
        theta: trainables after a run; None takes their initial values.

    Yields:
        (name in the transformers model, f32 or as stored), every tensor the program reads.

    Raises:
        UnsupportedError: what trains is in no weight of the checkpoint.
    """
    manifest = read_manifest(folder)
    _refuse_adapters(folder, manifest)
    moved = read_trainables(folder) if theta is None else theta

    def load(name: str) -> Tensor:
        if name in moved:
            return torch.from_numpy(moved[name])
        # Opened for every tensor: a mapping that stays open keeps its pages in memory.
        with safe_open(folder / layout.WEIGHTS, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    for name, rows in _by_weight(manifest).items():
        yield _restored(name, rows, manifest.noise, load)


def _refuse_adapters(folder: Path, manifest: Manifest) -> None:
    trained = next((row.name for row in manifest.tensors if row.form == Form.ADAPTER), None)
    if trained:
        raise UnsupportedError(
            f"{folder} cannot be merged into a checkpoint",
            [
                f"it trains a {trained.partition('.')[0]}, which stands before the text and is "
                "part of no weight; use it from the artifact and its run: "
                "`zofx eval DIR --run RUN`"
            ],
        )


def _by_weight(manifest: Manifest) -> dict[str, list[TensorRow]]:
    """The rows of the table that make up each weight, by the name passes knew it under."""
    groups: dict[str, list[TensorRow]] = {}
    for row in manifest.tensors:
        if row.form != Form.COMPUTED:
            derived = row.origin if row.origin and row.form != Form.TRANSPOSED else row.name
            groups.setdefault(derived, []).append(row)
    return groups


def _restored(
    name: str,
    rows: list[TensorRow],
    noise: Noise,
    load: Callable[[str], Tensor],
) -> tuple[str, Tensor]:
    by_form = {row.form: row for row in rows}
    parts = [row for row in rows if row.form in FORMATS]
    weight = _dequantized(parts, load) if parts else load(name)
    if Form.SLICE in by_form:
        index = load(by_form[Form.INDEX].name).long()
        weight = weight.clone(memory_format=torch.contiguous_format)
        weight.view(-1)[index] += load(by_form[Form.SLICE].name)
    if Form.LOW_RANK in by_form:
        thin = by_form[Form.LOW_RANK].name
        weight = weight + _product(load(thin), noise.bases[thin], load)
    stored = checkpoint_name(name)
    return stored, weight if stored == name else weight.t()


def _product(thin: Tensor, basis: Basis, load: Callable[[str], Tensor]) -> Tensor:
    """Gain · left · A · right."""
    left = load(basis.left) @ thin if basis.left else thin
    return basis.gain * (left @ load(basis.right))


def _dequantized(parts: list[TensorRow], load: Callable[[str], Tensor]) -> Tensor:
    """f32[out, in]; the parts are in the order of the format's."""
    first = parts[0]
    assert first.origin_shape is not None  # every matrix stored as codes has one
    out, width = first.origin_shape
    return FORMATS[first.form].dequantize(tuple(load(row.name) for row in parts), (out, width))

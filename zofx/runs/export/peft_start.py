"""A LoRA adapter of PEFT's as the start of an artifact that trains LoRA.

    adapter_model.safetensors, adapter_config.json ──▶ θ: A, and B · (scale of the adapter / gain)

W + gain · B · A is then what PEFT computes, to a rounding of B where the scales differ. Everything
in the adapter has to have its place, and everything that trains its values: nothing is left out
silently. No torch.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from zofx.artifact.manifest import Manifest, TensorRow, read_manifest, read_trainables
from zofx.artifact.safetensors_writer import spans
from zofx.errors import ArtifactError, UnsupportedError, UsageError
from zofx.files.strict_json import parse_json
from zofx.ir.schema import Form, Role
from zofx.runs.export.peft import CONFIG, PREFIX, WEIGHTS
from zofx.zo.types import FloatArray

NUMPY: Final = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
LETTERS: Final = ("A", "B")


def start_of(artifact: Path, adapter: Path) -> dict[str, FloatArray]:
    """θ of an artifact, with the values of an adapter.

    Args:
        artifact: one that trains LoRA.
        adapter: a folder that PEFT's `save_pretrained` wrote.

    Raises:
        UsageError: there is no adapter, or its rank is another one.
        UnsupportedError: it changes what the artifact does not train, or the other way round.
        ArtifactError: it is damaged.
    """
    manifest = read_manifest(artifact)
    config = _config(adapter)
    given = _tensors(adapter / WEIGHTS)
    theta = read_trainables(artifact)
    if unknown := sorted(set(theta) - {n for names in _pairs(manifest) for n in names[1:]}):
        raise _unfit(adapter, f"the artifact trains {unknown[0]}, which is no LoRA")
    for module, down, up in _pairs(manifest):
        pair = [given.pop(f"{PREFIX}{module}.lora_{letter}.weight", None) for letter in LETTERS]
        if pair[0] is None or pair[1] is None:
            raise _unfit(adapter, f"it has nothing for {module}; compile with a narrower "
                         "`--set insert-lora.match=PATTERN`")  # fmt: skip
        if down not in theta:
            raise _unfit(adapter, f"the artifact keeps A of {module} as it was drawn (LoRA-FA)")
        scale = _scale(config, module, len(pair[0])) / manifest.noise.bases[up].gain
        for name, value in ((down, pair[0]), (up, np.float32(scale) * pair[1])):
            if value.shape != theta[name].shape:
                raise UsageError(
                    f"{adapter}: its rank for {module} is {len(pair[0])}; compile with "
                    f"`--set insert-lora.rank={len(pair[0])}` to begin with it"
                )
            theta[name] = np.ascontiguousarray(value, np.float32)
    if given:
        raise _unfit(
            adapter,
            f"the artifact has no place for its {min(given)}; compile with a wider "
            "`--set insert-lora.match=PATTERN`",
        )
    return theta


def _pairs(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """(module, name of A, name of B) of every LoRA."""
    moving = (Role.TRAINABLE, Role.EXACT)
    rows = [row for row in manifest.tensors if row.form == Form.LOW_RANK and row.role in moving]
    for row in rows:
        basis = manifest.noise.bases.get(row.name)
        if basis is not None and basis.base is None and basis.left is None:
            yield _module(row), basis.right, row.name


def _module(row: TensorRow) -> str:
    return str(row.origin).removesuffix(".T").removesuffix(".weight")


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """α/r of PEFT, or α/√r where it says so."""
    patterns = config.get("alpha_pattern") or {}
    alpha = next((v for k, v in patterns.items() if module.endswith(k)), config["lora_alpha"])
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _config(adapter: Path) -> dict[str, Any]:
    path = adapter / CONFIG
    if not path.is_file():
        raise UsageError(f"{adapter} is no adapter of PEFT's: it has no {CONFIG}")
    try:
        config: dict[str, Any] = parse_json(path.read_bytes())
        kind, _ = config["peft_type"], float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} describes no LoRA ({error}); save the adapter again"
        ) from error
    if kind != "LORA" or config.get("use_dora"):
        raise _unfit(adapter, f"it is {'DoRA' if kind == 'LORA' else kind}, not LoRA")
    return config


def _tensors(path: Path) -> dict[str, FloatArray]:
    """f32, whatever they are stored as."""
    if not path.is_file():
        raise UsageError(f"{path.parent} has no {path.name}; save the adapter as safetensors")
    values: dict[str, FloatArray] = {}
    for name, span in spans(path).items():
        if span.dtype not in NUMPY:
            raise _unfit(path.parent, f"{name} is stored as {span.dtype}")
        count = int(np.prod(span.shape))
        raw = np.fromfile(path, NUMPY[span.dtype], count, offset=span.offset).reshape(span.shape)
        wide = (raw.astype("<u4") << 16).view("<f4") if span.dtype == "BF16" else raw
        values[name] = wide.astype(np.float32)
    return values


def _unfit(adapter: Path, why: str) -> UnsupportedError:
    return UnsupportedError(f"{adapter} cannot be the start of this artifact", [why])

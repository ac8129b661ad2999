"""An adapter that `PeftModel.from_pretrained` loads: LoRA factors and their configuration.

    Factors ──▶ adapter_model.safetensors   base_model.model.MODULE.lora_A.weight f32[r, in],
                                            base_model.model.MODULE.lora_B.weight f32[out, r]
            ──▶ adapter_config.json         r, α = scale · r, the modules by their whole names

What the adapter stands beside is the artifact's own model: where its frozen matrices are stored in
8 or 4 bits, that is the artifact exported without a run. No torch. Source of the layout: PEFT,
docs/source/developer_guides/checkpoint.md.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from zofx.errors import UnsupportedError
from zofx.files.atomic import new_folder, require_free
from zofx.runs.export.card import card
from zofx.runs.export.lora import Factors, factors_of
from zofx.runs.export.subject import Subject
from zofx.tasks.conventions import is_masked

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
PREFIX: Final = "base_model.model."
WHAT: Final = "A LoRA adapter for PEFT. It was trained by [zofx](https://github.com/zofx/zofx)."
TASKS: Final = {"causal-lm": "CAUSAL_LM", "masked-lm": None}


@dataclass(frozen=True)
class Written:
    """What an adapter holds.

    Attributes:
        matrices: how many it changes.
        rank: r.
        error: ‖ΔW − LoRA‖ / ‖ΔW‖ over all matrices; 0 where the method trains LoRA itself.
    """

    matrices: int
    rank: int
    error: float


def export_peft(
    subject: Subject, out: Path, *, base: str | None = None, rank: int | None = None
) -> Written:
    """Write an adapter.

    Args:
        subject: an artifact at some θ.
        out: the folder to make.
        base: the model that the configuration names; None takes the name it was compiled under.
        rank: of a LoRA that approximates what trained, where that is none; None refuses.

    Raises:
        UsageError: the folder is taken.
        UnsupportedError: what trained has no LoRA, or none without an error and no rank is given.
    """
    require_free(out)
    factors = list(factors_of(subject, rank))
    if not factors:
        raise UnsupportedError(
            f"{subject.folder} cannot be written as LoRA", ["none of its matrices has moved"]
        )
    written = Written(len(factors), max(f.rank for f in factors), _error(factors))
    with new_folder(out) as folder:
        save_file(_tensors(factors), folder / WEIGHTS, metadata={"format": "pt"})
        config = _config(subject, factors, base)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        named = config["base_model_name_or_path"]
        text = card(
            subject, WHAT, _notes(subject, written, named), library_name="peft", base_model=named
        )
        (folder / "README.md").write_text(text, encoding="utf-8")
    return written


def base_note(subject: Subject) -> str | None:
    """Which model the adapter is exact on, where that is not the one it was compiled from."""
    if not subject.stored_as:
        return None
    return (
        f"it was trained beside matrices in {', '.join(subject.stored_as)}: load it on "
        f"`zofx export {subject.folder} --to hf` (without --run); on the original model its "
        "answers differ by what the matrices were rounded by"
    )


def _error(factors: Sequence[Factors]) -> float:
    change = sum(f.change**2 for f in factors if f.change is not None)
    return float(np.sqrt(sum(f.lost**2 for f in factors) / change)) if change else 0.0


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


def _common_scale(factors: Sequence[Factors]) -> float | None:
    scales = {(f.scale, f.rank) for f in factors}
    return factors[0].scale if len(scales) == 1 else None


def _tensors(factors: Sequence[Factors]) -> dict[str, Any]:
    """α carries a scale that all have; other scales are in B."""
    common = _common_scale(factors)
    return {
        f"{PREFIX}{_module(f.weight)}.lora_{letter}.weight": np.ascontiguousarray(
            value, dtype=np.float32
        )
        for f in factors
        for letter, value in (
            ("A", f.down),
            ("B", f.up if common is not None else np.float32(f.scale) * f.up),
        )
    }


def _config(subject: Subject, factors: Sequence[Factors], base: str | None) -> dict[str, Any]:
    rank = factors[0].rank
    scale = _common_scale(factors)
    others = {_module(f.weight): f.rank for f in factors if f.rank != rank}
    alphas = others if scale is None else {}
    return {
        "peft_type": "LORA",
        "task_type": TASKS[subject.manifest.model["architecture"]],
        "base_model_name_or_path": base or subject.manifest.model["source"],
        "r": rank,
        "lora_alpha": rank if scale is None else scale * rank,
        "rank_pattern": others,
        "alpha_pattern": alphas,
        "target_modules": [_module(f.weight) for f in factors],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(f.transposed for f in factors),
        "inference_mode": True,
    }


def _notes(subject: Subject, written: Written, base: str) -> list[str]:
    usage = (
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), "
        "FOLDER)\n```"
    )
    notes = [usage.replace("CausalLM", "MaskedLM")] if _masked(subject) else [usage]
    if note := base_note(subject):
        notes.append(note[0].upper() + note[1:] + ".")
    if written.error:
        notes.append(
            f"**It approximates what was trained**: of the change of {written.matrices} matrices, "
            f"a relative error of {written.error:.4f} (Frobenius) is left out at rank "
            f"{written.rank}. The accuracies below are of what was trained, not of this adapter."
        )
    return notes


def _masked(subject: Subject) -> bool:
    return is_masked(subject.manifest.model)

"""Adapters: PEFT loads them beside the exported base, and they answer as the merged export does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from zofx.api.export import ExportOptions, export
from zofx.errors import UnsupportedError, UsageError
from zofx.runs.export.subject import Subject

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # peft asks transformers for it
)

IDS = torch.arange(5, 17)[None]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        answer: Tensor = model.eval()(input_ids=IDS).logits
    return answer


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["lora", "transposed"])
def test_peft_loads_what_was_trained(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Base and adapter: the logits of the merged export within float32 rounding; not the base's."""
    subject: Subject = request.getfixturevalue(name)
    export(Subject.of(subject.folder), "hf", tmp_path / "base")
    export(subject, "hf", tmp_path / "merged")
    note = export(subject, "peft", tmp_path / "out", ExportOptions(base=str(tmp_path / "base")))
    assert ("it was trained beside matrices in int8" in (note or "")) is (name == "lora")
    base = load(tmp_path / "base")
    before, wanted = logits(base), logits(load(tmp_path / "merged"))
    adapted = logits(PeftModel.from_pretrained(base, tmp_path / "out"))
    size = float(wanted.abs().max())
    assert (adapted - wanted).abs().max() <= 64 * 2**-24 * size  # a few sums of some 64 terms
    assert (before - wanted).abs().max() > 1000 * 2**-24 * size


def test_the_configuration_names_whole_modules(lora: Subject, tmp_path: Path) -> None:
    """Rank, α and the model as it was compiled; the card says which base is exact."""
    export(lora, "peft", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16.0)
    assert config["base_model_name_or_path"] == lora.manifest.model["source"]
    assert "model.layers.0.mlp.down_proj" in config["target_modules"]
    assert len(config["target_modules"]) == 7
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It was trained beside matrices in int8" in card


def test_single_weights_are_refused_or_approximated(sparse: Subject, tmp_path: Path) -> None:
    """Without --rank the reason; with it the error left out, which falls to 0 at full rank."""
    with pytest.raises(
        UnsupportedError, match="trains weights of a matrix one by one, which no LoRA"
    ):
        export(sparse, "peft", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    note = export(sparse, "peft", tmp_path / "two", ExportOptions(rank=2)) or ""
    error = float(note.partition("relative error of ")[2].partition(" ")[0])
    assert 0.1 < error < 1
    assert f"a relative error of {error:.4f}" in (tmp_path / "two" / "README.md").read_text()

    export(Subject.of(sparse.folder), "hf", tmp_path / "base")
    export(sparse, "hf", tmp_path / "merged")
    export(sparse, "peft", tmp_path / "full", ExportOptions(rank=32))
    wanted = logits(load(tmp_path / "merged"))
    gaps = [
        float((logits(PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / name)) - wanted)
              .abs().max())
        for name in ("two", "full")
    ]  # fmt: skip
    assert gaps[1] < 1e-5 < gaps[0]


def test_options_of_another_format_are_refused(lora: Subject, tmp_path: Path) -> None:
    """Nothing is ignored: an option that a format does not take is an error."""
    with pytest.raises(UsageError, match="--rank is of --to peft, not of --to hf"):
        export(lora, "hf", tmp_path / "out", ExportOptions(rank=3))
    with pytest.raises(UsageError, match="--dtype is of --to hf, gguf, not of --to peft"):
        export(lora, "peft", tmp_path / "out", ExportOptions(dtype="float16"))

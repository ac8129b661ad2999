"""A LoRA adapter as the start: PEFT's own files, exactly, or refused with what does not fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from transformers import AutoModelForCausalLM

from tests.compiled import run_zofx
from zofx.api.export import export
from zofx.artifact.manifest import read_trainables
from zofx.errors import UnsupportedError, UsageError
from zofx.runs.export.peft_start import start_of
from zofx.runs.export.subject import Subject

IDS = torch.arange(5, 17)[None]


def test_an_export_comes_back_bit_by_bit(lora: Subject, tmp_path: Path) -> None:
    """θ → adapter → θ; the verb writes an artifact that begins there."""
    export(lora, "peft", tmp_path / "adapter")
    theta = start_of(lora.folder, tmp_path / "adapter")
    assert theta.keys() == lora.theta.keys()
    for name, values in theta.items():
        np.testing.assert_array_equal(values, lora.theta[name])
    made = run_zofx("merge", lora.folder, "--adapter", "adapter", "-o", "art", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "at the values of adapter" in made.stdout
    for name, values in read_trainables(tmp_path / "art").items():
        np.testing.assert_array_equal(values, lora.theta[name])
    both = run_zofx("merge", lora.folder, "-o", "other", cwd=tmp_path)
    assert (both.returncode, "give --run or --adapter" in both.stderr) == (2, True)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_what_peft_saved_answers_as_peft_does(lora: Subject, tmp_path: Path) -> None:
    """An adapter that PEFT made, with another α: the merged export has PEFT's logits."""
    export(Subject.of(lora.folder), "hf", tmp_path / "base")
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    made = get_peft_model(base, LoraConfig(r=8, lora_alpha=24, target_modules=modules))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        wanted = made.eval()(input_ids=IDS).logits
    made.save_pretrained(tmp_path / "adapter")
    begun = replace(Subject.of(lora.folder), theta=start_of(lora.folder, tmp_path / "adapter"))
    export(begun, "hf", tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        gap = (again(input_ids=IDS).logits - wanted).abs().max()
    assert gap <= 64 * 2**-24 * wanted.abs().max()


def test_half_precision_is_read_as_it_is(lora: Subject, tmp_path: Path) -> None:
    """bfloat16 and float16, which numpy may not know."""
    export(lora, "peft", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = load_torch(file)
    for dtype in (torch.bfloat16, torch.float16):
        save_torch({name: value.to(dtype) for name, value in whole.items()}, file)
        theta = start_of(lora.folder, tmp_path / "adapter")
        name = "model.layers.0.mlp.up_proj.weight.lora_A"
        stored = whole["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].to(dtype)
        np.testing.assert_array_equal(theta[name], stored.float().numpy())


def test_what_does_not_fit_is_refused(lora: Subject, transposed: Subject, tmp_path: Path) -> None:
    """Too few matrices, too many, another rank, another kind, a frozen A, no adapter."""
    export(lora, "peft", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = load_file(file)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_bytes())

    def refused(match: str, error: type[Exception], artifact: Path = lora.folder) -> None:
        with pytest.raises(error, match=match):
            start_of(artifact, tmp_path / "adapter")

    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    save_file({n: v for n, v in whole.items() if n != name}, file)
    refused("it has nothing for model.layers.0.mlp.up_proj", UnsupportedError)
    save_file({**whole, "base_model.model.lm_head.lora_A.weight": whole[name]}, file)
    refused("no place for its base_model.model.lm_head", UnsupportedError)
    save_file({n: np.ascontiguousarray(v[:4] if "lora_A" in n else v[:, :4])
               for n, v in whole.items()}, file)  # fmt: skip
    refused("insert-lora.rank=4", UsageError)
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "peft_type": "IA3"})
    )
    refused("it is IA3, not LoRA", UnsupportedError)
    shutil.rmtree(tmp_path / "adapter")
    refused("is no adapter of PEFT's", UsageError)
    export(transposed, "peft", tmp_path / "adapter")
    refused("keeps A of transformer.h.0.attn.c_attn as it was drawn", UnsupportedError,
            transposed.folder)  # fmt: skip

"""Exported folders load offline with from_pretrained and are the same model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from zofx.errors import ArtifactError, UsageError
from zofx.models.checkpoint import build_on_meta, open_checkpoint
from zofx.models.hf_export import Beside, export_hf
from zofx.models.tokenizer import SpecialTokens

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, intermediate_size=32),
    "llama-tied": LlamaConfig(**SIZES, intermediate_size=32, tie_word_embeddings=True),
    "mixtral": MixtralConfig(
        **SIZES, intermediate_size=32, num_local_experts=3, num_key_value_heads=1
    ),
    "opt": OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=16),
    "gpt2": GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "roberta": RobertaConfig(**SIZES, intermediate_size=32),
}


def auto(name: str) -> Any:
    return AutoModelForMaskedLM if name == "roberta" else AutoModelForCausalLM


def parameters(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    return iter(model.state_dict().items())


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_round_trip_gives_the_same_model(name: str, tmp_path: Path) -> None:
    """Saved, opened, exported in shards or one file, loaded: equal weights and equal logits."""
    model = auto(name).from_config(CONFIGS[name]).eval()
    model.save_pretrained(tmp_path / "saved")
    checkpoint = open_checkpoint(str(tmp_path / "saved"))
    recipes = checkpoint.resolve(build_on_meta(checkpoint.config, checkpoint.architecture))
    ids = torch.arange(3, 19)[None]
    expected = model(input_ids=ids).logits
    for limit in (4000, 1 << 30):
        out = tmp_path / f"out-{limit}"
        tensors = ((parameter, recipe()) for parameter, recipe in recipes.items())
        export_hf(checkpoint.config.to_dict(), None, tensors, out, None, shard_bytes=limit)
        assert ("model.safetensors" in files(out)) is (limit > 4000)
        assert ("generation_config.json" in files(out)) is (name != "roberta")
        again = auto(name).from_pretrained(out).eval()
        state = again.state_dict()
        assert all(torch.equal(state[n], value) for n, value in parameters(model))
        assert torch.equal(again(input_ids=ids).logits, expected)
        assert open_checkpoint(str(out)).architecture == checkpoint.architecture


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    """Both ends of a tie may be offered; the file holds one of them."""
    model = auto("opt").from_config(CONFIGS["opt"])
    export_hf(model.config.to_dict(), None, parameters(model), tmp_path / "out", None)
    exported = open_checkpoint(str(tmp_path / "out"))
    ends = {"lm_head.weight", "model.decoder.embed_tokens.weight"}
    assert ends <= model.state_dict().keys()
    assert len(ends & set(exported.tensors)) == 1


def test_weights_are_cast(tmp_path: Path) -> None:
    """dtype is that of the file and of the configuration."""
    model = auto("llama").from_config(CONFIGS["llama"])
    export_hf(model.config.to_dict(), None, parameters(model), tmp_path / "out", None, "bfloat16")
    exported = open_checkpoint(str(tmp_path / "out"))
    assert {exported.tensors[name].dtype for name in exported.tensors} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    """AutoTokenizer encodes as the exported tokenizer.json does and knows its special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:62]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate([*letters, "<s>", "</s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 62)]
    )
    special = SpecialTokens(bos_id=62, eos_id=63, pad_id=63, adds_bos=True)
    model = auto("llama").from_config(CONFIGS["llama"])
    out = tmp_path / "out"
    text = tokenizer.to_str().encode()
    export_hf(model.config.to_dict(), text, parameters(model), out, special)
    theirs = AutoTokenizer.from_pretrained(out)
    assert theirs("(13)").input_ids == tokenizer.encode("(13)").ids
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (62, 63, 63)
    assert open_checkpoint(str(out)).special == special
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id == 63


def test_how_it_writes_comes_along(tmp_path: Path) -> None:
    """Chat template, every special token, the settings of generation and a card, kept as given."""
    vocab = {"<s>": 0, "</s>": 1, "<unk>": 2, "hello": 3}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = auto("llama").from_config(CONFIGS["llama"])
    beside = Beside(
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}",
        special_tokens={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        generation={"temperature": 0.5, "top_p": 0.9, "do_sample": True, "max_new_tokens": 7},
        max_length=32,
        texts={"README.md": "# A card\n"},
    )
    out = tmp_path / "out"
    export_hf(
        model.config.to_dict(), tokenizer.to_str().encode(), parameters(model), out,
        SpecialTokens(bos_id=0, eos_id=1, pad_id=1), beside=beside,
    )  # fmt: skip
    theirs = AutoTokenizer.from_pretrained(out)
    talk = [{"role": "user", "content": "hello"}]
    assert theirs.apply_chat_template(talk, tokenize=False) == "hello "
    assert (theirs.unk_token, theirs.model_max_length) == ("<unk>", 32)
    again = open_checkpoint(str(out)).description
    assert again["chat_template"] == beside.chat_template
    assert again["special_tokens"].items() >= beside.special_tokens.items()
    assert again["generation"].items() >= beside.generation.items()
    generation = AutoModelForCausalLM.from_pretrained(out).generation_config
    assert (generation.temperature, generation.eos_token_id) == (0.5, 1)
    assert (out / "README.md").read_text() == "# A card\n"


def bad_tensors(case: str, model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tied Llama with one mistake."""
    tensors = dict(parameters(model))
    match case:
        case "lacks":
            del tensors["model.norm.weight"]
        case "unknown":
            tensors["model.norm.bias"] = torch.zeros(16)
        case "misshapen":
            tensors["model.norm.weight"] = torch.zeros(15)
        case "untied":
            tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
        case "twice":
            yield "model.norm.weight", tensors["model.norm.weight"]
    yield from tensors.items()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("lacks", r"the export lacks 1 tensors, the first is model\.norm\.weight"),
        ("unknown", r"model\.norm\.bias \[16\]: LlamaForCausalLM has no such tensor"),
        ("misshapen", r"model\.norm\.weight \[15\]: LlamaForCausalLM has \[16\]"),
        ("untied", r"lm_head\.weight: model\.embed_tokens\.weight was written"),
        ("twice", r"cannot export model\.norm\.weight: model\.norm\.weight was written"),
    ],
)
def test_a_wrong_set_of_tensors_writes_nothing(case: str, message: str, tmp_path: Path) -> None:
    """An export that is not exactly the model fails, and leaves no temporary files either."""
    model = auto("llama-tied").from_config(CONFIGS["llama-tied"])
    with pytest.raises(ArtifactError, match=message):
        export_hf(model.config.to_dict(), None, bad_tensors(case, model), tmp_path / "out", None)
    assert files(tmp_path) == set()


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    """Nothing is overwritten, and an unknown dtype is refused before anything is written."""
    model = auto("llama").from_config(CONFIGS["llama"])
    config = model.config.to_dict()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("")
    with pytest.raises(UsageError, match="exists already; choose another -o, or remove it first"):
        export_hf(config, None, parameters(model), tmp_path / "taken", None)
    with pytest.raises(UsageError, match="there is no export dtype 'int4'"):
        export_hf(config, None, parameters(model), tmp_path / "out", None, "int4")
    assert files(tmp_path) == {"taken"}
    assert files(tmp_path / "taken") == {"mine"}

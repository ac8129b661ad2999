"""Tiny models of many architectures, their weights by name, and batches for them."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CohereConfig,
    FalconConfig,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    StableLmConfig,
    Starcoder2Config,
)

from zofx.ir.program import Loader
from zofx.models.checkpoint import Architecture, build_on_meta

VOCABULARY = 60
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
ONE = {**SIZES, "num_hidden_layers": 1}
GATED = {**ONE, "intermediate_size": 32}
GROUPED = {**GATED, "num_key_value_heads": 1}
CONFIGS: dict[str, PreTrainedConfig] = {
    "opt": OPTConfig(**ONE, ffn_dim=32, word_embed_proj_dim=16),
    "llama": LlamaConfig(**SIZES, intermediate_size=32, num_key_value_heads=1),
    "mistral": MistralConfig(
        **SIZES, intermediate_size=32, num_key_value_heads=1, sliding_window=4, head_dim=8
    ),
    "qwen2": Qwen2Config(
        **ONE, intermediate_size=32, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=40),
    "roberta": RobertaConfig(**ONE, intermediate_size=32, type_vocab_size=1),
    "gemma3": Gemma3TextConfig(
        **SIZES, intermediate_size=32, num_key_value_heads=1, head_dim=8, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "falcon": FalconConfig(**ONE, multi_query=True, parallel_attn=True, alibi=False, bias=False),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gpt-neox": GPTNeoXConfig(**GATED),
    "phi": PhiConfig(**GATED),
    "phi3": Phi3Config(**GROUPED, bos_token_id=0, eos_token_id=2),
    "stablelm": StableLmConfig(**GROUPED, use_qkv_bias=True),
    "olmo2": Olmo2Config(**GROUPED),
    "granite": GraniteConfig(**GROUPED, logits_scaling=3.0, embedding_multiplier=2.0),
    "cohere": CohereConfig(**GROUPED),
    "starcoder2": Starcoder2Config(**GROUPED, sliding_window=4),
}  # fmt: skip
SHAPES = [(1, 2, 1, 1), (5, 17, 3, 2), (2, 31, 4, 7)]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Large enough that attention is no average, and the same on every machine."""
    random = torch.Generator().manual_seed(0)
    return {n: torch.randn(p.shape, generator=random) / 4 for n, p in model.named_parameters()}


def recipes(values: dict[str, Tensor]) -> dict[str, Loader]:
    return {name: partial(torch.clone, value) for name, value in values.items()}


def eager(config: PreTrainedConfig, architecture: Architecture) -> PreTrainedModel:
    """transformers' own model, with those weights."""
    model = build_on_meta(config, architecture)
    for name, value in weights(model).items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    model.tie_weights()
    return model


def inputs(rows: int, tokens: int, scored: int, alternatives: int) -> dict[str, Tensor]:
    """Padded on the left, every row by another length; the last position always counts."""
    random = torch.Generator().manual_seed(rows)
    padding = torch.arange(rows) * (tokens - 1) // max(rows - 1, 1) if rows > 1 else torch.ones(1)
    mask = (torch.arange(tokens) >= padding[:, None]).long()
    ids = torch.randint(2, VOCABULARY, (rows, tokens), generator=random)
    spread = torch.rand(rows, scored, generator=random)
    length = mask.sum(1, keepdim=True)
    positions = (tokens - 1 - (spread * length).floor()).long()
    targets = torch.randint(0, VOCABULARY, (rows, scored, alternatives), generator=random)
    targets[0, 1:] = -100
    return {
        "input_ids": torch.where(mask == 1, ids, 1),
        "attention_mask": mask,
        "positions": positions,
        "targets": targets,
    }


def scored(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean log-probability of each alternative over its scored positions, [N, C]."""
    chosen = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)) * (targets >= 0)
    return chosen.sum(1) / (targets >= 0).sum(1).clamp(min=1)

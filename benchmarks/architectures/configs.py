"""A tiny random configuration of any architecture: every field shrunk by what its name counts.

    class's own defaults ─field by field: a width, a count, a length, an id─▶ two layers, width 64

No architecture is named: a field's rule is the first whose pattern its name matches. Fields that
are one per layer are cut to the layers there are. Where the class refuses the whole, some fields
are given otherwise.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY: Final = 96
WIDTH: Final = 64
LAYERS: Final = 2
POSITIONS: Final = 48
PAD: Final = 1

RULES: Final[tuple[tuple[str, int], ...]] = (
    (r"^(bos_token_id|decoder_start_token_id)$", 0),
    (r"^pad_token_id$", PAD),
    (r"^eos_token_id$", 2),
    (r"token_(id|index)$|^(eoa|boa|eoi|boi|eod)_token", 3),
    (r"^(type_vocab_size|vocab_offset|n_langs|lang_id)$", -1),
    (r"^(unpadded_|entity_|decoder_|shape_|pronunciation_)?vocab_size(_per_layer_input)?$",
     VOCABULARY),
    (r"^(max_position_embeddings|original_max_position_embeddings|n_positions|n_ctx|max_seq_len|"
     r"context_length|model_max_length|max_target_positions|max_source_positions|seq_length)$",
     POSITIONS),
    (r"^((num_|n_)?(hidden_|encoder_|decoder_)?layers?|num_blocks|n_layer)$", LAYERS),
    (r"^(first_k_dense_replace|num_dense_layers|num_nextn_predict_layers|"
     r"max_window_layers)$", 1),
    (r"^num_kv_shared_layers$", 0),
    (r"num_key_value_heads$|^num_kv_heads$|^num_query_groups$", 2),
    (r"^(num_attention_heads|n_heads?|num_heads|attention_heads|(en|de)coder_attention_heads|"
     r"swa_num_attention_heads|linear_num_(key|value)_heads|index_n_heads|linear_num_heads)$", 4),
    (r"^(head_dim|d_head|dim_head|attention_head_dim|attention_head_size|kv_channels|v_head_dim|"
     r"swa_head_dim|qk_nope_head_dim|linear_(key_|value_)?head_dim|index_head_dim)$", 16),
    (r"^qk_head_dim$", 24),
    (r"^(qk_rope_head_dim)$", 8),
    (r"^(rotary_dim)$", 8),
    (r"^(q_lora_rank|kv_lora_rank|o_lora_rank)$", 16),
    (r"^mamba_(n_heads|num_heads)$", 8),
    (r"^mamba_(d_head|headdim|head_dim)$", 16),
    (r"^mamba_(d_state|dt_rank)$|^(state_size|ssm_state_size|time_step_rank)$", 8),
    (r"^mamba_(n_groups|ngroups)$", 1),
    (r"^mamba_d_ssm$", 128),
    (r"^(lru_width)$", WIDTH),
    (r"(intermediate_size(_mlp)?|ffn_dim|ffn_hidden_size|d_inner|dff|dim_ff|feed_forward_size|"
     r"inner_dim|d_ff|mlp_dim)$", 2 * WIDTH),
    (r"^(hidden_size|d_model|n_embd|dim|emb_dim|embedding_(size|dim)|embed_dim|hidden_dim|"
     r"word_embed_proj_dim|input_embedding_size|output_embedding_size|attention_hidden_size|"
     r"true_hidden_size|pooler_hidden_size)$", WIDTH),
    (r"^(num_|n_)?(local_|routed_)?experts$|^moe_num_experts$", 4),
    (r"^(num_experts_per_tok(en)?|moe_k|moe_topk|moe_top_k)$", 2),
    (r"^(n_group|topk_group|num_expert_group)$", 1),
    (r"^(n_shared_experts|num_shared_experts|moe_num_shared_experts)$", 1),
    (r"^(sliding_window(_size)?|attention_chunk_size|window_size|attention_window_size)$", 16),
    (r"^(mamba_)?chunk_size$", 8),
    (r"^(image_size)$", 16),
    (r"^(patch_size)$", 8),
)  # fmt: skip
VARIANTS: Final[tuple[Mapping[str, int | None], ...]] = (
    {},
    {"num_key_value_heads": 4, "qk_head_dim": None},
    {"num_heads": 8},
    {"num_experts_per_tok": 1},
    {"hidden_size_per_layer_input": 0},
    dict.fromkeys(("qk_head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim")),
    dict.fromkeys(("embedding_size", "true_hidden_size", "d_inner", "rotary_dim", "head_dim")),
)
"""Fields with another value, or (None) with the class's own, tried one after the other."""
UNSET: Final = {"pad_token_id": PAD, "head_dim": 16, "vocab_size": VOCABULARY}
"""What a field becomes that the class leaves open."""


def tiny(kind: str, causal: bool, builds: Callable[[PreTrainedConfig], object]) -> PreTrainedConfig:
    """The tiny configuration of a model type.

    Args:
        kind: as in `config.model_type`.
        causal: whether a decoder is wanted of what can be one.
        builds: makes a model of a configuration, or raises.

    Raises:
        Exception: the class's own error, where no variant is taken.
    """
    error: Exception | None = None
    for variant in VARIANTS:
        try:
            config = shrunk(CONFIG_MAPPING[kind], variant, causal)
            builds(config)
        except Exception as refused:  # a class may raise anything
            error = error or refused
        else:
            return config
    assert error is not None
    raise error


def shrunk(of: type[PreTrainedConfig], variant: Mapping[str, int | None], causal: bool) -> Any:
    """A configuration of a class, with every field by its rule."""
    default = of()
    parts = dict(of.sub_configs or {})
    fields = {name: value for name, value in vars(default).items() if not name.startswith("_")}
    given: dict[str, Any] = {"is_decoder": True} if causal and "is_decoder" in fields else {}
    for name, value in fields.items():
        small = variant[name] if name in variant else _small(name, value, fields)
        if name not in parts and small is not None:
            given[name] = small
    for name in parts:
        part = getattr(default, name, None)
        if isinstance(part, PreTrainedConfig):
            given[name] = shrunk(type(part), variant, causal)
    return of(**given)


def _small(name: str, value: Any, fields: Mapping[str, Any]) -> Any:
    """What a field becomes; None leaves it to the class."""
    if value is None:
        return UNSET.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return next((small for rule, small in _rules() if rule.search(name) and small >= 0), None)
    if isinstance(value, list) and name == "eos_token_id":
        return 2
    if isinstance(value, list) and len(value) == _layers(fields) != LAYERS:
        return _of_each_kind(value)
    return None


def _rules() -> Iterator[tuple[re.Pattern[str], int]]:
    for pattern, small in RULES:
        yield re.compile(pattern), small


def _layers(fields: Mapping[str, Any]) -> int:
    names = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
    return next((fields[n] for n in names if isinstance(fields.get(n), int)), 0)


def _of_each_kind(value: list[Any]) -> list[Any]:
    """One layer of each of two kinds, where there are two."""
    first = value[0]
    other = next((item for item in value if item != first), value[-1])
    return [first, other]

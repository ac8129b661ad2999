"""A pretrained model on disk or on the hub, its weights unread.

    MODEL ─locate─▶ folder of safetensors | .gguf file ─open─▶ Checkpoint
    Checkpoint ─resolve(model on meta)─▶ parameter name → recipe

MODEL is a hub id ("facebook/opt-125m"), a folder that save_pretrained wrote, a .gguf file, or
"package:DISTRIBUTION/PATH", a file inside an installed Python package. Nothing of a checkpoint is
executed or unpickled, and a recipe holds no more than its tensor.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from zofx.errors import CaptureError, UnsupportedError, UsageError
from zofx.models import gguf_file, gguf_model, tokenizer
from zofx.models.experts import EVERY_EXPERT
from zofx.models.locate import commit_of, require_model
from zofx.models.safetensors_folder import StoredTensor, fingerprint, open_shards
from zofx.models.tokenizer import SpecialTokens, Tokenization
from zofx.models.weight_mapping import resolve

Architecture: TypeAlias = Literal["causal-lm", "masked-lm"]


@dataclass(frozen=True)
class Checkpoint:
    """What a model is made of; weights stay where they are until a recipe runs.

    Attributes:
        source: MODEL as the caller wrote it.
        config: its transformers configuration.
        architecture: what it predicts: the next token or a masked one.
        tensors: the file's own names → recipes.
        hash: identity of the weights (`shards.fingerprint`), 64 hex digits.
        tokenization: tokenizer and special ids; None if the checkpoint has none.
        placed: the tensors under names transformers can resolve, for a model on meta.
        commit: of the hub's repository; None for what is from elsewhere.
    """

    source: str
    config: PreTrainedConfig
    architecture: Architecture
    tensors: Mapping[str, StoredTensor]
    hash: str
    tokenization: Tokenization | None
    placed: Callable[[PreTrainedModel], Mapping[str, StoredTensor]]
    commit: str | None = None

    def load(self, name: str) -> Tensor:
        """Read one tensor."""
        return self.tensors[name]()

    def resolve(self, model: PreTrainedModel) -> dict[str, StoredTensor]:
        """A recipe for every parameter and persistent buffer of the model `build_on_meta` built.

        Raises:
            CaptureError: the checkpoint does not fit the model; lists what is missing.
        """
        return resolve(model, self.placed(model))

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids; `to_str()` is tokenizer.json."""
        return self._tokenization().tokenizer

    @property
    def special(self) -> SpecialTokens:
        """BOS, EOS, padding and mask."""
        return self._tokenization().special

    @property
    def max_positions(self) -> int | None:
        """The longest input in tokens: the least of what configuration and tokenizer say."""
        limits = [getattr(self.config.get_text_config(), "max_position_embeddings", None)]
        limits += [self.tokenization.max_length] if self.tokenization else []
        return min((limit for limit in limits if limit), default=None)

    @property
    def description(self) -> dict[str, Any]:
        """What tokenizing and scoring need to know, as an artifact's manifest has it."""
        return {
            "source": self.source,
            "hash": self.hash,
            "architecture": self.architecture,
            "max_positions": self.max_positions,
            "special": asdict(self.special),
            **({"commit": self.commit} if self.commit else {}),
            **self._writing(),
        }

    def _writing(self) -> dict[str, Any]:
        """How text is written and drawn, where the checkpoint says: an export says it again."""
        tokenization = self._tokenization()
        fields = {
            "chat_template": tokenization.chat_template,
            "special_tokens": dict(tokenization.special_texts),
            "generation": dict(tokenization.generation),
        }
        return {name: value for name, value in fields.items() if value}

    def _tokenization(self) -> Tokenization:
        if self.tokenization is None:
            raise UsageError(
                f"{self.source} has no tokenizer; "
                "put its tokenizer.json and tokenizer_config.json beside the weights"
            )
        return self.tokenization


def open_checkpoint(model: str) -> Checkpoint:
    """Open a pretrained model without reading its weights.

    Args:
        model: hub id, with @REVISION or without, folder, .gguf file, or
            "package:DISTRIBUTION/PATH".

    Raises:
        UsageError: nothing is there, or it is damaged.
        UnsupportedError: it is a model that cannot be compiled; says why.
    """
    path = require_model(model)
    opened = _open_folder(model, path) if path.is_dir() else _open_gguf(model, path)
    return replace(opened, commit=commit_of(path))


def build_on_meta(config: PreTrainedConfig, architecture: Architecture) -> PreTrainedModel:
    """Build a model with its parameters on the meta device and its buffers real, on the CPU.

    Buffers (rotary tables, position ids) are in no checkpoint and would be lost on meta. So the
    constructor runs on the CPU, and every parameter moves to meta as it is registered: its memory
    was allocated and never touched, and initialising it costs nothing.

    Args:
        config: left as it is.
        architecture: which head.

    Returns:
        The model in evaluation mode, float32, no cache; attention by one op, or op by op where
        transformers has no such form of it; every expert of a mixture runs (`experts`).
    """
    config = copy.deepcopy(config)
    config.use_cache = False
    auto = AutoModelForCausalLM if architecture == "causal-lm" else AutoModelForMaskedLM

    def to_meta(
        module: nn.Module, name: str, parameter: nn.Parameter | None
    ) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return parameter  # the same object, so that ties stay ties
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]  # may return
    try:
        try:
            model = auto.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
        except ValueError:  # what it says of a class without that attention, too
            model = auto.from_config(config, attn_implementation="eager", dtype=torch.float32)
        model.set_experts_implementation(EVERY_EXPERT)
    except ValueError as error:
        raise CaptureError(
            f"transformers cannot build {config.model_type} as a {architecture}: {error}"
        ) from error
    finally:
        hook.remove()
    return model.eval()


def _require_layers(folder: Path, config: PreTrainedConfig, tensors: int) -> None:
    """No more layers than tensors: building millions of empty ones takes all memory."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > tensors:
        raise UsageError(
            f"{folder / 'config.json'} has {layers:,} layers and the weights are {tensors:,} "
            "tensors: the two are not of one model; copy both from where it came from"
        )


def _open_folder(model: str, folder: Path) -> Checkpoint:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes the parsers raise
        why = tokenizer.reason(error)
        raise UsageError(
            f"{folder / 'config.json'} is not understood: {type(error).__name__}: {why}; copy it "
            "from where the model came from again"
        ) from error
    if getattr(config, "quantization_config", None):
        raise UnsupportedError(
            f"{model} is quantized already; compile from the model it was made from",
            [
                f"config.json has a quantization_config ({_quantized_by(config)}), and quantizing "
                "twice loses twice; GGUF's Q8_0 and Q4_0 keep every bit (`--quant q8_0`, `q4_0`)"
            ],
        )
    architecture = architecture_of(model, config)
    tensors, headers = open_shards(folder)
    _require_layers(folder, config, len(tensors))
    text = tokenizer.from_folder(folder)
    return Checkpoint(
        model, config, architecture, tensors, fingerprint(headers), text, lambda _: tensors
    )


def _open_gguf(model: str, path: Path) -> Checkpoint:
    file = gguf_file.read_gguf(path)
    config = gguf_model.configuration(file)
    architecture = architecture_of(model, config)
    text = tokenizer.from_gguf(file.metadata)
    identity = fingerprint([file.header])
    return Checkpoint(
        model,
        config,
        architecture,
        gguf_file.stored_tensors(file),
        identity,
        text,
        lambda on_meta: gguf_model.model_tensors(file, on_meta),
    )


def architecture_of(source: str, config: PreTrainedConfig) -> Architecture:
    """What a model predicts: by the class its configuration names, else by its type.

    Args:
        source: its name, for the message.
        config: its configuration.

    Raises:
        UnsupportedError: neither the next token nor a masked one.
    """
    classes, kind = set(config.architectures or ()), config.model_type
    causal, masked = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.is_encoder_decoder or not (kind in causal or kind in masked):
        what = "an encoder-decoder" if config.is_encoder_decoder else "neither"
        raise UnsupportedError(
            f"{source} cannot be compiled: only causal and masked language models can",
            [f"{kind} is {what}"],
        )
    if classes & set(causal.values()):
        return "causal-lm"
    if classes & set(masked.values()):
        return "masked-lm"
    is_masked = kind in masked and not getattr(config, "is_decoder", False)
    return "masked-lm" if is_masked else "causal-lm"


def _quantized_by(config: PreTrainedConfig) -> str:
    """The method that a checkpoint names, such as gptq, awq or bitsandbytes."""
    settings = config.quantization_config
    named = settings.get("quant_method") if isinstance(settings, Mapping) else None
    return str(named or "of no name")

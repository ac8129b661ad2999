"""Write a model as a Hugging Face folder that `from_pretrained` loads offline.

    (name, tensor), … ─cast─▶ shards of at most 2 GB ─▶ temporary folder ─rename─▶ OUT

Tensors are consumed one at a time; a shard and a tensor are in memory at most. Of tied parameters
the first to come is written, and the others must be equal. Nothing is at OUT before all is written.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig, PreTrainedModel

from zofx.errors import ArtifactError, UsageError
from zofx.files.atomic import new_folder, require_free
from zofx.models.checkpoint import architecture_of, build_on_meta
from zofx.models.safetensors_folder import INDEX, SINGLE
from zofx.models.tokenizer import SpecialTokens

SHARD_BYTES = 2_000_000_000
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOT_EXPORTED = ("quantization_config", "_name_or_path")
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Beside:
    """What stands in the folder beside weights and tokenizer.json.

    Attributes:
        chat_template: how the model writes conversations, as a Jinja program.
        special_tokens: names of special tokens, as in tokenizer_config.json → their texts.
        generation: of generation_config.json.
        max_length: the longest input of the tokenizer, in tokens.
        texts: names of other files → their text, such as README.md.
    """

    chat_template: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


NOTHING = Beside()


def export_hf(
    config: Mapping[str, Any],
    tokenizer_json: bytes | None,
    tensors: Iterable[tuple[str, Tensor]],
    out: Path,
    special: SpecialTokens | None,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
    beside: Beside = NOTHING,
) -> None:
    """Write config.json, weights, tokenizer and, for a causal model, generation_config.json.

    Args:
        config: `PreTrainedConfig.to_dict()` of the model.
        tokenizer_json: tokenizer.json; None to write no tokenizer.
        tensors: every parameter and persistent buffer, under the model's names; buffers that
            are not persistent may be among them.
        out: the folder to make.
        special: ids to name in the tokenizer and generation configurations.
        dtype: of the floating-point weights: float32, bfloat16 or float16.
        shard_bytes: the most a weights file may hold, unless one tensor is larger.
        beside: what else is in the folder.

    Raises:
        UsageError: out is there already, or dtype is none of the three.
        ArtifactError: a tensor is missing, unknown, twice there or misshapen, or ties differ.
    """
    require_free(out)
    if dtype not in FLOATS:
        raise UsageError(f"there is no export dtype {dtype!r}; there are: {', '.join(FLOATS)}")
    model_config = config_of(config, dtype)
    architecture = architecture_of(str(out), model_config)
    model = build_on_meta(model_config, architecture)
    model_config.architectures = [type(model).__name__]
    with new_folder(out) as folder:
        _write_weights(checked_tensors(model, tensors, FLOATS[dtype]), folder, shard_bytes)
        model_config.save_pretrained(folder)
        if architecture == "causal-lm":
            _generation(model_config, special, beside).save_pretrained(folder)
        if tokenizer_json is not None:
            _write_tokenizer(tokenizer_json, special, beside, folder)
        for name, text in beside.texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def config_of(config: Mapping[str, Any], dtype: str) -> PreTrainedConfig:
    """The configuration of a manifest as transformers'."""
    kept = {key: value for key, value in config.items() if key not in NOT_EXPORTED}
    return CONFIG_MAPPING[config["model_type"]].from_dict({**kept, "dtype": dtype})


def checked_tensors(
    model: PreTrainedModel, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The tensors to write, cast; raises where they are not exactly the model's."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    ties: dict[str, str] = model.all_tied_weights_keys
    written: dict[str, bytes] = {}
    rebuilt = {name for name, _ in model.named_buffers()} - shapes.keys()
    for name, value in tensors:
        if name in rebuilt:
            continue  # the constructor makes it (rotary tables); no checkpoint holds it
        if shapes.get(name) != value.shape:
            wanted = list(shapes[name]) if name in shapes else "no such tensor"
            raise ArtifactError(
                f"cannot export {name} {list(value.shape)}: {type(model).__name__} has {wanted}"
            )
        cast = _cast(value, dtype)
        if cast.is_floating_point() and not cast.isfinite().all():
            raise ArtifactError(
                f"cannot export {name} as {str(dtype).removeprefix('torch.')}: it would hold NaN "
                "or infinity. Where the values are beyond float16's range, export as bfloat16 or "
                "float32; where the run diverged, take an earlier --step"
            )
        source = ties.get(name, name)
        tied = source in ties.values()
        digest = (
            hashlib.sha256(cast.view(-1).view(torch.uint8).numpy().data).digest() if tied else b""
        )
        if source not in written:
            written[source] = digest
            yield source, cast
        elif not tied or written[source] != digest:
            raise ArtifactError(
                f"cannot export {name}: {source} was written and is to be the same tensor; "
                "if they were trained apart, export with tie_word_embeddings=False"
            )
    if absent := {ties.get(name, name) for name in shapes} - written.keys():
        raise ArtifactError(f"the export lacks {len(absent)} tensors, the first is {min(absent)}")


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """An own, dense copy on the CPU: tensors of one file must not share memory."""
    dtype = dtype if value.is_floating_point() else value.dtype
    copied = torch.empty(value.shape, dtype=dtype)
    return copied.copy_(value.detach())


def _write_weights(tensors: Iterable[tuple[str, Tensor]], folder: Path, limit: int) -> None:
    """One model.safetensors, or numbered shards and their index."""
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    total = pending_bytes = 0

    def flush() -> None:
        save_file(pending, folder / f"{len(shards)}.tmp", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    for name, value in tensors:
        if pending and pending_bytes + value.nbytes > limit:
            flush()
            pending_bytes = 0
        pending[name] = value
        pending_bytes += value.nbytes
        total += value.nbytes
    flush()
    if len(shards) == 1:
        (folder / "0.tmp").rename(folder / SINGLE)
        return
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for i, file in enumerate(files):
        (folder / f"{i}.tmp").rename(folder / file)
    weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _generation(
    config: PreTrainedConfig, special: SpecialTokens | None, beside: Beside
) -> GenerationConfig:
    if beside.generation:
        generation = GenerationConfig.from_dict(dict(beside.generation))
    else:
        generation = GenerationConfig.from_model_config(config)
    if special is not None:
        generation.bos_token_id = special.bos_id
        more = list(special.end_ids)
        generation.eos_token_id = [special.eos_id, *more] if more else special.eos_id
        generation.pad_token_id = special.pad_id
    return generation


def _write_tokenizer(
    tokenizer_json: bytes, special: SpecialTokens | None, beside: Beside, folder: Path
) -> None:
    (folder / "tokenizer.json").write_bytes(tokenizer_json)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if special is not None:
        tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        ids = {
            "bos_token": special.bos_id,
            "eos_token": special.eos_id,
            "pad_token": special.pad_id,
            "mask_token": special.mask_id,
        }
        settings |= {key: tokenizer.id_to_token(i) for key, i in ids.items() if i is not None}
    if beside.max_length is not None:
        settings["model_max_length"] = beside.max_length
    _write_json(folder / "tokenizer_config.json", {**settings, **beside.special_tokens})
    if beside.chat_template is not None:
        (folder / CHAT_TEMPLATE).write_text(beside.chat_template, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

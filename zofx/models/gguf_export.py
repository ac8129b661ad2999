"""Write a model as a GGUF file that llama.cpp loads.

    configuration ─transformers' table, backwards─▶ fields      tokenizer.json ──▶ tokens, merges
    model.layers.3.self_attn.q_proj.weight ─gguf's table─▶ blk.3.attn_q.weight, in llama.cpp's order

What transformers does to a GGUF file when it reads one is undone here: of the known ways to lay a
tensor out, the one is written that transformers' own reader turns back into the tensor. The file is
then opened again, and what it says of the model is compared with the configuration: an architecture
that does not survive the round trip is refused, with what differs.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

from zofx.errors import UsageError
from zofx.files.atomic import new_folder, require_free
from zofx.models.checkpoint import architecture_of, build_on_meta
from zofx.models.gguf_file import read_gguf
from zofx.models.gguf_model import configuration, parameter_names
from zofx.models.gguf_tokens import add_tokenizer, refused, token_tables
from zofx.models.hf_export import NOTHING, Beside, checked_tensors, config_of
from zofx.models.tokenizer import SpecialTokens, from_gguf

FILE: Final = "model.gguf"

ARCHITECTURES: Final = ("llama", "qwen2", "qwen3", "starcoder2")
"""Those of which transformers' table has every field that llama.cpp asks for."""

KINDS: Final = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0",
}  # fmt: skip
"""Name of a dtype → gguf's name of the block format that matrices are stored in."""

NOT_COMPARED: Final = frozenset({
    "architectures", "attention_dropout", "attention_probs_dropout_prob", "dtype", "hidden_dropout",
    "id2label", "initializer_range", "label2id", "pretraining_tp", "torch_dtype",
    "transformers_version", "use_cache",
})  # fmt: skip
"""Fields that change no forward."""

PROBE: Final = "The year is 1984; don't ask.  Café 你好, 3.14!"


def export_gguf(
    config: Mapping[str, Any],
    tokenizer_json: bytes,
    tensors: Iterable[tuple[str, Tensor]],
    out: Path,
    special: SpecialTokens,
    dtype: str = "float32",
    beside: Beside = NOTHING,
) -> None:
    """Write a folder with model.gguf and what stands beside.

    Args:
        config: `PreTrainedConfig.to_dict()` of the model.
        tokenizer_json: tokenizer.json.
        tensors: as in `export_hf`.
        out: the folder to make.
        special: ids of special tokens.
        dtype: how matrices are stored, of KINDS; vectors are float32.
        beside: the chat template, and other files.

    Raises:
        UnsupportedError: llama.cpp's form has no place for something of this model.
        UsageError: out is there already, or there is no such dtype.
        ArtifactError: the tensors are not those of the model.
    """
    require_free(out)
    if dtype not in KINDS:
        raise UsageError(f"there is no dtype {dtype!r} of GGUF; there are: {', '.join(KINDS)}")
    whole = config_of(config, "float32")
    name = architecture_name(whole)
    tokens = token_tables(tokenizer_json, whole.vocab_size)
    model = build_on_meta(whole, architecture_of(str(out), whole))
    with new_folder(out) as folder:
        path = folder / FILE
        _write(model, name, tensors, tokens, special, dtype, path, beside.chat_template)
        _require_same(whole, tokenizer_json, path)
        for other, text in beside.texts.items():
            (folder / other).write_text(text, encoding="utf-8")


def _write(
    model: PreTrainedModel,
    architecture: str,
    tensors: Iterable[tuple[str, Tensor]],
    tokens: Mapping[str, Any],
    special: SpecialTokens,
    dtype: str,
    path: Path,
    chat_template: str | None,
) -> None:
    import gguf

    kind = gguf.GGMLQuantizationType[KINDS[dtype]]
    writer = gguf.GGUFWriter(path, architecture, use_temp_file=True)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[KINDS[dtype]]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in _fields(model.config, architecture).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(name, value)
    add_tokenizer(writer, tokens, special, chat_template)
    checked = checked_tensors(model, tensors, torch.float32)
    for name, values in _laid_out(model, architecture, checked):
        chosen = _kind(kind, values)
        writer.add_tensor(name, gguf.quantize(values, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(kind: Any, values: NDArray[np.float32]) -> Any:
    """Vectors stay whole; rows that blocks do not divide are F16, as llama.cpp converts them."""
    import gguf

    if values.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if values.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


_FILE_TYPES: Final = {
    "F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0",
    "Q4_0": "MOSTLY_Q4_0",
}  # fmt: skip


def architecture_name(config: PreTrainedConfig) -> str:
    """llama.cpp's name of an architecture.

    Raises:
        UnsupportedError: it is not among those whose fields are known.
    """
    name = str(config.model_type)
    if name not in ARCHITECTURES:
        raise refused(name, f"written here: {', '.join(ARCHITECTURES)}")
    return name


def _fields(config: PreTrainedConfig, architecture: str) -> dict[str, int | float]:
    """Sizes and constants, by llama.cpp's names."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    table = GGUF_CONFIG_MAPPING[architecture]
    values = {**config.to_dict(), **(getattr(config, "rope_parameters", None) or {})}
    if "head_dim" in values and values["head_dim"] is None:
        values["head_dim"] = config.hidden_size // config.num_attention_heads
    fields = {
        f"{architecture}.{name}": values[attribute]
        for name, attribute in table.items()
        if attribute is not None and isinstance(values.get(attribute), (int, float))
    }
    size = values.get("head_dim")
    if size is not None:
        fields |= {f"{architecture}.attention.{part}_length": size for part in ("key", "value")}
    return fields


def _laid_out(
    model: PreTrainedModel, architecture: str, tensors: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor under llama.cpp's name and in its order.

    Raises:
        UnsupportedError: there is no name, or no known order that transformers reads back.
    """
    rule = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    processor = rule(config=model.config.to_dict())
    names = parameter_names(architecture, model, processor)
    stored = {target: name for name, target in names.items()}
    for target, value in tensors:
        name = stored.get(target)
        if name is None:
            raise refused(architecture, f"gguf has no name for {target}")
        wanted = value.float().numpy()
        for layout in _layouts(wanted, model.config):
            made = processor.process(
                weights=layout.copy(), name=name, tensor_key_mapping=names,
                parsed_parameters={"tensors": {}},
            )  # fmt: skip
            if made.name is not None and _equal(made.weights, wanted):
                yield name, np.ascontiguousarray(layout, np.float32)
                break
        else:
            raise refused(architecture, f"no known layout of {name} reads back as {target}")


def _layouts(value: NDArray[np.float32], config: PreTrainedConfig) -> Iterator[NDArray[np.float32]]:
    """The ways in which llama.cpp is known to store a tensor."""
    yield value
    heads = getattr(config, "num_attention_heads", None)
    for number in (heads, getattr(config, "num_key_value_heads", None)):
        if number and value.ndim and value.shape[0] % (2 * number) == 0:
            parts = value.reshape(number, 2, value.shape[0] // number // 2, *value.shape[1:])
            yield parts.swapaxes(1, 2).reshape(value.shape)
    yield value + np.float32(1)
    if value.ndim == 2:
        yield value.T


def _equal(read: NDArray[Any], wanted: NDArray[np.float32]) -> bool:
    """To a rounding of one addition: norms are stored shifted by 1."""
    return read.shape == wanted.shape and bool(
        np.all(np.abs(read - wanted) <= 2.0**-23 * (1 + np.abs(wanted)))
    )


def _require_same(config: PreTrainedConfig, tokenizer_json: bytes, path: Path) -> None:
    """Check that the file describes the same model.

    Raises:
        UnsupportedError: it does not; says what differs.
    """
    file = read_gguf(path)
    ours, theirs = config.to_dict(), configuration(file).to_dict()
    differing = [
        f"{name} is {ours.get(name)!r}, and would be read as {theirs.get(name)!r}"
        for name in sorted({*ours, *theirs} - NOT_COMPARED)
        if not name.startswith("_")  # where it was read from
        and not name.endswith("_token_id")  # the tokenizer's
        and not _same(ours.get(name), theirs.get(name))
    ]
    if differing:
        raise refused(config.model_type, *differing)
    again = from_gguf(file.metadata).tokenizer.encode(PROBE).ids
    if again != Tokenizer.from_str(tokenizer_json.decode()).encode(PROBE).ids:
        raise refused("the tokenizer", "llama.cpp's tables of it encode text in another way")


def _same(one: Any, other: Any) -> bool:
    """Floats as float32, which is what a GGUF file stores."""
    if isinstance(one, float) or isinstance(other, float):
        return None not in (one, other) and bool(np.float32(one) == np.float32(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_same(one.get(k), other.get(k)) for k in {*one, *other})
    equal: bool = one == other
    return equal

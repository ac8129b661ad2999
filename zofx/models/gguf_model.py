"""The transformers model in a GGUF file: its configuration, and weights under the model's names.

    header ─without token tables─▶ transformers ─▶ configuration
    blk.3.attn_q.weight ─gguf's table of names─▶ model.layers.3.self_attn.q_proj.weight
                        ─transformers' processor─▶ rows in the model's order

llama.cpp permutes the rows of q and k, shifts some norms and fuses experts; transformers undoes
that, so tensors are bit-identical to those that `from_pretrained(gguf_file=…)` loads.
"""

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

from zofx.errors import UnsupportedError
from zofx.models.gguf_file import ALIGNMENT, MAGIC, VERSIONS, GgufFile, dequantized
from zofx.models.safetensors_folder import StoredTensor


def configuration(file: GgufFile) -> PreTrainedConfig:
    """The transformers configuration of the model in the file.

    transformers reads it from a copy of the header without token tables or weights: milliseconds.

    Raises:
        UnsupportedError: an architecture that transformers does not read from GGUF.
    """
    count = struct.pack("<4sIQQ", MAGIC, VERSIONS[-1], len(file.tensors), len(file.fields))
    names = [name.encode() for name in file.tensors]
    # every tensor has one axis of length 0, in f32: only the names matter here
    table = [struct.pack("<Q", len(n)) + n + struct.pack("<IQIQ", 1, 0, 0, 0) for n in names]
    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder) / "header.gguf"
        stub.write_bytes(b"".join([count, *file.fields, *table]) + bytes(ALIGNMENT))
        try:
            config = AutoConfig.from_pretrained(folder, gguf_file=stub.name)
        except Exception as error:  # whatever a header of another make raises
            raise _unsupported(file, str(error)) from error
    config.name_or_path = ""
    if f"{file.architecture}.vocab_size" not in file.metadata:
        config.vocab_size = len(file.metadata.get("tokenizer.ggml.tokens", ())) or config.vocab_size
    return config


def model_tensors(file: GgufFile, model: PreTrainedModel) -> dict[str, StoredTensor]:
    """The file's tensors under the model's names and in its layout.

    Args:
        file: the parsed file.
        model: built on the meta device from `configuration(file)`.

    Raises:
        UnsupportedError: transformers has no place for one of the tensors: to leave it out (rope
            factors, say) would change what the model computes.
    """
    rule = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)
    processor = rule(config=model.config.to_dict())
    try:
        names = parameter_names(file.architecture, model, processor)
    except KeyError as error:
        raise _unsupported(file, f"gguf has no table of names for {error}") from error
    parts: dict[str, list[str]] = {}
    for name in file.tensors:
        target = names.get(name) or names.get(name.removesuffix(".weight"))
        if target is None:
            raise _unsupported(file, f"transformers has no place for its tensor {name}")
        parts.setdefault(target, []).append(name)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return {
        target: StoredTensor(
            shapes[target], torch.float32, _laid_out(file, processor, names, target, part)
        )
        for target, part in parts.items()
    }


def parameter_names(
    architecture: str, model: PreTrainedModel, processor: TensorProcessor
) -> dict[str, str]:
    """GGUF's name of every parameter → the model's.

    The same map as transformers' `get_gguf_hf_weights_map`, which builds gguf's table anew for each
    of a model's hundreds of modules. Names are looked up relative to the whole model first, then
    to the modules on their path: some architectures were converted from the headless model.
    """
    import gguf

    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(numbers[architecture], model.config.num_hidden_layers)
    paths = [tuple(name.split(".")) for name in model.state_dict()]
    names: dict[str, str] = {}
    for depth in range(max(map(len, paths))):
        for path in paths:
            prefix = "".join(f"{part}." for part in path[:depth])
            relative = processor.preprocess_name(".".join(path[depth:]))
            stem, dot, leaf = relative.rpartition(".")
            stem, suffix = (stem, dot + leaf) if leaf in ("weight", "bias") else (relative, "")
            if translated := table.get_name(stem):
                names.setdefault(translated + suffix, prefix + relative)
            else:
                processor.perform_fallback_tensor_mapping(names, suffix, prefix, relative)
    return names


def _laid_out(
    file: GgufFile, processor: Any, names: dict[str, str], target: str, parts: list[str]
) -> Callable[[], Tensor]:
    """One parameter from the one or (fused experts) several tensors it is stored as."""

    def read() -> Tensor:
        made: dict[str, Tensor] = {}
        for name in parts:
            weights = dequantized(file.path, file.tensors[name])
            done = processor.process(
                weights=weights,
                name=name,
                tensor_key_mapping=names,
                parsed_parameters={"tensors": made},
            )
            if done.name is not None:  # else the processor has put it where it belongs
                made[target] = torch.from_numpy(np.ascontiguousarray(done.weights))
        return made[target]

    return read


def _unsupported(file: GgufFile, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"{file.path} ({file.architecture}) cannot be read as a transformers model; "
        "use the model's Hugging Face folder",
        [reason],
    )

"""Safetensors files: what they hold without reading it, and one tensor at a time.

    file    u64 n | n bytes of JSON: name → dtype, shape, [begin, end) | data

A header is read once and checked against the size of its file, so a download that stopped half way
is found at once. `StoredTensor` is the recipe for one tensor; the file is open only while its
recipe runs, so memory never grows with the checkpoint.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from zofx.errors import UnsupportedError, UsageError
from zofx.files.strict_json import parse_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SAMPLE_BYTES = 256
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """The recipe for one tensor of a checkpoint.

    Attributes:
        shape: its shape.
        dtype: the element type it is stored in (f32 for a GGUF tensor: those are dequantized).
        read: makes the tensor anew at every call.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    def __call__(self) -> Tensor:
        """Make the tensor now."""
        return self.read()


@dataclass(frozen=True)
class Header:
    """The header of one file.

    Attributes:
        path: the file.
        text: the header's bytes.
        offsets: where each tensor's data begins, in bytes from the start of the file.
    """

    path: Path
    text: bytes
    offsets: tuple[int, ...]


def open_shards(folder: Path) -> tuple[dict[str, StoredTensor], tuple[Header, ...]]:
    """Every tensor of a Hugging Face folder, none of them read.

    Raises:
        UsageError: there are no safetensors, a shard is missing or damaged, or does not hold what
            the index says.
        UnsupportedError: an element type PyTorch has no plain equivalent of.
    """
    tensors: dict[str, StoredTensor] = {}
    headers = []
    for path, expected in _shard_names(folder).items():
        header, entries = _read_header(folder / path)
        if absent := expected - entries.keys():
            raise UsageError(
                f"{folder / INDEX} says that {path} holds {min(absent)}, and it does not: "
                "the folder mixes two checkpoints; download it again"
            )
        headers.append(header)
        tensors.update((name, _stored(header.path, name, entry)) for name, entry in entries.items())
    return tensors, tuple(headers)


def fingerprint(headers: Iterable[Header]) -> str:
    """A stable identity of a checkpoint that costs one short read per tensor: 64 hex digits.

    SHA-256 over each file's name, size and header and the first 256 bytes of each of its tensors,
    files in order of name. It distinguishes two fine-tunes of one model, whose headers agree; it is
    no proof that every byte is intact.
    """
    digest = hashlib.sha256()
    for header in sorted(headers, key=lambda header: header.path.name):
        size = header.path.stat().st_size
        digest.update(f"{header.path.name} {size} {len(header.text)}\n".encode())
        digest.update(header.text)
        with header.path.open("rb") as file:
            for offset in header.offsets:
                file.seek(offset)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _shard_names(folder: Path) -> dict[str, set[str]]:
    """File name → the tensors the index promises in it (none, where there is no index)."""
    if (folder / SINGLE).is_file():
        return {SINGLE: set()}
    if not (folder / INDEX).is_file():
        raise UsageError(_without_safetensors(folder))
    try:
        weight_map = parse_json((folder / INDEX).read_bytes())["weight_map"]
        shards: dict[str, set[str]] = {}
        for name, file in weight_map.items():
            if Path(file).name != file:
                raise ValueError(f"{file!r} is no file of this folder")  # noqa: TRY301
            shards.setdefault(file, set()).add(name)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{folder / INDEX} is damaged ({error!r}); download it again") from error
    return shards


def _without_safetensors(folder: Path) -> str:
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
    if pickles:
        return (
            f"{folder} holds its weights in {pickles[0].name}, a pickle: opening it can run code, "
            "so zofx never does; convert it where you trust it (from_pretrained, then "
            "save_pretrained, writes safetensors) and give the new folder"
        )
    return (
        f"{folder} has no weights: neither {SINGLE} nor {INDEX}; "
        "give a folder that save_pretrained wrote"
    )


def _read_header(path: Path) -> tuple[Header, dict[str, Any]]:
    if not path.is_file():
        raise UsageError(f"{path} is missing, and the index names it; download it again")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= size - 8 else b""
    try:
        entries = parse_json(text)
        entries.pop("__metadata__", None)
        begins = tuple(8 + length + entry["data_offsets"][0] for entry in entries.values())
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise UsageError(
            f"{path} ({size} bytes): the safetensors header is damaged; download it again"
        ) from error
    if end != size:
        raise UsageError(f"{path} has {size} bytes where its header says {end}; download it again")
    return Header(path, text, begins), entries


def _stored(path: Path, name: str, entry: dict[str, Any]) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise UnsupportedError(
            f"{path} holds {entry['dtype']} tensors; compile from the unquantized weights",
            [f"{name} is {entry['dtype']}; read here: {', '.join(DTYPES)}"],
        )

    def read() -> Tensor:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UsageError(
                f"{path}: tensor {name} holds NaN or infinity, so the model answers nothing; "
                "download it again, or save the model before it diverged"
            )
        return tensor

    return StoredTensor(tuple(entry["shape"]), DTYPES[entry["dtype"]], read)

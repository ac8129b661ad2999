"""A Llama of random weights on disk, and random sensitivity scores for it, of any size.

    Shape ─tensor by tensor─▶ config.json, tokenizer, shards of at most 1 GB; scores.safetensors

A chunk of one tensor is in memory at most, and neither torch nor transformers is imported: a
process that goes on to measure another one's memory has to stay small itself.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias

import numpy as np

SHARD: Final = 1_000_000_000
CHUNK: Final = 1 << 22
WIDTHS: Final = {"F16": 2, "F32": 4}
HEAD_WIDTH: Final = 64
SPECIAL: Final = ("<s>", "</s>", "<unk>")
Table: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Spread:
    """How sensitivities F differ: log F = matrix + row + column + entry, drawn independently.

    Attributes:
        matrices: standard deviation of a normal draw per matrix.
        rows: the same, per row.
        columns: factor of a draw per column from Student's t with TAIL degrees of freedom; the
            product is cut off at ±LARGEST.
        entries: standard deviation of a normal draw per entry.
    """

    matrices: float
    rows: float
    columns: float
    entries: float


TAIL: Final = 4
LARGEST: Final = 6.0
SHARED: Final = Spread(matrices=1.0, rows=0.6, columns=0.5, entries=0.48)
"""As F of SmolLM2-135M spreads, ranked on BoolQ: a few columns hold most of the mask.

Drawn in its shape (two seeds), 49 and 57 of 210 matrices hold 95 % of a mask's F (of its own, 59);
it touches 10 and 7 % of their columns (7 %), and its products cost 1.9 and 1.7 times its own's.
"""
SCATTERED: Final = Spread(matrices=0.0, rows=0.0, columns=0.0, entries=1.0)
"""No structure: the worst case of a mask, for its entries share no columns."""


class Weights(Protocol):
    """What is written of a model: `Shape`, or one of another architecture."""

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json."""
        ...

    @property
    def tensors(self) -> Table:
        """Parameter name → shape."""
        ...

    @property
    def linears(self) -> Table:
        """The matrices that sensitivity scores are for."""
        ...

    @property
    def vocabulary(self) -> int:
        """How many tokens."""
        ...

    @property
    def size(self) -> int:
        """Weights in all."""
        ...


@dataclass(frozen=True)
class Shape:
    """A Llama whose matrices are all of a size: none dominates.

    Attributes:
        hidden: width of the residual stream; a multiple of 128, so that all rows quantize.
        layers: how many.
        vocabulary: how many tokens.
    """

    hidden: int
    layers: int
    vocabulary: int

    @classmethod
    def of_bytes(cls, wanted: float, width: int, hidden: int, vocabulary: int) -> "Shape":
        """As many layers as come closest to so many bytes, at `width` bytes per weight."""
        empty, one = cls(hidden, 0, vocabulary).size, cls(hidden, 1, vocabulary).size
        return cls(hidden, max(1, round((wanted / width - empty) / (one - empty))), vocabulary)

    @property
    def intermediate(self) -> int:
        """Width of the MLP: 2.75 times the hidden one."""
        return self.hidden * 11 // 4

    @property
    def size(self) -> int:
        """Weights in all."""
        return sum(map(prod, self.tensors.values()))

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Parameter name → shape."""
        h, i = self.hidden, self.intermediate
        layer = {
            "input_layernorm": (h,),
            **{f"self_attn.{name}_proj": (h, h) for name in "qkvo"},
            "post_attention_layernorm": (h,),
            "mlp.gate_proj": (i, h),
            "mlp.up_proj": (i, h),
            "mlp.down_proj": (h, i),
        }
        return {
            "model.embed_tokens.weight": (self.vocabulary, h),
            **{
                f"model.layers.{number}.{name}.weight": shape
                for number in range(self.layers)
                for name, shape in layer.items()
            },
            "model.norm.weight": (h,),
            "lm_head.weight": (self.vocabulary, h),
        }

    @property
    def linears(self) -> dict[str, tuple[int, ...]]:
        """The matrices that sensitivity scores are for."""
        return {n: s for n, s in self.tensors.items() if len(s) == 2 and "embed" not in n}

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // HEAD_WIDTH,
            "num_key_value_heads": self.hidden // HEAD_WIDTH,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }


def make_checkpoint(folder: Path, shape: Weights, dtype: str, rng: np.random.Generator) -> int:
    """Write config, tokenizer and shards of random weights; returns W, the bytes of the weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(shape.config)))
    _write_tokenizer(folder, shape.vocabulary)
    shards = list(_shards(shape.tensors, WIDTHS[dtype]))
    index: dict[str, str] = {}
    for number, table in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with _begun(folder / name, table, dtype, {"format": "pt"}) as file:
            for tensor in table.values():
                _write_weights(file, tensor, dtype, rng)
        index |= dict.fromkeys(table, name)
    total = shape.size * WIDTHS[dtype]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
    return total


def make_scores(
    path: Path, model_hash: str, shape: Weights, spread: Spread, rng: np.random.Generator
) -> None:
    """Write random sensitivity scores, one f32 per weight of a linear layer.

    Args:
        path: the file to make.
        model_hash: `Checkpoint.hash` of the model they are for.
        shape: of the model.
        spread: of the scores.
        rng: where they come from.
    """
    metadata = {
        "format": "zofx-sensitivity-1", "model": "random weights", "model_hash": model_hash,
        "text": "none: random scores", "tokens": "0", "batches": "0", "zofx": "benchmark",
    }  # fmt: skip
    with _begun(path, shape.linears, "F32", metadata) as file:
        for matrix in shape.linears.values():
            _write_scores(file, matrix, spread, rng)


def _begun(path: Path, table: Table, dtype: str, metadata: Mapping[str, str]) -> BinaryIO:
    """A safetensors file whose values are still to be written, in the order of the table."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name, shape in table.items():
        end = place + prod(shape) * WIDTHS[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = path.open("wb")
    file.write(len(text).to_bytes(8, "little") + text)
    return file


def _write_scores(
    file: BinaryIO, shape: tuple[int, ...], spread: Spread, rng: np.random.Generator
) -> None:
    """A chunk of rows at a time."""
    rows, columns = shape
    of_rows = spread.matrices * rng.standard_normal() + spread.rows * rng.standard_normal(rows)
    of_columns = (spread.columns * rng.standard_t(TAIL, columns)).clip(-LARGEST, LARGEST)
    many = max(1, CHUNK // columns)
    for begin in range(0, rows, many):
        part = of_rows[begin : begin + many, None].astype(np.float32)
        log = rng.standard_normal((len(part), columns), np.float32) * np.float32(spread.entries)
        log += part
        log += of_columns.astype(np.float32)
        file.write(np.exp(log, out=log).data)


def _write_weights(
    file: BinaryIO, shape: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> None:
    """Matrices N(0, 0.02²), vectors 1; a chunk at a time."""
    kind = np.dtype(f"<f{WIDTHS[dtype]}")
    if len(shape) == 1:
        file.write(np.ones(shape, kind).tobytes())
        return
    for begin in range(0, prod(shape), CHUNK):
        count = min(CHUNK, prod(shape) - begin)
        file.write((rng.standard_normal(count, np.float32) * np.float32(0.02)).astype(kind).data)


def _shards(table: Table, width: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Tables of at most SHARD bytes, in order."""
    shard: dict[str, tuple[int, ...]] = {}
    for name, shape in table.items():
        if shard and (sum(map(prod, shard.values())) + prod(shape)) * width > SHARD:
            yield shard
            shard = {}
        shard[name] = shape
    yield shard


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """One word per id: text is not what is measured."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), vocabulary))]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

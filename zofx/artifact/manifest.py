"""The artifact: one folder that any runtime can load, and a description anyone can read.

    manifest.json        what this is: method, pipeline, tensor table, hashes, compile report
    weights.safetensors  every frozen tensor once, read by all runtimes
    trainables.safetensors   initial values of all that moves, f32
    graph.json           the program for torch          graph.onnx   the same for ONNX Runtime
    prefix.json           if it is cut: its frozen prefix    prefix.onnx   the same
    noise.onnx           keys → directions, for engines without numpy
    program.txt          the printed program            tokenizer.json

Loading never unpickles and never executes code from the artifact: JSON, safetensors and ONNX only.
(torch's own .pt2 container is not used because loading one unpickles.) Folders are written beside
and renamed: an artifact exists whole or not at all. This module needs numpy only.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, Self

from zofx.artifact.layout import (
    FORMAT,
    GRADIENT,
    MANIFEST,
    OPTIONAL,
    PREFIX_GRAPH,
    PREFIX_ONNX,
    REQUIRED,
    STAGES,
    TRAINABLES,
    VERSION,
)
from zofx.artifact.safetensors_writer import read_tensors
from zofx.errors import ArtifactError, UsageError
from zofx.files.atomic import file_digest
from zofx.files.strict_json import parse_json
from zofx.ir.schema import Products, Result
from zofx.zo.random.direction_spec import Noise
from zofx.zo.types import FloatArray

MODEL_TEXTS: Final = ("source", "hash", "architecture")


@dataclass(frozen=True)
class TensorRow:
    """A tensor of the artifact.

    Attributes:
        name: stable, from the module path.
        role: "frozen", "table", "head", "index", "trainable", "exact" or "state".
        shape: its shape.
        dtype: safetensors spelling, such as "F32" or "U8".
        origin: the checkpoint tensor it was derived from, or None.
        form: a `zofx.ir.schema.Form`, or the frozen format whose codes it stores.
        origin_shape: the shape of the origin, where it does not follow from the tensor.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    origin: str | None
    form: str
    origin_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Manifest:
    """The description of an artifact.

    Attributes:
        method: its name.
        pipeline: the text that compiled it.
        recipe: the method's defaults for `tune`: eps, lr, … as text.
        model: source, hash, architecture, positions and special tokens of the model.
        config: the transformers configuration.
        noise: how a trainable's direction follows from a key.
        tensors: the table.
        result: what the program computes of a batch.
        products: what its frozen matrices are multiplied by.
        cut: whether the program is in two parts, the first of which depends on tokens alone.
        ops: graph file → names of the ops it calls: "aten.add.Tensor", "com.microsoft.MatMulNBits".
        files: name → SHA-256 of every other file.
        report: remarks of the passes and how long each took; not part of the identity.
    """

    method: str
    pipeline: str
    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    config: Mapping[str, Any]
    noise: Noise
    tensors: tuple[TensorRow, ...]
    result: Result
    products: Products
    cut: bool
    ops: Mapping[str, tuple[str, ...]]
    files: Mapping[str, str]
    report: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Identity of the artifact: SHA-256 of everything but the report."""
        fields = {key: value for key, value in self._fields().items() if key != "report"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def trainables(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the trainable tensors, in table order."""
        return {row.name: row.shape for row in self.tensors if row.role == "trainable"}

    @property
    def exact(self) -> tuple[str, ...]:
        """Names of the tensors that train by exact gradients."""
        return tuple(row.name for row in self.tensors if row.role == "exact")

    def calls(self, op: str) -> bool:
        """Whether any of the graphs calls an op."""
        return any(op in names for names in self.ops.values())

    def _fields(self) -> dict[str, Any]:
        return {**asdict(self), "noise": self.noise.to_dict()}

    def to_json(self) -> str:
        """The file's text."""
        fields = {"format": FORMAT, "version": VERSION, "hash": self.hash, **self._fields()}
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> Self:
        """Read it back.

        Raises:
            ArtifactError: not a manifest, another version, or edited by hand.
        """
        try:
            fields = parse_json(text, paths=True)
            if fields.pop("format") != FORMAT:
                raise KeyError("format")  # noqa: TRY301  one message for all that is not a manifest
            version, stored = fields.pop("version"), fields.pop("hash")
            # Another version may have any other fields: nothing more is read of it.
            manifest = cls._of(**fields) if version == VERSION else None
            if manifest is not None:
                _require_types(manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{where} is not a zofx manifest ({type(error).__name__}: {error}); "
                "compile the model again"
            ) from error
        if manifest is None:
            raise ArtifactError(
                f"{where} is of artifact version {version}, this zofx reads {VERSION}; "
                "compile the model again, or use the zofx that made it"
            )
        if manifest.hash != stored:
            raise ArtifactError(
                f"{where} was changed after it was written (hash {manifest.hash[:12]}, "
                f"recorded {stored[:12]}); compile the model again"
            )
        return manifest

    @classmethod
    def _of(
        cls,
        tensors: list[dict[str, Any]],
        noise: Mapping[str, Any],
        result: str,
        products: str,
        ops: Mapping[str, list[str]],
        **fields: Any,
    ) -> Self:
        return cls(
            tensors=tuple(_row(**row) for row in tensors),
            noise=Noise.from_dict(noise),
            result=Result(result),
            products=Products(products),
            ops={file: tuple(names) for file, names in ops.items()},
            **fields,
        )


def _row(shape: list[int], origin_shape: list[int] | None, **fields: Any) -> TensorRow:
    whole = None if origin_shape is None else tuple(origin_shape)
    return TensorRow(shape=tuple(shape), origin_shape=whole, **fields)


def _require_types(manifest: Manifest) -> None:
    """Values of the kinds that readers take them for.

    Raises:
        TypeError: one is not; says which.
    """
    recipe, model = manifest.recipe, manifest.model
    special, ends = model["special"], manifest.config.get("eos_token_id")
    wrong = [f"recipe.{k}" for k, v in recipe.items() if not isinstance(v, (str, int, float))]
    wrong += _wrong_special(special) if isinstance(special, dict) else ["model.special"]
    kinds = (manifest.noise.kind, *(spec.kind for spec in manifest.noise.specs.values()))
    wrong += [] if all(isinstance(kind, str) for kind in kinds) else ["noise.kind"]
    wrong += [f"files.{name}" for name, d in manifest.files.items() if not isinstance(d, str)]
    wrong += [f"model.{k}" for k in MODEL_TEXTS if not isinstance(model[k], str)]
    chat = model.get("chat_template")
    wrong += ["model.chat_template"] if not isinstance(chat, (str, NoneType)) else []
    tables = ("special_tokens", "generation")
    wrong += [f"model.{k}" for k in tables if not isinstance(model.get(k, {}), dict)]
    positions = model["max_positions"]
    wrong += ["model.max_positions"] if positions is not None and not _counts(positions) else []
    ids = ends if isinstance(ends, list) else [ends]
    wrong += ["config.eos_token_id"] if not all(i is None or _counts(i) for i in ids) else []
    for row in manifest.tensors:
        texts = (row.name, row.role, row.dtype, row.form, row.origin or "")
        sizes = (*row.shape, *(row.origin_shape or ()))
        if not all(isinstance(t, str) for t in texts) or not all(map(_counts, sizes)):
            wrong.append(f"tensors.{row.name!r}")
    if len({row.name for row in manifest.tensors}) != len(manifest.tensors):
        wrong.append("tensors: a name twice")
    if wrong:
        raise TypeError(f"{wrong[0]} is of the wrong kind")


def _wrong_special(special: Mapping[str, Any]) -> list[str]:
    """Ids of tokens that are none."""
    known = {
        **{k: (v := special[k]) is None or _counts(v) for k in ("bos_id", "eos_id", "mask_id")},
        "pad_id": _counts(special["pad_id"]),
        "adds_bos": isinstance(special["adds_bos"], bool),
        "end_ids": isinstance(ends := special.get("end_ids", []), list) and all(map(_counts, ends)),
    }
    return [f"model.special.{name}" for name, right in known.items() if not right]


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def is_only_an_artifact(folder: Path) -> bool:
    """Whether a folder is an artifact of any version, and holds nothing that was put there later.

    `zofx compile --force` replaces such a folder and no other.
    """
    try:
        fields = parse_json((folder / MANIFEST).read_bytes(), paths=True)
        known = {MANIFEST, STAGES, *fields["files"]}
        return fields["format"] == FORMAT and all(p.name in known for p in folder.iterdir())
    except (OSError, ValueError, LookupError, TypeError):
        return False


def read_manifest(folder: Path, *, check: bool = True) -> Manifest:
    """Read an artifact's manifest and check its files.

    Args:
        folder: the artifact.
        check: whether to hash every file and compare.

    Raises:
        UsageError: there is no artifact here.
        ArtifactError: damaged, or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder} is not a compiled artifact: it has no {MANIFEST}; "
            f"make one with `zofx compile MODEL -o {folder}`"
        )
    manifest = Manifest.from_json(path.read_bytes(), path)
    _require_known_files(manifest, path)
    for name, digest in manifest.files.items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder} lacks {name}; compile the model again")
        if check and (actual := file_digest(folder / name)) != digest:
            raise ArtifactError(
                f"{folder / name} is damaged: its SHA-256 is {actual[:12]}…, recorded is "
                f"{digest[:12]}…; copy the artifact again or compile the model again"
            )
    return manifest


def _require_known_files(manifest: Manifest, where: Path) -> None:
    """A closed list: nothing outside the folder is named, and nothing is left unchecked."""
    prefix = {PREFIX_GRAPH, PREFIX_ONNX} if manifest.cut else set()
    gradient = GRADIENT if manifest.exact else frozenset()
    absent = (REQUIRED | prefix | gradient) - manifest.files.keys()
    unknown = manifest.files.keys() - REQUIRED - OPTIONAL
    if absent or unknown:
        which = f"does not list {min(absent)}" if absent else f"lists {min(unknown)[:80]!r}"
        raise ArtifactError(
            f"{where} {which}: every file of an artifact has a digest there, and it has no others; "
            "compile the model again"
        )


def read_trainables(folder: Path) -> dict[str, FloatArray]:
    """Initial values of trainables and state, writable."""
    return read_tensors(folder / TRAINABLES)

"""What trained as LoRA factors, matrix by matrix.

    exactly          ΔW = gain · left · A · right    a thin matrix trains in a basis that stays
    least squares    ΔW = scatter(θ − θ₀), θ − θ₀    cut to its r largest singular values:
                                                     relative error √(Σ_{i>r} σᵢ² / Σ σᵢ²)

No torch. Source: Eckart and Young 1936, Psychometrika 1 (the best matrix of rank r).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from zofx.artifact import layout
from zofx.artifact.manifest import TensorRow, read_trainables
from zofx.errors import UnsupportedError
from zofx.ir.schema import UPDATED_ROLES, Form, Role
from zofx.runs.export.subject import Subject
from zofx.zo.random.direction_spec import Basis
from zofx.zo.types import FloatArray


@dataclass(frozen=True)
class Factors:
    """A matrix's change: W + scale · up · down.

    Attributes:
        weight: its name in the checkpoint.
        transposed: whether the checkpoint stores it as [in, out].
        down: f32[r, in].
        up: f32[out, r].
        scale: of the product.
        change: ‖ΔW‖, Frobenius, where the factors approximate it; None where they are exact.
        lost: ‖ΔW − scale · up · down‖.
    """

    weight: str
    transposed: bool
    down: FloatArray
    up: FloatArray
    scale: float = 1.0
    change: float | None = None
    lost: float = 0.0

    @property
    def rank(self) -> int:
        """R."""
        return int(self.down.shape[0])


def factors_of(subject: Subject, rank: int | None = None) -> Iterator[Factors]:
    """The factors of every matrix that trains.

    Args:
        subject: an artifact at some θ.
        rank: of the approximation of what is none; None refuses to approximate.

    Raises:
        UnsupportedError: something that has moved has no such factors; says what and why.
    """
    manifest = subject.manifest
    moving = [row for row in manifest.tensors if row.role in UPDATED_ROLES]
    tensors = _Tensors(subject)
    _refuse_tables(subject, moving)
    for row in moving:
        basis = manifest.noise.bases.get(row.name)
        if row.form == Form.LOW_RANK and basis is not None and basis.base is None:
            yield _exact(row, basis, tensors)
        elif row.form not in (Form.LEFT, Form.RIGHT) and tensors.moved(row.name):
            yield _approximated(subject, row, tensors, rank)


def _refuse_tables(subject: Subject, moving: list[TensorRow]) -> None:
    """A lookup has LoRA factors of another kind."""
    tables = {row.name for row in subject.manifest.tensors if row.role == Role.TABLE}
    if named := next((row.origin for row in moving if row.origin in tables), None):
        raise _refused(subject, f"{named} is a table of embeddings, and LoRA here is of products")


def _exact(row: TensorRow, basis: Basis, tensors: "_Tensors") -> Factors:
    thin = tensors[row.name]
    up = tensors[basis.left] @ thin if basis.left else thin
    return Factors(*_named(row), down=tensors[basis.right], up=up, scale=basis.gain)


def _approximated(
    subject: Subject, row: TensorRow, tensors: "_Tensors", rank: int | None
) -> Factors:
    shape = _shape(subject, row)
    if row.form not in (Form.SLICE, Form.STORED, Form.TRANSPOSED) or len(shape) != 2:
        raise _refused(subject, _why(subject, row))
    if rank is None:
        raise _refused(
            subject,
            f"{row.name} trains weights of a matrix one by one, which no LoRA holds exactly: "
            "`--to hf` merges it; `--rank R` writes the nearest LoRA of that rank with its error",
        )
    change = tensors[row.name] - tensors.initial[row.name]
    if row.form == Form.SLICE:
        whole = np.zeros(shape, np.float32)
        whole.reshape(-1)[tensors[f"{row.origin}.index"]] = change
        change = whole
    left, values, right = np.linalg.svd(change, full_matrices=False)
    kept = min(rank, len(values))
    root = np.sqrt(values[:kept])
    down, up = np.zeros((rank, shape[1]), np.float32), np.zeros((shape[0], rank), np.float32)
    down[:kept], up[:, :kept] = root[:, None] * right[:kept], left[:, :kept] * root
    squares = np.square(values.astype(np.float64))
    return Factors(
        *_named(row), down, up,
        change=float(np.sqrt(squares.sum())), lost=float(np.sqrt(squares[kept:].sum())),
    )  # fmt: skip


def _why(subject: Subject, row: TensorRow) -> str:
    if row.form == Form.ADAPTER:
        return f"it trains {row.name}, which stands before the text and changes no matrix"
    if row.form == Form.LOW_RANK:
        return (
            f"the basis of {row.name} is drawn anew every so many steps and folded into the "
            "matrix, so the change has no low rank; use `--to hf`"
        )
    if len(_shape(subject, row)) != 2:
        return f"{row.name} is no matrix, and LoRA changes matrices alone; use `--to hf`"
    return f"{row.name} trains as {row.form}, which is no change of a matrix; use `--to hf`"


def _shape(subject: Subject, row: TensorRow) -> tuple[int, ...]:
    """Of the weight that something trains in."""
    if row.form != Form.SLICE:
        return row.shape
    weights = (r for r in subject.manifest.tensors if row.origin in (r.name, r.origin))
    whole = (r.shape if r.name == row.origin else r.origin_shape for r in weights)
    return next(shape for shape in whole if shape is not None)


def _refused(subject: Subject, why: str) -> UnsupportedError:
    return UnsupportedError(f"{subject.folder} cannot be written as LoRA", [why])


def _named(row: TensorRow) -> tuple[str, bool]:
    """Its weight in the checkpoint, and whether that is stored transposed."""
    name = row.name if row.form in (Form.STORED, Form.TRANSPOSED) else str(row.origin)
    return name.removesuffix(".T"), name.endswith(".T")


class _Tensors(Mapping[str, NDArray[Any]]):
    """Tensors at θ, by name; frozen ones are read when they are asked for."""

    def __init__(self, subject: Subject) -> None:
        self.initial = read_trainables(subject.folder)
        self._subject = subject

    def __getitem__(self, name: str) -> NDArray[Any]:
        theta = self._subject.theta
        if name in theta:
            return theta[name]
        with safe_open(self._subject.folder / layout.WEIGHTS, framework="np") as file:
            tensor: NDArray[Any] = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._subject.theta)

    def __len__(self) -> int:
        return len(self._subject.theta)

    def moved(self, name: str) -> bool:
        """Whether training changed it."""
        return not np.array_equal(self._subject.theta[name], self.initial[name])

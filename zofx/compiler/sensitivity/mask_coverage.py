"""How much of a task's squared gradient a sparse mask holds: whether what trains can learn it.

    covered = Σ_{i ∈ m} F_i / Σ_i F_i        m the mask's k entries, F the squared gradients
    best    = the same for the k largest F   of a matrix for a matrix, of all for the whole
    random  = k / entries                    what a random mask of that size is expected to cover

A mask is made once, on a text, and serves every task. It transfers to one as far as `covered`, with
F of that task, comes near to `best`.
Memory: the mask, one matrix of scores, and k of all. numpy here; the scores bring torch when read.
Source: Guo et al. 2024, arXiv 2406.02913.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from zofx.artifact.layout import WEIGHTS
from zofx.artifact.manifest import Manifest
from zofx.errors import UsageError
from zofx.ir.schema import Form, checkpoint_name
from zofx.zo.types import FloatArray

Positions: TypeAlias = NDArray[np.int32]  # flat, as `split-sparse` stores them
NONE: Positions = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Share:
    """How much squared gradient a mask holds, of a matrix or of all.

    Attributes:
        chosen: k, entries of the mask.
        weights: entries there are.
        inside: Σ F over the mask.
        largest: Σ F over the k largest.
        total: Σ F.
    """

    chosen: int
    weights: int
    inside: float
    largest: float
    total: float

    @property
    def covered(self) -> float:
        """What the mask holds, in [0, 1]; 0 where there is no gradient."""
        return self.inside / self.total if self.total else 0.0

    @property
    def best(self) -> float:
        """What a mask of this size could hold."""
        return self.largest / self.total if self.total else 0.0

    @property
    def random(self) -> float:
        """What a random mask of this size is expected to hold."""
        return self.chosen / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Coverage:
    """The shares of a mask.

    Attributes:
        matrices: of every matrix that has scores, by its name there.
        whole: of all of them.
    """

    matrices: Mapping[str, Share]
    whole: Share


def coverage(
    scores: Mapping[str, Callable[[], Any]],
    mask: Mapping[str, Positions],
    progress: Callable[[int, int], None] | None = None,
) -> Coverage:
    """Compare a mask with squared gradients.

    Args:
        scores: recipes by weight, one of them run at a time; they answer to `NAME.T`, too.
        mask: flat positions by weight; matrices that it leaves out count in the whole.
        progress: called after each matrix with (matrices done, matrices).

    Raises:
        UsageError: a matrix of the mask has no scores, or too few.
    """
    asked = _names(scores, mask)
    count = sum(map(len, mask.values()))
    matrices: dict[str, Share] = {}
    best: FloatArray = np.empty(0, dtype=np.float32)
    for done, name in enumerate(scores, 1):
        here = asked.get(name, name)
        values: FloatArray = scores[here]().numpy().ravel()
        matrices[name] = _share(here, values, mask.get(here, NONE))
        best = _largest(np.concatenate((best, values)), count)
        if progress:
            progress(done, len(scores))
    shares = matrices.values()
    whole = Share(
        chosen=count,
        weights=sum(share.weights for share in shares),
        inside=sum(share.inside for share in shares),
        largest=_sum(best),
        total=sum(share.total for share in shares),
    )
    return Coverage(matrices, whole)


def read_mask(folder: Path, manifest: Manifest) -> dict[str, Positions]:
    """Where the trainables of an artifact sit in the weights they were cut from.

    Args:
        folder: the artifact.
        manifest: its description.

    Returns:
        Weight name → ascending flat positions, i32[k].

    Raises:
        UsageError: it trains no sparse part of any weight.
    """
    rows = {
        row.origin: row.name for row in manifest.tensors if row.form == Form.INDEX and row.origin
    }
    if not rows:
        raise UsageError(
            f"{folder} has no sparse mask: it was compiled with {manifest.method}, which trains "
            "no chosen entries of a weight; compile with --method senszoq"
        )
    with safe_open(folder / WEIGHTS, framework="np") as file:
        return {origin: file.get_tensor(name) for origin, name in rows.items()}


def _names(
    scores: Mapping[str, Callable[[], Any]], mask: Mapping[str, Positions]
) -> dict[str, str]:
    """Name of scores → the name the mask knows the weight under: its transpose has another."""
    absent = [name for name in mask if name not in scores]
    if absent:
        raise UsageError(
            f"{len(absent)} of the {len(mask)} matrices of the mask have no scores, among them "
            f"{absent[0]}; make scores of the whole model with `zofx sensitivity`"
        )
    stored = set(scores)
    return {name if name in stored else checkpoint_name(name): name for name in mask}


def _share(name: str, values: FloatArray, positions: Positions) -> Share:
    """Of one matrix, f32[entries]."""
    if len(positions) and positions.max() >= len(values):
        raise UsageError(
            f"the scores of {name} have {len(values)} entries and the mask chose entry "
            f"{positions.max()}; they are of another matrix: run `zofx sensitivity` again"
        )
    largest = _sum(_largest(values, len(positions)))
    return Share(len(positions), len(values), _sum(values[positions]), largest, _sum(values))


def _largest(values: FloatArray, count: int) -> FloatArray:
    """The `count` largest, in no order; all, if there are no more."""
    rest = len(values) - count
    if rest <= 0:
        return values
    return np.partition(values, rest)[rest:] if count else values[:0]


def _sum(values: FloatArray) -> float:
    return float(values.sum(dtype=np.float64))

"""Choose the coordinates to train: the weights with the largest squared gradient on some text.

    index(W) = flat positions of the top entries of F(W)
    F(W) = Σ_batches (∂L/∂W)²                               the diagonal of the empirical Fisher

scope=global ranks all linear weights together (density differs between matrices by orders of
magnitude); scope=matrix takes the same fraction of each. Equal scores rank by weight, then
position. The graph is not touched, so the meaning is the same. Memory: one matrix of scores, and
twice the fraction of all of them; every matrix is read once.
cover < 1 leaves out what is not worth its cost, as a column with one entry costs what a full one
does, and a matrix with ten entries nearly what one with ten thousand does: kept are the columns
that hold this share of the choice's Σ F at the least cost (`zofx.ir.sparse_cost`); then as many
entries are chosen once more, among these, which reads the scores again. On SmolLM2-135M cover=0.95
keeps 71 of 180 matrices and 448 of 3,670 columns, with 96.5 % of Σ F.
Skips, each with a remark: a weight without scores, a weight that is also used outside a linear (a
tied embedding), a matrix that is not worth its cost.
Source: Guo et al. 2024, Zeroth-Order Fine-Tuning of LLMs with Transferable Static Sparsity,
arXiv 2406.02913.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from zofx.errors import PipelineError, UsageError
from zofx.ir.facts import CANONICAL, COORDINATES_SELECTED
from zofx.ir.patterns import trainable_weights
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program
from zofx.ir.schema import Stage
from zofx.ir.sparse_cost import Columns, cheapest

INDEX_LIMIT = 2**31  # positions are int32


@dataclass(frozen=True)
class SelectSensitive(Pass):
    """See the module.

    Attributes:
        fraction: how much of the eligible weights trains, in (0, 1].
        scope: rank all weights together, or each matrix on its own.
        cover: share of the sensitivity that the matrices kept must hold, in (0, 1]; 1 keeps all.
    """

    name: ClassVar[str] = "select-sensitive"
    stage = Stage.SELECT
    serves: ClassVar[dict[str, str]] = {"fraction": "fraction"}
    requires = (CANONICAL,)
    establishes = (COORDINATES_SELECTED,)
    fraction: float = 0.001
    scope: Literal["global", "matrix"] = "global"
    cover: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.cover <= 1:
            raise PipelineError(
                f"select-sensitive{{cover={self.cover}}}: cover must be in (0, 1]; 1 keeps every "
                "matrix"
            )
        if not 0 < self.fraction <= 1:
            raise PipelineError(
                f"select-sensitive{{fraction={self.fraction}}}: fraction must be in (0, 1]"
            )

    @property
    def needs_scores(self) -> bool:
        """It ranks by them."""
        return True

    def run(self, program: Program, remark: Remarker) -> Program:
        """Rank, then store where the chosen ones sit."""
        weights = [
            w for w in trainable_weights(program, remark) if self._has_scores(program, w, remark)
        ]
        if not weights:
            raise UsageError(
                "select-sensitive needs sensitivity scores and the program has none for its linear "
                "weights; give --calibration TEXT, or --sensitivity FILE made by `zofx sensitivity`"
            )
        selection = {}
        for name, index in self._choose(program, weights, remark).items():
            if index.numel() == 0:
                remark(name, "skipped", "none of its weights is among the chosen")
                continue
            selection[name] = index.to(torch.int32)
            size = program.tensors[name].size
            remark(
                name, "applied", f"{index.numel()} of {size} weights ({index.numel() / size:.3%})"
            )
        if not selection:
            raise UsageError(
                f"{self}: that fraction of {sum(program.tensors[w].size for w in weights)} weights "
                "rounds to none, and nothing would train; take a larger one"
            )
        return program.choosing("entries", selection)

    def _has_scores(self, program: Program, name: str, remark: Remarker) -> bool:
        if program.tensors[name].size > INDEX_LIMIT:
            remark(name, "skipped", "it has more entries than int32 positions can address")
            return False
        if program.choice(name).scores is None:
            remark(name, "skipped", "no sensitivity scores for it")
            return False
        return True

    def _choose(self, program: Program, weights: list[str], remark: Remarker) -> dict[str, Tensor]:
        """Ascending flat positions i64[k] by weight."""
        total = sum(program.tensors[name].size for name in weights)
        every = {name: partial(_scores, program, name) for name in weights}
        chosen = self._largest(program, every, total)
        if self.cover < 1 and any(entries.places.numel() for entries in chosen.values()):
            kept = _worthwhile(program, chosen, self.cover)
            for name in chosen:
                if chosen[name].places.numel() and name not in kept:
                    remark(name, "skipped", "its share of the sensitivity is not worth its product")
            among = {name: partial(_scores, program, name, kept[name]) for name in kept}
            chosen = self._largest(program, among, total)
        return {name: entries.places for name, entries in chosen.items()}

    def _largest(
        self, program: Program, scores: Mapping[str, Callable[[], Tensor]], total: int
    ) -> dict[str, "_Entries"]:
        """The entries of the largest scores: of all these weights, or of each."""
        if self.scope == "global":
            return _largest(scores, round(self.fraction * total))
        return {
            name: _largest({name: read}, round(self.fraction * program.tensors[name].size))[name]
            for name, read in scores.items()
        }


def _worthwhile(
    program: Program, chosen: Mapping[str, "_Entries"], cover: float
) -> dict[str, Tensor]:
    """By weight, the columns i64[c] that hold `cover` of the choice at the least cost."""
    names = [name for name, entries in chosen.items() if entries.places.numel()]
    columns_of_weights, places = [], []
    for number, name in enumerate(names):
        out, width = program.tensors[name].shape
        column, inverse = torch.unique(chosen[name].places % width, return_inverse=True)
        sums = torch.zeros(column.numel(), dtype=torch.float64)
        sums.index_add_(0, inverse, chosen[name].scores.double())
        sizes = (torch.full_like(column, size) for size in (number, out, width))
        columns_of_weights.append(Columns(sums, torch.bincount(inverse), *sizes))
        places.append(column)
    columns = Columns(*map(torch.cat, zip(*columns_of_weights, strict=True)))
    kept = cheapest(columns, cover)
    column = torch.cat(places)
    by_weight = (column[kept & (columns.matrix == number)] for number in range(len(names)))
    return {name: own for name, own in zip(names, by_weight, strict=True) if own.numel()}


class _Entries(NamedTuple):
    """Entries of a weight: their flat positions i64[k], ascending, and their scores f32[k]."""

    places: Tensor
    scores: Tensor


def _largest(matrices: Mapping[str, Callable[[], Tensor]], budget: int) -> dict[str, _Entries]:
    """The entries of the largest scores of all weights; of equal ones the first.

    Every matrix is read once: what is no longer among the largest is dropped when there are twice
    as many as wanted, and from then on scores below them are skipped.

    Args:
        matrices: by weight, what reads its scores f32[n]; one is in memory at a time.
        budget: how many are chosen in all.
    """
    best = _Best(torch.empty(0), torch.empty(0, dtype=torch.int64), torch.empty(0).int())
    least = -math.inf if budget else math.inf
    for number, read in enumerate(matrices.values()):
        scores = read()
        place = (scores > least).nonzero().flatten()
        owner = torch.full((place.numel(),), number, dtype=torch.int32)
        best = _Best(*map(torch.cat, zip(best, (scores[place], place, owner), strict=True)))
        if best.scores.numel() > 2 * budget:
            best, least = best.first(budget)
    best, _ = best.first(budget)
    chosen = {}
    for number, name in enumerate(matrices):
        own = best.owner == number
        chosen[name] = _Entries(best.place[own], best.scores[own])
    return chosen


class _Best(NamedTuple):
    """Entries by weight, then position: scores f32[k], positions i64[k], weights i32[k]."""

    scores: Tensor
    place: Tensor
    owner: Tensor

    def first(self, count: int) -> tuple["_Best", float]:
        """The `count` largest in the same order, and the least score of these."""
        size = self.scores.numel()
        if size <= count or not count:
            return _Best(*(part[:count] for part in self)), -math.inf if count else math.inf
        least = self.scores.kthvalue(size - count + 1).values
        chosen = self.scores > least
        level = (self.scores == least).nonzero().flatten()
        chosen[level[: count - int(chosen.sum())]] = True
        return _Best(*(part[chosen] for part in self)), float(least)


def _scores(program: Program, name: str, columns: Tensor | None = None) -> Tensor:
    """f32[out·in] in the layout of the weight; with columns, nothing beside these can be chosen."""
    make = program.choice(name).scores
    assert make is not None  # asked before
    scores = make().flatten()
    if scores.numel() != program.tensors[name].size:
        raise UsageError(
            f"the sensitivity scores of '{name}' have {scores.numel()} entries and the weight has "
            f"{program.tensors[name].size}; they were made for another model: "
            "run `zofx sensitivity` on this one"
        )
    if columns is None:
        return scores
    by_column = scores.view(program.tensors[name].shape)
    among = torch.full_like(by_column, -math.inf)
    among[:, columns] = by_column[:, columns]
    return among.flatten()

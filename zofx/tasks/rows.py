"""Rows of tokens → a batch, and scores of the batch back to examples.

    rows      N of them, of B examples   ─collate─▶ Batch: i64[N, T], [N, S], [N, S, C], padded
    scores    logprob f32[P, N, C]       ─────────▶ f32[P, B, M]; −inf where an example has fewer
                                                    than M candidates
    spread    weights f64[B, M]          ─────────▶ f64[N, C]: the transpose of scores

Rows are padded on the right: positions are explicit, so padding moves nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from zofx.session import IGNORED, Batch
from zofx.tasks.types import Example
from zofx.zo.types import FloatArray, IntArray


@dataclass(frozen=True)
class Row:
    """One row before padding.

    Attributes:
        example: index of its example in the batch.
        candidates: which candidates its C alternatives are.
        tokens: input ids.
        positions: where to score, S indices.
        targets: S × C token ids.
        cut: how many tokens of the prompt were left out, because the row would be too long.
        merged: whether the tokenizer merges the end of the prompt with the candidate.
    """

    example: int
    candidates: tuple[int, ...]
    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    cut: int = 0
    merged: bool = False


@dataclass(frozen=True)
class Encoded:
    """A batch and how its rows belong to its B examples.

    Attributes:
        batch: what a session evaluates.
        row_example: i64[N], the example of each row.
        row_candidate: i64[N, C], the candidate of each alternative; -1 marks padding.
        gold: i64[B], the gold candidate.
        counts: i64[B, M], scored tokens per candidate; 0 where there is none.
        examples: the B examples, for objectives that read text.
    """

    batch: Batch
    row_example: IntArray
    row_candidate: IntArray
    gold: IntArray
    counts: IntArray
    examples: tuple[Example, ...] = ()

    def scores(self, logprob: FloatArray) -> FloatArray:
        """Mean log-probability of each candidate, f32[P, B, M], from a session's f32[P, N, C]."""
        rows, columns = np.nonzero(self.row_candidate >= 0)
        scores = np.full((len(logprob), *self.counts.shape), -np.inf, dtype=np.float32)
        scores[:, self.row_example[rows], self.row_candidate[rows, columns]] = logprob[
            :, rows, columns
        ]
        return scores

    def spread(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights of candidates f64[B, M] as weights of what a session returns, f64[N, C]."""
        rows, columns = np.nonzero(self.row_candidate >= 0)
        places = np.zeros(self.row_candidate.shape, dtype=np.float64)
        places[rows, columns] = weights[self.row_example[rows], self.row_candidate[rows, columns]]
        return places

    def take(self, chosen: Sequence[int]) -> "Encoded":
        """Some of its examples, with their rows, as a batch of its own."""
        places = np.full(len(self.gold), -1, np.int64)
        places[list(chosen)] = np.arange(len(chosen))
        rows = np.flatnonzero(places[self.row_example] >= 0)
        return Encoded(
            self.batch.rows(rows),
            places[self.row_example[rows]],
            self.row_candidate[rows],
            self.gold[list(chosen)],
            self.counts[list(chosen)],
            tuple(self.examples[n] for n in chosen) if self.examples else (),
        )


def merged_row(rows: Sequence[Row]) -> Row:
    """Single-token candidates after the same tokens: one row with an alternative for each."""
    candidates = tuple(c for row in rows for c in row.candidates)
    targets = tuple(row.targets[0][0] for row in rows)
    return replace(rows[0], candidates=candidates, targets=(targets,))


def collate(examples: Sequence[Example], rows: Sequence[Row], length: int, pad_id: int) -> Encoded:
    """Pad rows to common N × T, S and C."""
    N, S = len(rows), max(len(row.positions) for row in rows)
    C = max(len(row.candidates) for row in rows)
    counts = np.zeros((len(examples), max(len(e.candidates) for e in examples)), dtype=np.int64)
    for row in rows:
        counts[row.example, list(row.candidates)] = len(row.positions)
    return Encoded(
        Batch(
            input_ids=_stack((row.tokens for row in rows), (N, length), pad_id),
            attention_mask=_stack(((1,) * len(row.tokens) for row in rows), (N, length), 0),
            positions=_stack((row.positions for row in rows), (N, S), 0),
            targets=_stack_targets(rows, (N, S, C)),
        ),
        row_example=np.array([row.example for row in rows], dtype=np.int64),
        row_candidate=_stack((row.candidates for row in rows), (N, C), -1),
        gold=np.array([example.answer for example in examples], dtype=np.int64),
        counts=counts,
    )


def _stack(rows: Iterable[Sequence[int]], shape: tuple[int, int], fill: int) -> IntArray:
    array = np.full(shape, fill, dtype=np.int64)
    for line, row in zip(array, rows, strict=True):
        line[: len(row)] = row
    return array


def _stack_targets(rows: Sequence[Row], shape: tuple[int, int, int]) -> IntArray:
    array = np.full(shape, IGNORED, dtype=np.int64)
    for line, row in zip(array, rows, strict=True):
        line[: len(row.positions), : len(row.candidates)] = row.targets
    return array

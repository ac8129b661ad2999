"""A batch's own vocabulary: the rows of its tokens, in place of tables with a row for every token.

    tokens u_0 < u_1 < … of a batch     u_i in its ids, and targets → i     W → W[u]

Scores stay what they are where tables are only looked up. Where one is multiplied, they are those
over the batch's own tokens, so only relative batches are narrowed (`passes/narrow_vocabulary.py`).
Rows are read, not mapped: a mapped file is resident page by page, and soon a whole table is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zofx.artifact.safetensors_writer import Span, spans
from zofx.session import IGNORED, Batch
from zofx.zo.types import IntArray

HEAD: Final = "head"
ROLES: Final = ("table", HEAD)
BFLOAT16: Final = np.dtype(np.uint16)
"""As numpy has it: the bits."""
TYPES: Final[dict[str, np.dtype[Any]]] = {
    "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": BFLOAT16,
}  # fmt: skip


@dataclass(frozen=True)
class BatchVocabulary:
    """Tokens of a batch, and what tables have of them.

    Attributes:
        tokens: i64[V'], ascending; None stands for all there are, in their own numbers.
        tables: [V', …] by name; none if all tokens are meant.
        scored: whether targets are numbered with the ids.
    """

    tokens: IntArray | None
    tables: Mapping[str, NDArray[Any]]
    scored: bool

    def number(self, batch: Batch) -> Batch:
        """That batch, or rows of it, with tokens numbered anew."""
        if self.tokens is None:
            return batch
        numbered = replace(batch, input_ids=np.searchsorted(self.tokens, batch.input_ids))
        if self.scored:
            places = np.searchsorted(self.tokens, batch.targets)
            targets = np.where(batch.targets == IGNORED, IGNORED, places)
            numbered = replace(numbered, targets=targets)
        return numbered


class Vocabulary:
    """The tables of an artifact.

    Args:
        weights: its file of frozen tensors.
        roles: what each of its tensors is for.

    Attributes:
        head: bytes of what makes a logit per token.
    """

    def __init__(self, weights: Path, roles: Mapping[str, str]) -> None:
        places = spans(weights)
        self._weights = weights
        self._tables = {name: places[name] for name, role in roles.items() if role in ROLES}
        self._scored = HEAD in roles.values()
        self.head = sum(
            prod(span.shape) * TYPES[span.dtype].itemsize
            for name, span in self._tables.items()
            if roles[name] == HEAD
        )
        self._size = min((span.shape[0] for span in self._tables.values()), default=0)

    def words(self, batch: Batch) -> BatchVocabulary:
        """The tokens of a batch; all there are, where it needs the whole vocabulary."""
        every = BatchVocabulary(None, {}, self._scored)
        if not self._tables or (self._scored and not batch.relative):
            return every
        parts = [batch.input_ids, batch.targets] if self._scored else [batch.input_ids]
        tokens = np.unique(np.concatenate([part[part != IGNORED] for part in parts]))
        if tokens[0] < 0 or tokens[-1] >= self._size:
            return every  # the engine raises for it
        rows = {name: self._rows(span, tokens) for name, span in self._tables.items()}
        return BatchVocabulary(tokens, rows, self._scored)

    def _rows(self, span: Span, tokens: IntArray) -> NDArray[Any]:
        """[V', …]; neighbours are read at once."""
        rows: NDArray[Any] = np.empty((len(tokens), *span.shape[1:]), TYPES[span.dtype])
        width = rows.nbytes // len(rows)
        breaks = np.flatnonzero(np.diff(tokens) != 1) + 1
        places = (span.offset + tokens * width).tolist()
        ends = [0, *breaks.tolist(), len(tokens)]
        memory = rows.data.cast("B")
        with self._weights.open("rb", buffering=0) as file:
            for start, end in pairwise(ends):
                file.seek(places[start])
                file.readinto(memory[start * width : end * width])
        return rows

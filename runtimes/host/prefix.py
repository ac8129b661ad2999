"""The frozen prefix of a program, row by row: a function of a row's tokens alone.

    row n of a batch  ─its L tokens─▶  kept? ─no─▶ engine: f32[1, L, H] ─▶ keep
                                         └──yes──────────────────────────┴─▶ hidden[n, :L], rest 0

A row is always computed alone and without padding, kept or not. So its activations are the same
bits in any batch and any order, and a run that keeps them is bit-equal to one that does not.
"""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from zofx.runtimes.host.activation_cache import ActivationCache, row_name
from zofx.session import Batch, Session
from zofx.zo.types import FloatArray, IntArray

Compute: TypeAlias = Callable[[dict[str, IntArray]], FloatArray]
"""input_ids, attention_mask i64[1, L] → hidden f32[1, L, H]."""


class CutSession(Session, Protocol):
    """A session of a program that is cut: the frozen prefix need not be computed twice."""

    def keep_activations(self, activations: ActivationCache) -> None:
        """Look up there what the frozen prefix makes of a row, and keep what is not there yet."""
        ...


class FrozenPrefix:
    """The program below a cut.

    Args:
        start: opens the engine; asked when the first row has to be computed.
        owner: whose activations these are: two with the same owner compute the same bits.

    Attributes:
        computed: how many rows the engine was given.
    """

    def __init__(self, start: Callable[[], Compute], owner: str) -> None:
        self._start = start
        self._owner = owner
        self._compute: Compute | None = None
        self._kept: ActivationCache | None = None
        self.computed = 0

    def keep(self, activations: ActivationCache) -> None:
        """Look rows up here, and put them here."""
        self._kept = activations

    def __call__(self, batch: Batch) -> FloatArray:
        """f32[N, T, H], 0 after the last token of each row."""
        rows = [self._row(*row) for row in zip(batch.input_ids, batch.attention_mask, strict=True)]
        hidden = np.zeros((*batch.input_ids.shape, rows[0].shape[1]), np.float32)
        for place, row in zip(hidden, rows, strict=True):
            place[: len(row)] = row
        return hidden

    def _row(self, ids: IntArray, mask: IntArray) -> FloatArray:
        """f32[L, H], L up to the last token."""
        length = max(1, int(np.flatnonzero(mask).max(initial=0)) + 1)
        ids, mask = ids[:length], mask[:length]
        if self._kept is None:
            return self._computed(ids, mask)
        name = row_name(self._owner, ids, mask)
        hidden = self._kept.load(name, length)
        if hidden is None:
            hidden = self._computed(ids, mask)
            self._kept.save(name, hidden)
        return hidden

    def _computed(self, ids: IntArray, mask: IntArray) -> FloatArray:
        if self._compute is None:
            self._compute = self._start()
        self.computed += 1
        (hidden,) = self._compute({"input_ids": ids[None], "attention_mask": mask[None]})
        row: FloatArray = hidden
        return row

    def close(self) -> None:
        """Release the engine."""
        self._compute = None


def processor() -> str:
    """Which processor this is: another one may sum in another order."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("model name")), platform.processor())

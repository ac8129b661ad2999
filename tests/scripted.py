"""A session that writes what a rule says, for tests of what surrounds the graph."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import numpy as np

from zofx.session import IGNORED, Batch, Session
from zofx.zo.types import FloatArray, Key

Rule: TypeAlias = Callable[[float, tuple[int, ...]], float]
"""(sum of the probe's coefficients, what precedes) → the token that follows, or NaN."""


class Scripted:
    """Scores 0 for the token of the rule, −9 for every other one; keeps what it was asked.

    Args:
        rule: which token follows.

    Attributes:
        asked: per forward, the sums of its probes' coefficients, and of its rows what precedes the
            first scored token.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.asked: list[tuple[list[float], list[tuple[int, ...]]]] = []

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        """Mean over scored positions, f32[P, N, C]."""
        sums = coefficients.sum(axis=1).tolist()
        N, S, C = batch.targets.shape
        texts = [
            [tuple(row[: place + 1]) for place in places]
            for row, places in zip(batch.input_ids.tolist(), batch.positions.tolist(), strict=True)
        ]
        self.asked.append((sums, [row[0] for row in texts]))
        scores = np.zeros((len(sums), N, C), dtype=np.float32)
        for p, n, s in np.ndindex(len(sums), N, S):
            if batch.targets[n, s, 0] != IGNORED:
                token = self.rule(sums[p], texts[n][s])
                scores[p, n] += np.where(batch.targets[n, s] == token, 0, 0 * token - 9)
        counts = (batch.targets != IGNORED).sum(axis=1).clip(min=1)
        means: FloatArray = scores / counts.astype(np.float32)
        return means


def scripted(rule: Rule) -> tuple[Session, Scripted]:
    """The session as what uses one sees it, and as it is."""
    made = Scripted(rule)
    return cast(Session, made), made

"""The exact gradient of one batch's mean loss, and the loss of its forward.

    batch ─examples─▶ parts ──▶ session.gradient(part) · share of the part ──Σ──▶ gradient, loss

A batch goes through the session a few examples at a time (gradient accumulation), so that the
residuals of one part are all that is kept. A part holds whole examples: an objective may compare
the rows of one, never those of two. The parts follow from the batch alone, so a step is computed to
the same bits when it is computed again.
"""

from collections.abc import Iterator
from functools import cached_property, partial
from typing import cast

import numpy as np

from zofx.session import RESIDUAL_POSITIONS, ExactSession
from zofx.tasks.losses import Loss
from zofx.tasks.objectives import Objective, ScoreObjective
from zofx.tasks.rows import Encoded
from zofx.zo.types import FloatArray, Key, Losses


class ExactGradient:
    """Computed once, at the first question.

    Args:
        session: at θ.
        objective: one with a derivative.
        encoded: the batch.
    """

    def __init__(self, session: ExactSession, objective: Objective, encoded: Encoded) -> None:
        self._session, self._objective, self._encoded = session, objective, encoded

    def __call__(self) -> dict[str, FloatArray]:
        """Name → gradient."""
        return self._computed[0]

    def loss(self, keys: tuple[Key, ...], matrix: FloatArray) -> Losses:
        """The loss at θ, f64[1]; there are no probes."""
        return self._computed[1].mean

    @cached_property
    def _computed(self) -> tuple[dict[str, FloatArray], Loss]:
        total: dict[str, FloatArray] = {}
        losses: list[Loss] = []
        for part in parts(self._encoded):
            gradient = self._session.gradient(part.batch, partial(self._weigh, part, losses))
            for name, values in gradient.items():
                total[name] = total[name] + values if name in total else values
        loss = sum(losses[1:], losses[0])
        share = np.float32(1 / loss.weight)
        return {name: values * share for name, values in total.items()}, loss

    def _weigh(self, part: Encoded, losses: list[Loss], logprob: FloatArray) -> Losses:
        """The derivative of the sum that a loss is the mean of; the loss is noted."""
        weights = self._objective.weigh(logprob, part)
        losses.append(cast(ScoreObjective, self._objective).loss(logprob[None], part))
        return weights * losses[-1].weight


def parts(encoded: Encoded) -> Iterator[Encoded]:
    """Examples of about the same length, a few at a time."""
    tokens = encoded.batch.attention_mask.sum(1)
    longest, rows = np.zeros((2, len(encoded.gold)), np.int64)
    np.maximum.at(longest, encoded.row_example, tokens)
    np.add.at(rows, encoded.row_example, 1)
    chosen: list[int] = []
    for example in np.argsort(longest, kind="stable").tolist():
        positions = longest[example] * (rows[chosen].sum() + rows[example])
        if chosen and positions > RESIDUAL_POSITIONS:
            yield encoded.take(chosen)
            chosen = []
        chosen.append(example)
    yield encoded.take(chosen)

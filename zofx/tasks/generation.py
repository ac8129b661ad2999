"""Greedy text from a scoring graph: every token of the vocabulary is an alternative.

    targets[n, 0, v] = v,  positions[n, 0] = last token of row n
    logprob[p, n, v] = log P(v | row n) under θ + Σ_q C[p, q] · z(key_q)
    row[p, n]        ← row[p, n] + argmax_v logprob[p, n, v]          the first of equals

The graph that trains also writes: there is no second graph and no cache, so T new tokens cost T
forwards over ever longer rows. Probes write different texts: from where they part each (probe, row)
pair has tokens of its own. A pair is computed once per token, in one forward with all pairs that
need the same probes. Rows are padded on the right, which positions make harmless. numpy only.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import TypeAlias

import numpy as np

from zofx.errors import DivergenceError, UsageError
from zofx.session import Batch, Session, rounded_up, unperturbed
from zofx.zo.types import FloatArray, IntArray, Key

Tokens: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, Tokens]  # (probe, what it has read and written so far)


def generate(  # noqa: PLR0913  the session, the prompts, and the numbers of a model
    session: Session,
    prompts: Sequence[Sequence[int]],
    *,
    keys: Sequence[Key] = (),
    matrix: FloatArray | None = None,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    pad_id: int,
    max_positions: int | None,
    vocabulary: int,
) -> list[list[list[int]]]:
    """Continue prompts greedily under P probes.

    Args:
        session: an open artifact of a causal model.
        prompts: N rows of token ids, of any lengths.
        keys: Q directions; none means no perturbation.
        matrix: f32[P, Q], as of `Session.evaluate`; None is one probe without a direction.
        max_new_tokens: the most tokens added to a row.
        stop_ids: tokens that end a row; the one that did is its last.
        pad_id: fills rows on the right, under attention mask 0.
        max_positions: the most tokens of a row, prompt and all; None for no limit.
        vocabulary: how many tokens the model knows.

    Returns:
        The new tokens, by probe, then by row: at least one each, prompts left out.

    Raises:
        UsageError: nothing may be added, or a prompt is empty or leaves no position for a token.
        DivergenceError: a probability is not a number; carries the step of the keys.
    """
    limits = [_limit(n, prompt, max_new_tokens, max_positions) for n, prompt in enumerate(prompts)]
    probes = unperturbed() if matrix is None else matrix
    graph = _Graph(session, keys, probes, pad_id, max_positions, vocabulary)
    texts = [[tuple(prompt) for prompt in prompts] for _ in probes]
    growing = [(p, n) for p in range(len(probes)) for n in range(len(prompts))]
    while growing:
        following = graph.following({(p, texts[p][n]) for p, n in growing})
        for p, n in growing:
            texts[p][n] += (following[p, texts[p][n]],)
        growing = [
            (p, n)
            for p, n in growing
            if len(texts[p][n]) < limits[n] and texts[p][n][-1] not in stop_ids
        ]
    return [
        [list(text[len(prompt) :]) for text, prompt in zip(rows, prompts, strict=True)]
        for rows in texts
    ]


def _limit(number: int, prompt: Sequence[int], new: int, positions: int | None) -> int:
    """The length at which a row is full."""
    if new < 1:
        raise UsageError(f"{new} new tokens: at least one is generated")
    if not prompt:
        raise UsageError(f"prompt {number} is empty: a model continues at least one token")
    if positions is not None and len(prompt) >= positions:
        raise UsageError(
            f"prompt {number} has {len(prompt)} tokens, and the model has {positions} positions: "
            "that leaves none for a new token; shorten it"
        )
    return min(len(prompt) + new, positions or len(prompt) + new)


@dataclass(frozen=True)
class _Graph:
    """Which token follows a text; the fields are `generate`'s."""

    session: Session
    keys: Sequence[Key]
    probes: FloatArray
    pad_id: int
    max_positions: int | None
    vocabulary: int

    def following(self, pairs: Collection[Pair]) -> dict[Pair, int]:
        """The token that follows each pair: one forward for all that need the same probes."""
        tokens: dict[Pair, int] = {}
        for together, texts in _shared(pairs):
            logprob = self.session.evaluate(
                self._batch(texts), self.keys, self.probes[list(together)]
            )
            if np.isnan(logprob).any():
                raise DivergenceError(
                    "the probabilities of the next token are not numbers: training has destroyed "
                    "the weights, or the compiled model overflows; go back to an earlier step",
                    self.keys[0].step if self.keys else 0,
                )
            best = logprob.argmax(axis=-1).tolist()
            tokens |= zip(product(together, texts), chain(*best), strict=True)
        return tokens

    def _batch(self, texts: Sequence[Tokens]) -> Batch:
        """Rows whose last token is scored against the whole vocabulary."""
        lengths = np.array([len(text) for text in texts])
        longest = int(rounded_up(lengths).max())
        real = np.arange(min(longest, self.max_positions or longest)) < lengths[:, None]
        input_ids: IntArray = np.full(real.shape, self.pad_id, dtype=np.int64)
        input_ids[real] = np.concatenate(texts)
        return Batch(
            input_ids=input_ids,
            attention_mask=real.astype(np.int64),
            positions=lengths[:, None] - 1,
            targets=np.tile(np.arange(self.vocabulary), (len(texts), 1, 1)),
        )


def _shared(pairs: Collection[Pair]) -> list[tuple[tuple[int, ...], list[Tokens]]]:
    """Pairs as (probes, texts that all these probes need), in an order that is always the same."""
    needed_by: dict[Tokens, list[int]] = {}
    for probe, text in sorted(pairs):
        needed_by.setdefault(text, []).append(probe)
    groups: dict[tuple[int, ...], list[Tokens]] = {}
    for text, together in needed_by.items():
        groups.setdefault(tuple(together), []).append(text)
    return list(groups.items())

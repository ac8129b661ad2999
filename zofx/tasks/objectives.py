"""What training minimises: host-side numpy on the scores of a batch, per probe, in fp64.

    cross-entropy    −log softmax(s)[gold] over an example's candidates, mean over examples
    likelihood       −s[gold], mean over the scored tokens of all examples
    error-rate       1 − [argmax s = gold], mean over examples: no derivative needed

s are mean log-probabilities over the full vocabulary, f32[P, B, M]; the cross-entropy renormalises
them over the candidates. A loss is kept as (sum, weight), so that a batch evaluated in chunks adds
up to the same mean.

Source: Malladi et al. 2023 (arXiv 2305.17333), §2 and large_models/utils.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.tasks.encode import Encoded
from zofx.tasks.types import Kind
from zofx.zo.types import FloatArray

DoubleArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """The loss of a batch, or of a chunk of it.

    Attributes:
        total: f64[P], summed over what the mean is taken of.
        weight: how many examples or tokens that is.
    """

    total: DoubleArray
    weight: float

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.total + other.total, self.weight + other.weight)

    @property
    def mean(self) -> DoubleArray:
        """The value training minimises, f64[P]; nats, or a rate."""
        return self.total / self.weight


@dataclass(frozen=True)
class Objective:
    """A loss and what it needs of the encoder.

    Attributes:
        name: as in `--objective NAME`.
        gold_only: whether it looks at the gold candidate alone, so that only that is encoded.
        of: (scores f32[P, B, M], the encoded batch) → loss.
    """

    name: str
    gold_only: bool
    of: Callable[[FloatArray, Encoded], Loss]

    def loss(self, logprob: FloatArray, encoded: Encoded) -> Loss:
        """The loss of what a session returned, f32[P, N, C]."""
        return self.of(encoded.scores(logprob), encoded)

    def on(self, encoded: Encoded) -> Callable[[FloatArray], DoubleArray]:
        """The objective of one batch as a driver calls it: logprob f32[P, N, C] → losses f64[P]."""
        return lambda logprob: self.loss(logprob, encoded).mean


def cross_entropy(scores: FloatArray, encoded: Encoded) -> Loss:
    """Over each example's candidates; missing ones (−inf) take no part."""
    wide = scores.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    shifted = wide - top
    losses = np.log(np.exp(shifted).sum(axis=-1)) - _gold(shifted, encoded)
    return Loss(losses.sum(axis=-1), float(losses.shape[-1]))


def likelihood(scores: FloatArray, encoded: Encoded) -> Loss:
    """Teacher forcing on the gold continuation; every token has the same weight."""
    tokens = np.take_along_axis(encoded.counts, encoded.gold[:, None], axis=1)[:, 0]
    return Loss(-(_gold(scores.astype(np.float64), encoded) @ tokens), float(tokens.sum()))


def error_rate(scores: FloatArray, encoded: Encoded) -> Loss:
    """How many examples are answered wrongly; a score that is not a number is never the answer."""
    wrong = predictions(scores) != encoded.gold
    return Loss(wrong.sum(axis=-1).astype(np.float64), float(wrong.shape[-1]))


def predictions(scores: FloatArray) -> NDArray[np.int64]:
    """The best candidate, i64[P, B]: the first of equals, -1 where no score is a number."""
    known = np.where(np.isnan(scores), -np.inf, scores)
    return np.where(known.max(axis=-1) == -np.inf, -1, known.argmax(axis=-1))


def _gold(scores: DoubleArray, encoded: Encoded) -> DoubleArray:
    """The gold candidates' scores, f64[P, B]."""
    return np.take_along_axis(scores, encoded.gold[None, :, None], axis=-1)[..., 0]


OBJECTIVES: Mapping[str, Objective] = {
    "cross-entropy": Objective("cross-entropy", gold_only=False, of=cross_entropy),
    "likelihood": Objective("likelihood", gold_only=True, of=likelihood),
    "error-rate": Objective("error-rate", gold_only=False, of=error_rate),
}


def objective_for(kind: Kind) -> Objective:
    """What a task of this kind is trained on, unless told otherwise."""
    return OBJECTIVES["cross-entropy" if kind == "classification" else "likelihood"]

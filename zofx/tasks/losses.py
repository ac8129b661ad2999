"""Losses of scores, and their derivatives: host-side numpy, in float64.

    cross-entropy    Σ −log softmax(s)[gold]      over examples, of s over candidates
    likelihood       Σ −s[gold] · tokens          over examples, s a mean over tokens
    error-rate       Σ 1 − [argmax s = gold]      over examples

A loss is kept as (sum, weight), so that a batch evaluated in chunks adds up to the same mean.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.tasks.rows import Encoded
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
        """The value training minimises, f64[P]; nats, a rate, or the negative of a reward."""
        return self.total / self.weight


def cross_entropy(scores: FloatArray, encoded: Encoded) -> Loss:
    """Over each example's candidates; missing ones (−inf) take no part."""
    wide = scores.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    shifted = wide - top
    losses = np.log(np.exp(shifted).sum(axis=-1)) - _gold(shifted, encoded)
    return Loss(losses.sum(axis=-1), float(losses.shape[-1]))


def cross_entropy_weights(scores: FloatArray, encoded: Encoded) -> DoubleArray:
    """(softmax(s) − [gold]) / B."""
    wide = scores.astype(np.float64)
    shares = np.exp(wide - wide.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    weights: DoubleArray = (shares - _is_gold(encoded)) / len(scores)
    return weights


def likelihood(scores: FloatArray, encoded: Encoded) -> Loss:
    """Teacher forcing on the gold continuation; every token has the same weight."""
    tokens = np.take_along_axis(encoded.counts, encoded.gold[:, None], axis=1)[:, 0]
    return Loss(-(_gold(scores.astype(np.float64), encoded) @ tokens), float(tokens.sum()))


def likelihood_weights(scores: FloatArray, encoded: Encoded) -> DoubleArray:
    """−tokens · [gold] / Σ tokens."""
    counts = encoded.counts * _is_gold(encoded)
    weights: DoubleArray = -counts / counts.sum()
    return weights


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


def _is_gold(encoded: Encoded) -> NDArray[np.bool_]:
    """Which candidate is the gold one, bool[B, M]."""
    gold: NDArray[np.bool_] = np.arange(encoded.counts.shape[1]) == encoded.gold[:, None]
    return gold

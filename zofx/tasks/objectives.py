"""What training minimises: host-side numpy, per probe, in fp64.

    cross-entropy    −log softmax(s)[gold] over an example's candidates, mean over examples
    likelihood       −s[gold], mean over the scored tokens of all examples
    error-rate       1 − [argmax s = gold], mean over examples
    f1               1 − F1 of greedy text against the references, mean over examples
    reward           −reward(text, example), mean over examples

    measure(session, encoded, keys, C)   →   f64[P]

s are mean log-probabilities over the full vocabulary, f32[P, B, M], or these up to a number per
example, where only differences count (`relative`); the cross-entropy renormalises them over the
candidates. The last three have no derivative; the last two write text under every probe, at a
forward per token.

Source: Malladi et al. 2023 (arXiv 2305.17333), §2, §3.3 and large_models/utils.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from zofx.errors import UsageError
from zofx.session import Session
from zofx.tasks.decode import Decoder
from zofx.tasks.losses import (
    DoubleArray,
    Loss,
    cross_entropy,
    cross_entropy_weights,
    error_rate,
    likelihood,
    likelihood_weights,
)
from zofx.tasks.quadratics import (
    cross_entropy_model,
    derivatives,
    likelihood_model,
    of_examples,
)
from zofx.tasks.rows import Encoded
from zofx.tasks.types import Example, Kind
from zofx.zo.gauss_newton import Quadratics
from zofx.zo.settings import GAUSS_NEWTON_ESTIMATORS
from zofx.zo.types import FloatArray, Key


@dataclass(frozen=True)
class ScoreObjective:
    """A loss of the candidates' scores: one forward for all probes.

    Attributes:
        name: as in `--objective NAME`.
        gold_only: whether it looks at the gold candidate alone, so that only that is encoded.
        relative: whether it stays the same when all scores of an example change by one number.
        of: (scores f32[P, B, M], the encoded batch) → loss.
        weights: (scores f32[B, M], the encoded batch) → the derivative of the mean loss by each
            score, f64[B, M]; None where it has none.
        model: (scores f32[B, M], their derivatives along Q directions f64[Q, B, M], the encoded
            batch) → its quadratic along these; None where it has none.
    """

    name: str
    gold_only: bool
    relative: bool
    of: Callable[[FloatArray, Encoded], Loss]
    weights: Callable[[FloatArray, Encoded], DoubleArray] | None = None
    model: Callable[[FloatArray, DoubleArray, Encoded], Quadratics] | None = None

    def measure(
        self, session: Session, encoded: Encoded, keys: Sequence[Key], matrix: FloatArray
    ) -> DoubleArray:
        """The loss of one batch under P probes.

        Args:
            session: holds θ, which stays where it is.
            encoded: B examples.
            keys: Q directions.
            matrix: f32[P, Q]; probe p is θ + Σ_q C[p, q] · z(key_q).

        Returns:
            f64[P], lower is better.
        """
        return self.loss(session.evaluate(encoded.batch, keys, matrix), encoded).mean

    def slopes(
        self, session: Session, encoded: Encoded, keys: Sequence[Key], matrix: FloatArray
    ) -> DoubleArray:
        """The loss of one batch at θ, and its derivatives: of a program in forward mode.

        Args:
            session: holds θ, which stays where it is.
            encoded: B examples.
            keys: Q directions.
            matrix: f32[P, Q]; row p is the direction Σ_q C[p, q] · z(key_q).

        Returns:
            f64[1 + P].

        Raises:
            UsageError: the objective has no derivative.
        """
        logprob = session.evaluate(encoded.batch, keys, matrix)
        scores, tangents = encoded.scores(logprob[:1]), logprob[1:].astype(np.float64)
        slopes = (self.weigh(logprob[0], encoded) * tangents).sum(axis=(1, 2))
        both: DoubleArray = np.concatenate([self.of(scores, encoded).mean, slopes])
        return both

    def weigh(self, logprob: FloatArray, encoded: Encoded) -> DoubleArray:
        """The derivative of the mean loss by what a session returned: f32[N, C] → f64[N, C].

        Raises:
            UsageError: the objective has no derivative.
        """
        if self.weights is None:
            raise _no_derivative(self.name)
        return encoded.spread(self.weights(encoded.scores(logprob[None])[0], encoded))

    def quadratics(
        self, session: Session, encoded: Encoded, keys: Sequence[Key], matrix: FloatArray
    ) -> DoubleArray:
        """What a Gauss–Newton step records of one batch (`zofx.zo.gauss_newton`).

        Args:
            session: holds θ, which stays where it is.
            encoded: B examples, at least two.
            keys: Q directions.
            matrix: f32[Q + 1, Q], θ and +ε along each; of a program in forward mode f32[Q, Q].

        Raises:
            UsageError: the objective has no derivative, or B is 1.
        """
        if self.model is None:
            raise _no_derivative(self.name)
        logprob = session.evaluate(encoded.batch, keys, matrix)
        jacobian = of_examples(derivatives(logprob, matrix), encoded)
        return self.model(encoded.scores(logprob[:1])[0], jacobian, encoded).measured()

    def loss(self, logprob: FloatArray, encoded: Encoded) -> Loss:
        """The loss of what a session returned, f32[P, N, C]."""
        return self.of(encoded.scores(logprob), encoded)

    def on(self, encoded: Encoded) -> Callable[[FloatArray], DoubleArray]:
        """The objective of one batch as a function: logprob f32[P, N, C] → losses f64[P]."""
        return lambda logprob: self.loss(logprob, encoded).mean


@dataclass(frozen=True)
class TextObjective:
    """A loss of greedy text: every probe writes its own answers.

    Attributes:
        name: as in `--objective NAME`; a run is known by it.
        decoder: how texts are written.
        cost: (text, example) → what it costs, lower is better.
        gold_only: the candidates are not looked at, so the gold one is enough to encode.
        relative: nor are scores.
    """

    name: str
    decoder: Decoder
    cost: Callable[[str, Example], float]
    gold_only: bool = True
    relative: bool = False

    def measure(
        self, session: Session, encoded: Encoded, keys: Sequence[Key], matrix: FloatArray
    ) -> DoubleArray:
        """As of a `ScoreObjective`, with as many forwards as the longest text has tokens, or more.

        Raises:
            DivergenceError: the probabilities of a token are not numbers.
        """
        texts = self.decoder.answers(session, encoded.examples, keys, matrix)
        return self.loss(texts, encoded.examples).mean

    def loss(self, texts: Sequence[Sequence[str]], examples: Sequence[Example]) -> Loss:
        """The loss of P × B texts; every example has the same weight."""
        costs = [[self.cost(t, e) for t, e in zip(row, examples, strict=True)] for row in texts]
        return Loss(np.array(costs, dtype=np.float64).sum(axis=-1), float(len(examples)))

    def slopes(
        self, session: Session, encoded: Encoded, keys: Sequence[Key], matrix: FloatArray
    ) -> DoubleArray:
        """Text has no derivative.

        Raises:
            UsageError: always.
        """
        raise _no_derivative(self.name)

    def quadratics(
        self, session: Session, encoded: Encoded, keys: Sequence[Key], matrix: FloatArray
    ) -> DoubleArray:
        """Text has no derivative.

        Raises:
            UsageError: always.
        """
        raise _no_derivative(self.name)

    def weigh(self, logprob: FloatArray, encoded: Encoded) -> DoubleArray:
        """Text has no derivative.

        Raises:
            UsageError: always.
        """
        raise _no_derivative(self.name)

    def on(self, encoded: Encoded) -> Callable[[FloatArray], DoubleArray]:
        """Scores do not suffice.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"objective '{self.name}' reads text: it is no function of scores")


Objective: TypeAlias = ScoreObjective | TextObjective

Measure: TypeAlias = Callable[[Session, Encoded, Sequence[Key], FloatArray], DoubleArray]
"""(session, batch, keys, matrix) → the numbers that an estimator reads and the journal records."""


def _no_derivative(name: str) -> UsageError:
    return UsageError(
        f"objective '{name}' has no derivative: train it by probes of the loss alone, as "
        "--estimator two-point or one-sided does"
    )


OBJECTIVES: Mapping[str, ScoreObjective] = {
    "cross-entropy": ScoreObjective(
        "cross-entropy",
        gold_only=False,
        relative=True,
        of=cross_entropy,
        weights=cross_entropy_weights,
        model=cross_entropy_model,
    ),
    "likelihood": ScoreObjective(
        "likelihood",
        gold_only=True,
        relative=False,
        of=likelihood,
        weights=likelihood_weights,
        model=likelihood_model,
    ),
    "error-rate": ScoreObjective("error-rate", gold_only=False, relative=True, of=error_rate),
}
"""Those of scores, which need no model to be made; `Workload.objective` makes the others."""


def measurement(objective: Objective, estimator: str) -> Measure:
    """What a step of an estimator measures: losses, slopes, or a quadratic."""
    if estimator in GAUSS_NEWTON_ESTIMATORS:
        return objective.quadratics
    return objective.slopes if estimator == "forward-gradient" else objective.measure


def objective_for(kind: Kind) -> ScoreObjective:
    """What a task of this kind is trained on by default."""
    return OBJECTIVES["cross-entropy" if kind == "classification" else "likelihood"]

"""Losses and their derivatives, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from tests.tasks.scored import COUNTS, GOLD, encoded, rows, some_scores
from zofx.tasks.losses import predictions
from zofx.tasks.objectives import OBJECTIVES

DERIVED = pytest.mark.parametrize("name", ["cross-entropy", "likelihood"])


def test_cross_entropy() -> None:
    """Gold at ¼ and ¾ costs log 4 and log 4/3; a missing candidate costs nothing."""
    batch = encoded([0, 1], [[1, 1, 1], [2, 2, 0]])
    logprob = rows(*np.log([0.1, 0.2, 0.1]), *np.log([0.01, 0.03]))
    loss = OBJECTIVES["cross-entropy"].loss(logprob, batch)
    assert loss.mean[0] == pytest.approx((math.log(4) + math.log(4 / 3)) / 2, rel=1e-6)
    assert loss.mean.dtype == np.float64


def test_cross_entropy_of_hopeless_scores() -> None:
    """Scores far below the range of exp still give the exact loss."""
    loss = OBJECTIVES["cross-entropy"].loss(rows(-2000.0, -2003.0), encoded([1], [[1, 1]]))
    assert loss.mean[0] == pytest.approx(3 + math.log1p(math.exp(-3)), rel=1e-9)


def test_likelihood_weighs_tokens() -> None:
    """Three tokens weigh three times as much as one: (3·2 + 1·6) / 4 nats."""
    batch = encoded([0, 0], [[3], [1]])
    assert OBJECTIVES["likelihood"].loss(rows(-2.0, -6.0), batch).mean[0] == 3.0


def test_error_rate() -> None:
    """Per probe, how many examples have another candidate than gold on top; NaN never is."""
    batch = encoded([0, 1], [[1, 1], [1, 1]])
    logprob = np.array([[-1, -2, -3, -4], [-1, -2, np.nan, -4]], dtype=np.float32)[:, :, None]
    assert OBJECTIVES["error-rate"].loss(logprob, batch).mean.tolist() == [0.5, 0.0]


def test_predictions() -> None:
    """Equal scores give the first candidate, and no score at all gives none."""
    scores = np.array([[[-1, -1], [-np.inf, np.nan]]], dtype=np.float32)
    assert predictions(scores).tolist() == [[0, -1]]


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_chunks_add_up(name: str) -> None:
    """A batch evaluated in two chunks has the loss of the whole, for every objective."""
    logprob = rows(-1.0, -2.0, -0.5, -3.0, -0.25, -4.0)
    gold, counts = [0, 1, 1], [[3, 1], [1, 2], [4, 4]]
    objective = OBJECTIVES[name]
    whole = objective.loss(logprob, encoded(gold, counts))
    parts = [
        objective.loss(logprob[:, 2 * a : 2 * b], encoded(gold[a:b], counts[a:b]))
        for a, b in ((0, 1), (1, 3))
    ]
    np.testing.assert_allclose((parts[0] + parts[1]).mean, whole.mean, rtol=1e-12)


@DERIVED
@pytest.mark.parametrize("seed", range(4))
def test_weights_are_the_derivative(name: str, seed: int) -> None:
    """Along any tangent, a central difference in float64, up to its own error.

    The third derivative of a log of a sum of exponentials is at most (2 max|t|)³, which leaves out
    h²/6 of that; and a difference of losses of size l cancels to 8u·l/h.
    """
    objective, batch, h = OBJECTIVES[name], encoded(GOLD, COUNTS), 1e-5
    scores, tangent = some_scores(seed, -np.inf), some_scores(seed + 10, 0.0)
    points = np.stack([scores + h * tangent, scores - h * tangent])
    plus, minus = objective.of(points, batch).mean  # type: ignore[arg-type]  # in float64
    assert objective.weights is not None
    weights = objective.weights(scores.astype(np.float32), batch)
    error = h**2 / 6 * (2 * np.abs(tangent).max()) ** 3 + 8 * 2.0**-53 * abs(plus) / h
    assert abs((weights * tangent).sum() - (plus - minus) / (2 * h)) <= error
    assert weights[2, 2] == 0


def test_weights_by_hand() -> None:
    """(softmax − [gold]) / B; and −tokens · [gold] over all tokens of gold candidates."""
    batch = encoded([0, 1], [[1, 1], [3, 2]])
    scores = np.log(np.array([[1, 3], [1, 1]], np.float32))
    weights = {name: o.weights(scores, batch) for name, o in OBJECTIVES.items() if o.weights}
    np.testing.assert_allclose(
        weights["cross-entropy"], [[-3 / 8, 3 / 8], [1 / 4, -1 / 4]], rtol=1e-6
    )
    np.testing.assert_array_equal(weights["likelihood"], [[-1 / 3, 0], [0, -2 / 3]])


@DERIVED
def test_weights_of_hopeless_scores(name: str) -> None:
    """Far below the range of exp they are still numbers."""
    objective = OBJECTIVES[name]
    assert objective.weights is not None
    scores = np.array([[-2000, -2003, -np.inf]], np.float32)
    weights = objective.weights(scores, encoded([1], [[1, 1, 0]]))
    share = 1 / (1 + math.exp(-3))
    wanted: dict[str, list[list[float]]] = {
        "cross-entropy": [[share, -share, 0]],
        "likelihood": [[0, -1, 0]],
    }
    np.testing.assert_allclose(weights, wanted[name], rtol=1e-12)

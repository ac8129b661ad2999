"""Objectives and metrics against numbers worked out by hand."""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.scripted import scripted
from tests.tasks.test_decode import decoder, says
from zofx.errors import UsageError
from zofx.session import Batch, Session
from zofx.tasks.metrics import (
    Accuracy,
    TextMatch,
    accuracy,
    exact_match,
    f1,
    normalised,
    text_match,
    wilson,
)
from zofx.tasks.objectives import OBJECTIVES, TextObjective, objective_for, predictions
from zofx.tasks.rows import Encoded
from zofx.tasks.types import Example
from zofx.zo.types import FloatArray, Key


def encoded(gold: list[int], counts: list[list[int]]) -> Encoded:
    """Rows of one alternative per candidate, whose tokens do not matter."""
    places = [(b, m) for b, row in enumerate(counts) for m, count in enumerate(row) if count]
    rows = np.zeros((len(places), 1), dtype=np.int64)
    return Encoded(
        Batch(rows, rows, rows, rows[:, :, None]),
        row_example=np.array([b for b, _ in places]),
        row_candidate=np.array([[m] for _, m in places]),
        gold=np.array(gold),
        counts=np.array(counts),
    )


def rows(*values: float) -> FloatArray:
    """What a session of one probe returns for rows of one alternative."""
    return np.array(values, dtype=np.float32)[None, :, None]


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


@pytest.mark.parametrize("name", OBJECTIVES)
def test_relative_objectives_see_differences_alone(name: str) -> None:
    """One number added to the scores of an example: the same loss, and the same derivative."""
    objective, batch = OBJECTIVES[name], encoded([0, 1], [[1, 1, 1], [1, 1, 0]])
    logprob = rows(-1.0, -2.5, -0.5, -3.0, -2.0)
    shifted = logprob + rows(4.0, 4.0, 4.0, -8.0, -8.0)
    same = objective.loss(shifted, batch).mean == pytest.approx(objective.loss(logprob, batch).mean)
    assert same is objective.relative
    if objective.weights is not None:
        weights = objective.weigh(logprob[0], batch)
        assert bool(abs(weights[:3].sum()) < 1e-12) is objective.relative
        if objective.relative:
            np.testing.assert_allclose(objective.weigh(shifted[0], batch), weights, rtol=1e-6)


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


def test_objective_as_a_driver_calls_it() -> None:
    """Bound to its batch, an objective maps a session's answer for P probes to P losses."""
    batch = encoded([0], [[2]])
    logprob = np.array([-1.0, -3.0], dtype=np.float32)[:, None, None]
    assert objective_for("generation").on(batch)(logprob).tolist() == [1.0, 3.0]


def test_a_score_objective_measures_with_one_forward() -> None:
    """What `measure` returns is the loss of the session's answer to all probes at once."""
    decode = decoder()
    good, dull = says(decode, " good", " dull")
    batch = decode.encoder.encode([Example("It was", (" good", " dull"))])
    session, kept = scripted(lambda total, text: good if total > 0 else dull)
    matrix = np.array([[1], [-1], [1]], dtype=np.float32)
    measured = OBJECTIVES["likelihood"].measure(session, batch, [Key(0, 0)], matrix)
    assert measured.tolist() == [0.0, 9.0, 0.0]
    assert kept.asked == [([1, -1, 1], [decode.encoder.prompt(batch.examples[0])])]


def test_a_text_objective_measures_what_each_probe_writes() -> None:
    """P losses, each the mean of the costs of that probe's own texts, in fp64."""
    decode = decoder(new=2)
    film, good = says(decode, " film", " good")
    examples = tuple(Example(prompt, (" good",), id=prompt) for prompt in ("It was", "a so dull"))

    def rule(total: float, row: tuple[int, ...]) -> int:
        return film if total > 0 or len(row) == 3 else good

    costs = {
        ("It was", " film film"): 0.1, ("It was", " film good"): 0.3,
        ("a so dull", " film film"): 0.2, ("a so dull", " good good"): 0.7,
    }  # fmt: skip
    objective = TextObjective("cost", decode, lambda text, example: costs[example.id, text])
    session, _ = scripted(rule)
    batch = decode.encoder.encode(examples, gold_only=objective.gold_only)
    matrix = np.array([[1], [-1]], dtype=np.float32)
    measured = objective.measure(session, batch, [Key(0, 0)], matrix)
    assert measured.dtype == np.float64
    assert measured.tolist() == [(0.1 + 0.2) / 2, (0.3 + 0.7) / 2]
    with pytest.raises(UsageError, match="reads text: it is no function of scores"):
        objective.on(batch)


GOLD, COUNTS = [0, 2, 1], [[3, 1, 2], [1, 2, 4], [2, 5, 0]]
"""Three examples; the last has two candidates."""


def some_scores(seed: int, missing: float) -> NDArray[np.float64]:
    """Numbers that float32 holds, f64[B, M]; `missing` where there is no candidate."""
    values = np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32)
    return np.where(np.array(COUNTS) > 0, values.astype(np.float64), missing)


DERIVED = pytest.mark.parametrize("name", ["cross-entropy", "likelihood"])


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


class Tangents:
    """A program in forward mode: scores, and how they change along each of two probes.

    Every row has a second place, which belongs to no candidate.
    """

    def __init__(self) -> None:
        places = [(b, m) for b in range(3) for m in range(3) if COUNTS[b][m]]
        self.scores, self.along = some_scores(1, 0.0), [some_scores(s, 0.0) for s in (2, 3)]
        given = [[t[place] for place in places] for t in (self.scores, *self.along)]
        self.logprob = np.full((3, len(places), 2), 123, np.float32)
        self.logprob[:, :, 0] = given
        rows = np.zeros((len(places), 1), dtype=np.int64)
        self.encoded = Encoded(
            Batch(rows, rows, rows, rows[:, :, None].repeat(2, 2)),
            row_example=np.array([b for b, _ in places]),
            row_candidate=np.array([[m, -1] for _, m in places]),
            gold=np.array(GOLD),
            counts=np.array(COUNTS),
        )

    def evaluate(self, batch: Batch, keys: Sequence[Key], matrix: FloatArray) -> FloatArray:
        assert (batch, len(keys), matrix.shape) == (self.encoded.batch, 2, (2, 2))
        return self.logprob


@DERIVED
def test_slopes_are_the_loss_and_its_derivatives(name: str) -> None:
    """What a session tells of places without a candidate plays no part."""
    session, objective = Tangents(), OBJECTIVES[name]
    keys, eye = [Key(0, 0), Key(0, 0, 1)], np.eye(2, dtype=np.float32)
    actual = objective.slopes(cast(Session, session), session.encoded, keys, eye)
    scores = np.where(np.array(COUNTS) > 0, session.scores, -np.inf).astype(np.float32)
    assert objective.weights is not None
    weights = objective.weights(scores, session.encoded)
    wanted = [objective.of(scores[None], session.encoded).mean[0]]
    wanted += [(weights * along).sum() for along in session.along]
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, wanted, rtol=1e-13)


def test_what_has_no_derivative_says_so() -> None:
    """A rate of errors, and a cost of texts."""
    session, text = Tangents(), TextObjective("cost", decoder(), lambda text, example: 0.0)
    for objective in (OBJECTIVES["error-rate"], text):
        with pytest.raises(UsageError, match=f"'{objective.name}' has no derivative: train it by"):
            objective.slopes(
                cast(Session, session),
                session.encoded,
                [Key(0, 0)] * 2,
                np.eye(2, dtype=np.float32),
            )
        with pytest.raises(UsageError, match="has no derivative"):
            objective.weigh(session.logprob[0], session.encoded)


def test_objective_of_a_kind() -> None:
    """Classification trains on candidates, the other kinds on the gold continuation alone."""
    assert objective_for("classification") is OBJECTIVES["cross-entropy"]
    assert objective_for("multiple-choice").gold_only


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson(correct: int, total: int, low: float, high: float) -> None:
    """The interval has its known values (81 of 263: Newcombe 1998, table I)."""
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


@given(total=st.integers(1, 500), data=st.data())
def test_wilson_holds_the_share(total: int, data: st.DataObject) -> None:
    """Its ends lie 1.96 of their own standard errors from the share, on both sides of it."""
    correct = data.draw(st.integers(0, total))
    low, high = wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    for bound in (low, high):
        distance = (correct / total - bound) ** 2
        assert distance == pytest.approx(1.959964**2 * bound * (1 - bound) / total, abs=1e-7)
    assert wilson(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_accuracy() -> None:
    """Any accepted candidate counts; batches add up; it prints with its interval."""
    examples = [Example("a", ("x", "y", "z"), 0, accepted=(0, 2)), Example("b", ("x", "y"), 0)]
    scores = np.array([[-3, -2, -1], [-2, -1, -np.inf]], dtype=np.float32)
    measured = accuracy(scores, examples)
    assert measured == Accuracy(1, 2)
    assert str(measured + Accuracy(4, 8)) == "0.500 [0.237, 0.763] (5/10)"


def test_text_match() -> None:
    """One exact text of three, F1 (1 + ½ + 0) / 3; without references the gold one counts."""
    examples = [
        Example("a", (" six\n",), references=("six", "six legs")),
        Example("b", (" the cat\n",), references=("the cat", "dog")),
        Example("c", (" no\n", " two\n"), 1),
    ]
    match = text_match([" Six legs.", " black cat sat", " no"], examples)
    assert match == TextMatch(exact=1, overlap=1.5, total=3)
    assert match.f1_interval == wilson(1.5, 3)
    assert text_match([" two"], examples[2:]) == TextMatch(1, 1.0, 1)
    parts = text_match([" Six legs."], examples[:1]) + text_match([" cat", ""], examples[1:])
    assert parts.f1 == pytest.approx((1 + 1 + 0) / 3)
    assert str(match) == ("F1 0.500 [0.125, 0.875], exact match 0.333 [0.061, 0.792] (1/3)")


def test_normalised() -> None:
    """Case, punctuation, articles and spacing do not count; articles inside words stay."""
    assert normalised("  The  Theatre, a U.S. (an) Anthem! ") == "theatre us anthem"


@pytest.mark.parametrize(
    ("prediction", "references", "em", "overlap"),
    [
        ("the cat", ["A cat."], 1.0, 1.0),
        ("black cat sat", ["the cat", "dog"], 0.0, 0.5),
        ("red red blue", ["red blue blue"], 0.0, 2 / 3),
        ("nothing", ["six", "six legs"], 0.0, 0.0),
        ("six", ["six legs", "six"], 1.0, 1.0),
        ("", ["the"], 0.0, 0.0),
        (".", [" A"], 0.0, 0.0),
        ("a.", [" A"], 1.0, 1.0),
        ("the", ["a"], 0.0, 0.0),
        ("!", ["?"], 0.0, 0.0),
        ("the a", ["A"], 0.0, 2 / 3),
        ("", [""], 1.0, 1.0),
        ("", ["six"], 0.0, 0.0),
    ],
)
def test_exact_match_and_f1(
    prediction: str, references: list[str], em: float, overlap: float
) -> None:
    """Worked by hand: the best reference counts; a repeated word as often as both have it."""
    assert exact_match(prediction, references) == em
    assert f1(prediction, references) == pytest.approx(overlap)

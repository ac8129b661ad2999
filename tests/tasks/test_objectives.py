"""Objectives, as a driver calls them."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from tests.scripted import scripted
from tests.tasks.scored import COUNTS, GOLD, encoded, rows, some_scores
from tests.tasks.test_decode import decoder, says
from zofx.errors import UsageError
from zofx.session import Batch, Session
from zofx.tasks.objectives import OBJECTIVES, TextObjective, objective_for
from zofx.tasks.rows import Encoded
from zofx.tasks.types import Example
from zofx.zo.types import FloatArray, Key


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


DERIVED = pytest.mark.parametrize("name", ["cross-entropy", "likelihood"])


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

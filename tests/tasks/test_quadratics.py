"""Quadratic models of objectives, against differences of the objectives themselves."""

import numpy as np
import pytest

from tests.tasks.scored import encoded
from zofx.tasks.objectives import OBJECTIVES
from zofx.tasks.quadratics import derivatives, of_examples
from zofx.tasks.rows import Encoded
from zofx.zo.types import FloatArray

STEP = 2.0**-10
QUERIES = 3


def batch() -> Encoded:
    """Two examples, of three candidates and of two."""
    return encoded([0, 1], [[1, 2, 1], [3, 2, 0]])


def linear(random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Scores f32[5, 1] of the rows and their derivatives f32[Q, 5, 1]."""
    scores = random.normal(size=(5, 1)).astype(np.float32)
    return scores, random.normal(size=(QUERIES, 5, 1)).astype(np.float32)


@pytest.mark.parametrize("name", ["cross-entropy", "likelihood"])
def test_the_gradient_is_that_of_the_loss(name: str) -> None:
    """Central differences of the objective; their error is STEP²/6 of third derivatives ≤ 8."""
    scores, along = linear(np.random.default_rng(3))
    objective, of = OBJECTIVES[name], batch()
    assert objective.model
    model = objective.model(of.scores(scores[None])[0], of_examples(along.astype(float), of), of)
    points = np.concatenate([scores + STEP * along, scores - STEP * along, scores[None]])
    losses = objective.loss(points, of).mean
    slopes = (losses[:QUERIES] - losses[QUERIES:-1]) / (2 * STEP)
    assert model.loss == pytest.approx(losses[-1], rel=1e-12)
    # Points are rounded to float32: 2⁻²⁴ of scores below 4, over STEP.
    np.testing.assert_allclose(model.gradients.mean(0), slopes, atol=4 * 2**-24 / STEP + STEP**2)


def test_the_curvature_is_the_hessian_of_linear_scores() -> None:
    """Second differences of the cross-entropy along every pair of directions, in float64."""
    random = np.random.default_rng(4)
    scores, along = linear(random)
    of, objective = batch(), OBJECTIVES["cross-entropy"]
    assert objective.model
    jacobian = of_examples(along.astype(float), of)
    start = of.scores(scores[None])[0]
    model = objective.model(start, jacobian, of)

    def loss(a: np.ndarray) -> float:
        moved = start.astype(float) + np.tensordot(a, jacobian, 1)
        gold = moved[np.arange(2), of.gold]
        return float((np.log(np.exp(moved).sum(-1)) - gold).mean())

    unit = STEP * np.eye(QUERIES)
    for p in range(QUERIES):
        for q in range(QUERIES):
            signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
            values = [i * j * loss(i * unit[p] + j * unit[q]) for i, j in signs]
            second = sum(values) / (4 * STEP**2)
            # Fourth derivatives of a log-sum-exp of slopes below 4 are below 4 · 4⁴.
            assert model.curvatures.mean(0)[p, q] == pytest.approx(second, abs=1024 * STEP**2)


def test_the_curvature_of_a_likelihood_is_the_outer_product_of_its_rows() -> None:
    """Tokens weigh alike: w · t² j jᵀ with w = B / Σ t."""
    scores, along = linear(np.random.default_rng(5))
    of, objective = batch(), OBJECTIVES["likelihood"]
    assert objective.model
    model = objective.model(of.scores(scores[None])[0], of_examples(along.astype(float), of), of)
    for example, (row, tokens) in enumerate([(0, 1), (4, 2)]):
        j = tokens * along[:, row, 0].astype(float)
        np.testing.assert_allclose(model.curvatures[example], 2 / 3 * np.outer(j, j), rtol=1e-12)


def test_derivatives_of_probes_and_of_tangents() -> None:
    """Differences over each probe's own distance; tangents as they come."""
    logprob = np.array([[[1.0]], [[1.5]], [[0.0]]], np.float32)
    matrix = np.array([[0, 0], [0.5, 0], [0, 0.25]], np.float32)
    assert derivatives(logprob, matrix).ravel().tolist() == [1.0, -4.0]
    assert derivatives(logprob, np.eye(2, dtype=np.float32)).ravel().tolist() == [1.5, 0.0]

"""Gauss–Newton steps: what is recorded, and the coefficients that follow from it."""

import numpy as np
import pytest

from zofx.errors import UsageError
from zofx.zo.gauss_newton import DECAY, RATIOS, GaussNewton, Quadratics, damped
from zofx.zo.recipe import Recipe, Trial
from zofx.zo.rules.schedule import constant
from zofx.zo.types import Key

QUERIES = 3
KEYS = tuple(Key(0, 0, query) for query in range(QUERIES))


def model(examples: int, seed: int = 0) -> Quadratics:
    """Random gradients that agree somewhat, and curvatures of rank two."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(examples, QUERIES, 2))
    gradients = 1 + random.normal(size=(examples, QUERIES))
    return Quadratics(0.5, gradients, factors @ factors.transpose(0, 2, 1))


def test_what_a_step_records() -> None:
    """Loss, gradient, the upper triangle, and v as a loop over examples and ratios finds it."""
    batch = model(5)
    recorded = batch.measured()
    assert len(recorded) == GaussNewton(queries=QUERIES).evaluations
    G, g = batch.curvatures.mean(0), batch.gradients.mean(0)
    head = [0.5, *g, *(G[p, q] for p in range(QUERIES) for q in range(p, QUERIES))]
    np.testing.assert_allclose(recorded[: len(head)], head, rtol=1e-13)
    for v, ratio in zip(recorded[len(head) :], RATIOS, strict=True):
        changes = []
        for left_out in range(5):
            rest = [example for example in range(5) if example != left_out]
            G, g = batch.curvatures[rest].mean(0), batch.gradients[rest].mean(0)
            a = -np.linalg.inv(G + ratio * np.trace(G) / QUERIES * np.eye(QUERIES)) @ g
            own = batch.gradients[left_out], batch.curvatures[left_out]
            changes.append(own[0] @ a + a @ own[1] @ a / 2)
        assert v == pytest.approx(np.mean(changes), rel=1e-10)


def test_the_step_solves_the_problem_with_the_damping_that_predicts_best() -> None:
    """(G + λI) c = g, λ from the running mean of v over the steps."""
    estimator = GaussNewton(queries=QUERIES)
    memory = None
    for seed in range(4):
        batch = model(6, seed)
        losses = batch.measured().astype(np.float32)
        changes = losses[-len(RATIOS) :].astype(float)
        expected = changes if memory is None else DECAY * memory + (1 - DECAY) * changes
        ratio = RATIOS[int(np.argmin(expected))]
        assert expected.min() < 0
        estimate = estimator.estimate(KEYS, losses, memory)
        G = batch.curvatures.mean(0)
        residual = (G + ratio * np.trace(G) / QUERIES * np.eye(QUERIES)) @ estimate.coefficients
        # Recorded as float32; the condition number is at most 1 + Q / r = 13.
        np.testing.assert_allclose(residual, batch.gradients.mean(0), rtol=1e-5, atol=1e-5)
        memory = estimator.remember(losses, memory)
        np.testing.assert_array_equal(memory, expected)


def test_examples_that_contradict_each_other_damp_the_step() -> None:
    """Where no ratio predicts a smaller loss the largest is taken; where all agree the smallest."""
    estimator = GaussNewton(queries=1)
    curvature = np.ones((4, 1, 1))
    for gradients, ratio in (([3, -3, 2, -2.5], RATIOS[-1]), ([1, 1, 1, 1], RATIOS[0])):
        batch = Quadratics(1.0, np.array(gradients, float)[:, None], curvature)
        estimate = estimator.estimate(KEYS[:1], batch.measured().astype(np.float32), None)
        assert estimate.coefficients[0] == pytest.approx(np.mean(gradients) / (1 + ratio))


def test_no_curvature_no_step() -> None:
    """Scores that do not depend on the directions move nothing."""
    assert damped(np.zeros((2, 2)), np.zeros(2), 1.0).tolist() == [0.0, 0.0]


def test_probes() -> None:
    """θ and one point per direction; of exact tangents the directions themselves."""
    keys, matrix = GaussNewton(eps=0.5, queries=2).probes(7, 3)
    assert keys == (Key(7, 3, 0), Key(7, 3, 1))
    assert matrix.tolist() == [[0, 0], [0.5, 0], [0, 0.5]]
    assert GaussNewton(queries=2, exact=True).probes(7, 3).matrix.tolist() == [[1, 0], [0, 1]]


def test_what_does_not_go_together() -> None:
    """A single example cannot be left out; a trial compares losses alone."""
    with pytest.raises(UsageError, match="--batch-size 2 or more"):
        model(1).measured()
    with pytest.raises(UsageError, match="measures more than these"):
        Recipe(GaussNewton(), constant(1.0), trial=Trial())

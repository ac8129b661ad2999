"""Estimators: the probe matrix and the gradient it tells."""

import numpy as np
import pytest

from tests.zo.bowl import SHAPES, Bowl, mean_loss, rows
from zofx.errors import UsageError
from zofx.zo import Estimator, FloatArray, Key, Kind, OnePoint, OneSided, Spsa

BATCH = rows(1, 2, 3)


def gradient_estimate(
    bowl: Bowl, estimator: Estimator, seed: int, step: int, previous: FloatArray | None = None
) -> dict[str, FloatArray]:
    """Σ coefficient · z of one step, materialised."""
    keys, matrix = estimator.probes(seed, step)
    losses = mean_loss(bowl.evaluate(BATCH, keys, matrix)).astype(np.float32)
    total = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    for ray in estimator.estimate(keys, losses, previous).rays:
        for name, z in bowl.direction(ray.key).items():
            total[name] += ray.coefficient * z
    return total


def test_spsa_probes() -> None:
    """Two points per query, plus before minus, and nothing between queries."""
    keys, matrix = Spsa(eps=0.5, queries=2).probes(seed=7, step=3)
    assert keys == (Key(7, 3, 0), Key(7, 3, 1))
    np.testing.assert_array_equal(
        matrix, np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]], np.float32)
    )
    assert matrix.dtype == np.float32


def test_one_sided_probes() -> None:
    """The first row is θ itself, exactly; then one point per query."""
    keys, matrix = OneSided(eps=0.5, queries=2).probes(seed=7, step=3)
    assert keys == (Key(7, 3, 0), Key(7, 3, 1))
    np.testing.assert_array_equal(matrix, np.array([[0, 0], [0.5, 0], [0, 0.5]], np.float32))
    assert matrix.dtype == np.float32


def test_spsa_estimate() -> None:
    """Slopes over 2 ε, averaged over the queries; the loss is the mean of the probes."""
    estimator = Spsa(eps=0.5, queries=2)
    losses = np.array([3, 1, 2, 6], dtype=np.float32)
    estimate = estimator.estimate(estimator.probes(0, 0).keys, losses, None)
    assert estimate.loss == 3.0
    assert [ray.coefficient for ray in estimate.rays] == [1.0, -2.0]


def test_one_sided_estimate() -> None:
    """Slopes over ε from θ, averaged over the queries; the loss is that of θ."""
    estimator = OneSided(eps=0.5, queries=2)
    losses = np.array([3, 4, 1], dtype=np.float32)
    estimate = estimator.estimate(estimator.probes(0, 0).keys, losses, None)
    assert estimate.loss == 3.0
    assert [ray.coefficient for ray in estimate.rays] == [1.0, -2.0]


def test_one_point_estimate() -> None:
    """The change since the last step over ε; without a last step, nothing."""
    estimator = OnePoint(eps=0.5)
    keys, matrix = estimator.probes(0, 1)
    assert matrix.tolist() == [[0.5]]
    now, before = np.array([3], np.float32), np.array([2], np.float32)
    assert [ray.coefficient for ray in estimator.estimate(keys, now, before).rays] == [2.0]
    assert [ray.coefficient for ray in estimator.estimate(keys, now, None).rays] == [0.0]


def test_coefficients_are_rounded_once() -> None:
    """A ray's coefficient is the float32 next to the float64 that was computed."""
    estimator = Spsa(eps=1e-3, queries=3)
    losses = np.array([0.7, 0.6, 0.5, 0.4, 0.1, 0.3], dtype=np.float32)
    estimate = estimator.estimate(estimator.probes(0, 0).keys, losses, None)
    exact = (losses[0::2].astype(float) - losses[1::2].astype(float)) / 2e-3 / 3
    np.testing.assert_array_equal(estimate.coefficients, exact)
    assert [ray.coefficient for ray in estimate.rays] == exact.astype(np.float32).tolist()
    assert estimate.rays[0].coefficient != exact[0]


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("estimator", [Spsa(1e-2, queries=8), OneSided(1e-3, queries=8)])
def test_averaged_estimates_are_the_gradient(kind: Kind, estimator: Estimator) -> None:
    """The mean over many steps is the true gradient, within twice its expected error."""
    bowl = Bowl(kind)
    truth = np.concatenate([g.reshape(-1) for g in bowl.gradient(BATCH).values()])
    steps = 150
    total = np.zeros_like(truth)
    for step in range(steps):
        estimate = gradient_estimate(bowl, estimator, 3, step)
        total += np.concatenate([g.reshape(-1) for g in estimate.values()])
    error = np.linalg.norm(total / steps - truth) / np.linalg.norm(truth)
    expected = np.sqrt((truth.size + 1) / (steps * estimator.queries))
    assert error < 2 * expected


@pytest.mark.parametrize("estimator", [Spsa(queries=3), OneSided(queries=3), OnePoint()])
def test_counts_are_those_of_the_matrix(estimator: Estimator) -> None:
    """`queries` and `evaluations` are what the probes are made of."""
    keys, matrix = estimator.probes(1, 2)
    assert matrix.shape == (estimator.evaluations, estimator.queries)
    assert len(keys) == estimator.queries == len(set(keys))


@pytest.mark.parametrize(
    ("eps", "queries", "message"),
    [
        (0.0, 1, "Spsa(eps=0.0, queries=1, average=True): eps must be a positive number"),
        (float("nan"), 1, "Spsa(eps=nan, queries=1, average=True): eps must be a positive number"),
        (1e-3, 0, "Spsa(eps=0.001, queries=0, average=True): queries must be between 1 and 65536"),
    ],
)
def test_errors(eps: float, queries: int, message: str) -> None:
    """An estimator that could not estimate is refused when it is written down."""
    with pytest.raises(UsageError) as error:
        Spsa(eps, queries)
    assert str(error.value) == message

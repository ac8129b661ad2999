"""Estimators: the probe matrix and the gradient it tells."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.zo.bowl import SHAPES, Bowl, mean_loss, rows
from zofx.errors import UsageError
from zofx.zo.estimate import Estimator
from zofx.zo.estimators import ForwardGradient, OnePoint, OneSided, Spsa, SpsaWithCurvature
from zofx.zo.random.noise import Kind
from zofx.zo.types import FloatArray, Key

BATCH = rows(1, 2, 3)


def gradient_estimate(
    bowl: Bowl, estimator: Estimator, seed: int, step: int, previous: FloatArray | None = None
) -> dict[str, FloatArray]:
    """Σ coefficient · z of one step, materialised."""
    keys, matrix = estimator.probes(seed, step)
    if isinstance(estimator, ForwardGradient):
        losses = bowl.slopes(BATCH, keys).astype(np.float32)
    else:
        losses = mean_loss(bowl.evaluate(BATCH, keys, matrix)).astype(np.float32)
    total = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    for ray in estimator.estimate(keys, losses, previous).rays:
        for name, z in bowl.directions(ray.key).items():
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


def test_slopes_of_directions_that_do_not_overlap_are_not_averaged() -> None:
    """Each query moves trainables of its own: each slope counts whole."""
    losses = np.array([3, 1, 2, 6], dtype=np.float32)
    whole, mean = (Spsa(0.5, queries=2, average=average) for average in (False, True))
    keys = whole.probes(0, 0).keys
    assert whole.estimate(keys, losses, None).coefficients.tolist() == [2.0, -4.0]
    assert mean.estimate(keys, losses, None).coefficients.tolist() == [1.0, -2.0]


def test_curved_probes() -> None:
    """Plus, minus, and θ itself, exactly."""
    keys, matrix = SpsaWithCurvature(eps=0.5).probes(seed=7, step=3)
    assert keys == (Key(7, 3),)
    np.testing.assert_array_equal(matrix, np.array([[0.5], [-0.5], [0]], np.float32))
    assert matrix.dtype == np.float32


@pytest.mark.parametrize("sign", [1, -1])
def test_curved_is_exact_on_a_quadratic(sign: int) -> None:
    """f(θ ± εz) = f ± ε g·z + ½ ε² zᵀHz in numbers that float32 holds: g·z, and ½ |zᵀHz|."""
    g, z = np.array([1.0, -2.0, 0.5]), np.array([2.0, 1.0, -4.0])
    hessian = sign * np.array([[4.0, 1.0, 0.0], [1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])
    estimator = SpsaWithCurvature(eps=0.25)
    keys, matrix = estimator.probes(7, 3)
    losses = [8 + c * g @ z + c * c * z @ hessian @ z / 2 for c in matrix[:, 0].astype(float)]
    estimate = estimator.estimate(keys, np.array(losses, np.float32), None)
    assert estimate.loss == 8.0
    assert estimate.keys == (Key(7, 3, 0), Key(7, 3, 1))
    assert estimate.coefficients.tolist() == [g @ z, abs(z @ hessian @ z) / 2]


def test_curved_on_a_bowl() -> None:
    """Within the rounding of three losses: 4u · max|f| / 2ε² of zᵀ diag(curvature) z / 2."""
    bowl, estimator = Bowl(), SpsaWithCurvature(eps=0.5)
    keys, matrix = estimator.probes(1, 2)
    losses = mean_loss(bowl.evaluate(rows(1), keys, matrix)).astype(np.float32)
    z = bowl.directions(keys[0])
    bend = sum(np.sum(bowl.curvature[name].astype(float) * z[name] ** 2) for name in z)
    error = estimator.estimate(keys, losses, None).coefficients[1] - bend / 2
    assert abs(error) <= 4 * 2.0**-24 * losses.max() / (2 * estimator.eps**2)


def test_slopes_probes() -> None:
    """Each direction by itself."""
    keys, matrix = ForwardGradient(queries=2).probes(seed=7, step=3)
    assert keys == (Key(7, 3, 0), Key(7, 3, 1))
    np.testing.assert_array_equal(matrix, np.eye(2, dtype=np.float32))


def test_slopes_estimate() -> None:
    """The slopes as they are, averaged over the queries; the loss is that of θ."""
    estimator = ForwardGradient(queries=2)
    losses = np.array([3, 4, -1], dtype=np.float32)
    estimate = estimator.estimate(estimator.probes(0, 0).keys, losses, None)
    assert estimate.loss == 3.0
    assert [ray.coefficient for ray in estimate.rays] == [2.0, -0.5]


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
@pytest.mark.parametrize(
    "estimator", [Spsa(1e-2, queries=8), OneSided(1e-3, queries=8), ForwardGradient(queries=8)]
)
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


@pytest.mark.parametrize(
    "estimator",
    [
        Spsa(queries=3),
        OneSided(queries=3),
        OnePoint(),
        SpsaWithCurvature(),
        ForwardGradient(queries=3),
    ],
)
def test_counts_are_those_of_the_matrix(estimator: Estimator) -> None:
    """`queries`, `evaluations` and `rays` are what comes; slopes have f(θ) without a row."""
    keys, matrix = estimator.probes(1, 2)
    points = estimator.evaluations - isinstance(estimator, ForwardGradient)
    assert matrix.shape == (points, estimator.queries)
    assert len(keys) == estimator.queries == len(set(keys))
    losses = np.ones(estimator.evaluations, np.float32)
    assert len(estimator.estimate(keys, losses, None).rays) == estimator.rays


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Spsa(0.0),
            "Spsa(eps=0.0, queries=1, average=True): eps must be a positive number",
        ),
        (lambda: OneSided(float("nan")), "OneSided(eps=nan, queries=1): eps must be a positive "),
        (
            lambda: SpsaWithCurvature(-1.0),
            "SpsaWithCurvature(eps=-1.0): eps must be a positive number",
        ),
        (lambda: Spsa(queries=0), "Spsa(eps=0.001, queries=0, average=True): queries must be bet"),
        (
            lambda: ForwardGradient(65537),
            "ForwardGradient(queries=65537): queries must be between 1 and 65536",
        ),
    ],
)
def test_errors(make: Callable[[], Estimator], message: str) -> None:
    """An estimator that could not estimate is refused when it is written down."""
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value).startswith(message)

"""Pre-flight: the verdicts on a bowl whose round-off is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.zo.bowl import Bowl, mean_loss, rows
from zofx.errors import UsageError
from zofx.session import Batch
from zofx.zo.estimators import Spsa
from zofx.zo.preflight import Preflight, preflight
from zofx.zo.types import FloatArray, IntArray, Key

BATCH = rows(1, 2, 3, 2)


MANY = 3 + 9 * 64
"""A budget of 64 lines."""


def checked(bowl: Bowl, batch: Batch, objective: Any, eps: float, probes: int = 16) -> Preflight:
    """The pre-flight of a batch on a bowl."""

    def scores(rows: IntArray, keys: Sequence[Key], matrix: FloatArray) -> FloatArray:
        return bowl.evaluate(batch.rows(rows), keys, matrix)

    return preflight(scores, len(batch.input_ids), objective, eps, probes=probes)


def test_a_clear_gap_is_good() -> None:
    """On a float32 bowl a usual eps stands far above round-off; θ is where it was."""
    bowl = Bowl()
    report = checked(bowl, BATCH, mean_loss, eps=1e-2)
    assert report.verdict == "good"
    assert report.ratio > 1000
    assert bowl.probes == 16  # eight steps of two
    np.testing.assert_array_equal(bowl.theta["layer.bias"], Bowl().theta["layer.bias"])


def test_gap_is_that_of_a_two_point_step() -> None:
    """The gap is the root mean square of f₊ − f₋ over the directions that were tried."""
    gaps = []
    for query in range(3):
        keys, matrix = Spsa(1e-2, queries=3).probes(seed=0, step=0)
        pair = matrix[2 * query : 2 * query + 2]
        up, down = mean_loss(Bowl().evaluate(BATCH, keys, pair))
        gaps.append(up - down)
    report = checked(Bowl(), BATCH, mean_loss, eps=1e-2)
    assert report.gap == pytest.approx(np.sqrt(np.mean(np.square(gaps))), rel=1e-4)


def test_noise_is_the_engines_round_off() -> None:
    """Scores in steps of r have errors of variance r²/12; the measured noise is near that."""
    resolution = 1e-4
    report = checked(Bowl(resolution=resolution), rows(1), mean_loss, eps=0.1, probes=MANY)
    assert report.noise == pytest.approx(resolution / np.sqrt(12), rel=0.35)


@pytest.mark.parametrize(
    ("eps", "verdict"),
    [(1e-1, "good"), (3e-3, "noisy"), (2e-4, "below-noise"), (1e-7, "below-noise")],
)
def test_verdict_falls_with_eps(eps: float, verdict: str) -> None:
    """The same engine goes from good to lost as eps sinks into its resolution."""
    report = checked(Bowl(resolution=0.01), rows(1), mean_loss, eps, probes=MANY)
    assert report.verdict == verdict
    assert str(report).startswith(f"{verdict}: at eps {eps:g} the ± gap is")


def test_dependence_on_the_order_of_rows_is_noise() -> None:
    """An engine whose scores depend on where a row stands is as noisy as they differ."""

    class Uneven(Bowl):
        def evaluate(self, *args: object) -> FloatArray:
            scores = super().evaluate(*args)  # type: ignore[arg-type]
            scores[:, 0] += np.float32(1e-3)
            return scores

    report = checked(Uneven(), rows(1, 1, 2), _last_row, eps=1e-2)
    assert report.noise == pytest.approx(0, abs=1e-5)
    report = checked(Uneven(), rows(1, 1, 2), _first_row, eps=1e-2)
    assert report.noise == pytest.approx(1e-3 / np.sqrt(2), rel=0.02)


def _first_row(scores: FloatArray) -> NDArray[np.float64]:
    return -scores[:, 0, 0].astype(np.float64)


def _last_row(scores: FloatArray) -> NDArray[np.float64]:
    return -scores[:, 1, 0].astype(np.float64)


def test_a_large_batch_is_scored_in_parts() -> None:
    """Nine probes of a part are about as many rows as the two of a step; the result is the same."""

    class Counted(Bowl):
        most = 0

        def evaluate(
            self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray
        ) -> FloatArray:
            self.most = max(self.most, len(batch.input_ids) * len(coefficients))
            return super().evaluate(batch, keys, coefficients)

    weights = np.random.default_rng(0).integers(1, 5, 32).tolist()
    bowl = Counted()
    check = checked(bowl, rows(*weights), mean_loss, eps=1e-2)
    assert bowl.most == 9 * 8  # a step: 2 probes of 32 rows
    assert bowl.calls == 4 + 2 * 1 + 2
    gaps = []
    for query in range(3):
        matrix = np.array([[1e-2], [-1e-2]], np.float32)
        up, down = mean_loss(Bowl().evaluate(rows(*weights), [Key(0, 0, query)], matrix))
        gaps.append(up - down)
    assert check.gap == pytest.approx(np.sqrt(np.mean(np.square(gaps))), rel=1e-4)


def test_an_eps_beyond_the_slope_is_bent() -> None:
    """A loss that is far from straight within eps is called so: curvature is not round-off."""
    start = Bowl().loss()

    def steep(scores: FloatArray) -> NDArray[np.float64]:
        height = mean_loss(scores) - start
        losses: NDArray[np.float64] = height + height**2
        return losses

    reports = [checked(Bowl(), rows(1), steep, eps) for eps in (1e-3, 1.0)]
    assert [report.verdict for report in reports] == ["good", "too-nonlinear"]
    assert reports[1].ratio > 100


def test_a_flat_objective_is_lost() -> None:
    """No gap at all is lost even where no round-off is seen."""
    report = checked(Bowl(), rows(1), lambda scores: np.ones(len(scores)), eps=1e-2)
    assert (report.verdict, report.gap, report.nonlinearity) == ("below-noise", 0.0, 0.0)


@pytest.mark.parametrize("probes", [12, 16, 24, 72])
def test_the_budget_is_kept_and_progress_reported(probes: int) -> None:
    """At most so many probes, nearly all of them used, and a report after every forward."""
    bowl, reports = Bowl(), []

    def scores(rows: IntArray, keys: Sequence[Key], matrix: FloatArray) -> FloatArray:
        return bowl.evaluate(BATCH.rows(rows), keys, matrix)

    def progress(done: int, total: int) -> None:
        reports.append((done, total))

    preflight(scores, 4, mean_loss, 1e-2, probes=probes, progress=progress)
    assert probes - 1 <= bowl.probes <= probes
    assert reports == [(i + 1, bowl.calls) for i in range(bowl.calls)]


def test_curvature_says_where_a_step_overshoots() -> None:
    """zᵀHz of a bowl whose Hessian is known: a mean of 64 directions, and 2 / it as the limit."""
    bowl = Bowl()
    report = checked(bowl, rows(1), mean_loss, eps=1e-1, probes=MANY)
    expected = np.mean([
        sum(float((bowl.curvature[n] * bowl.direction(Key(0, 0, q), n) ** 2).sum())
            for n in bowl.trainables)
        for q in range(64)
    ])  # fmt: skip
    # Losses near 1 in float32: 64 second differences, each off by √6 · 2⁻²⁵ / ε² at most.
    assert report.curvature == pytest.approx(expected, abs=np.sqrt(6) * 2**-24 / 1e-2 * 10)
    assert report.overshoot(3) == 6 / report.curvature
    assert checked(bowl, rows(1), mean_loss, eps=1e-5).overshoot(1) == np.inf  # below the noise


@pytest.mark.parametrize(("eps", "probes"), [(0.0, 16), (1e-3, 11)])
def test_errors(eps: float, probes: int) -> None:
    """What could not measure anything is refused."""
    with pytest.raises(UsageError, match="preflight needs eps > 0 and probes >= 12"):
        checked(Bowl(), BATCH, mean_loss, eps, probes=probes)

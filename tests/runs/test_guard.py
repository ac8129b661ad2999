"""The guard: each thing that goes wrong is reported at its step, a healthy run is not."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from zofx.runs.evaluation import Evaluation
from zofx.runs.guard import Finding, Guard, Limits, StepRecord, step_record
from zofx.tasks.class_report import ClassReport
from zofx.tasks.metrics import Accuracy
from zofx.zo.settings import Settings

STEPS = 400
LIMITS = Limits(STEPS, 1, 1e-3, noise=1e-4)
NOISE = np.random.default_rng(0).normal(size=STEPS)


def fold(
    loss: Callable[[int], float],
    predicted: float | None = -1e-3,
    gap: float | None = 0.05,
    limits: Limits = LIMITS,
) -> list[Finding]:
    """All findings of a run whose losses are given; batches differ by 0.1."""
    guard, findings = Guard(limits), []
    for step in range(STEPS):
        record = StepRecord(step, loss(step) + 0.1 * NOISE[step], gap, predicted)
        guard, new = guard.after_step(record)
        findings += new
    return findings


def kinds(findings: Sequence[Finding]) -> list[tuple[int, str]]:
    return [(finding.step, finding.kind) for finding in findings]


def test_a_healthy_run_has_no_finding() -> None:
    """A loss that falls as predicted, or half as fast, or flattens out."""
    assert fold(lambda step: 2 - 1e-3 * step) == []
    assert fold(lambda step: 2 - 5e-4 * step) == []
    assert fold(lambda step: 1 + np.exp(-step / 50)) == []
    assert fold(lambda step: 2 - 1e-3 * step, predicted=None, gap=None) == []


def test_divergence_shows_in_the_window_where_it_begins() -> None:
    """Down for 200 steps, then up by a hundredth a step: seen within 60, reported once."""
    findings = fold(lambda step: 2 - 1e-3 * step + 1e-2 * max(0, step - 200))
    assert kinds(findings) == [(260, "diverging")]
    assert "a --lr of a third" in str(findings[0])


def test_a_dead_signal_is_told_at_the_first_window() -> None:
    """Gaps of √2 · noise are what rounding alone gives; without a pre-flight float32's counts."""
    findings = fold(lambda step: 2.0, gap=np.sqrt(2) * 1e-4)
    assert kinds(findings)[0] == (20, "dead-signal")
    assert "Raise --eps" in str(findings[0])
    unknown = Limits(STEPS, 1, 1e-3)
    assert kinds(fold(lambda s: 2 - 1e-3 * s, gap=5e-8, limits=unknown))[0][1] == "dead-signal"
    assert fold(lambda s: 2 - 1e-3 * s, gap=1e-5, limits=unknown) == []


def test_a_rate_that_is_too_small() -> None:
    """A predicted change of 4e-6 · 400 of a loss of 2 is reported, with the missing factor."""
    (finding,) = fold(lambda step: 2.0, predicted=-4e-6)
    assert (finding.step, finding.kind) == (60, "rate-too-small")
    assert "1.2e+02 times" in finding.text  # 0.1 · 2 / 1.6e-3 = 125, of the first window's mean


def test_a_rate_that_is_too_large() -> None:
    """The loss rises slowly, or stays, where it was predicted to fall."""
    rising = fold(lambda step: 2 + 1e-3 * step, predicted=-1e-2)
    assert kinds(rising)[0][1] == "rate-too-large"
    assert "has risen" in rising[0].text
    still = fold(lambda step: 2.0, predicted=-1e-2)
    assert kinds(still) == [(100, "rate-too-large")]
    assert "has not moved" in still[0].text


def evaluation(*counts: tuple[int, int]) -> Evaluation:
    report = ClassReport((" no", " yes"), counts)
    return Evaluation(Accuracy(1, 2), 0.5, "cross-entropy", 2, 0.0, None, report)


ONE, BOTH = evaluation((8, 0), (2, 0)), evaluation((8, 0), (1, 1))

# evaluations every 100 of 400 steps → steps at which a collapse is reported
COLLAPSES: list[tuple[list[Evaluation], list[int]]] = [
    ([BOTH, BOTH, ONE, ONE, ONE], [200]),
    ([BOTH, ONE, BOTH, ONE, ONE], [100, 300]),
    ([ONE, ONE, ONE, ONE, ONE], [200]),
    ([ONE, ONE, BOTH, BOTH, BOTH], []),
    ([BOTH, BOTH, BOTH, BOTH, BOTH], []),
]


@pytest.mark.parametrize(("evaluations", "expected"), COLLAPSES)
def test_a_collapse_is_told_where_it_shows(
    evaluations: list[Evaluation], expected: list[int]
) -> None:
    """Once while it lasts; a model that begins with one answer has half of the run to leave it."""
    guard, steps = Guard(LIMITS), []
    for number, evaluation in enumerate(evaluations):
        guard, findings = guard.after_evaluation(100 * number, evaluation)
        steps += [finding.step for finding in findings if finding.fatal]
    assert steps == expected


ONE_SIDED = Settings(estimator="one-sided", eps=0.1, queries=2)

SETTINGS: list[tuple[Settings, list[float], list[float], float | None, float | None]] = [
    # (f₊ − f₋)/2ε = 10 and −5 along two directions, moved by −0.1 and 0.05: −1 − 0.25
    (Settings(eps=0.01, queries=2), [1.2, 1.0, 1.0, 1.1], [-0.1, 0.05], 0.025**0.5, -1.25),
    (ONE_SIDED, [1, 1.2, 0.9], [-0.2, 0.1], 0.025**0.5, -0.5),
    (Settings(eps=0.01, tensors="momentum(0.9)"), [1.2, 1.0], [10.0], 0.2, None),
    (Settings(eps=0.01), [1.2, 1.0], [-0.1, 0.1], 0.2, None),  # a rule on past rays
    (Settings(estimator="forward-gradient"), [1.0, 3.0], [-0.1], None, None),
]


@pytest.mark.parametrize(("settings", "losses", "moved", "gap", "predicted"), SETTINGS)
def test_what_a_step_predicts(
    settings: Settings,
    losses: list[float],
    moved: list[float],
    gap: float | None,
    predicted: float | None,
) -> None:
    """The slopes of its losses times how far it moved, to float32."""
    record = step_record(
        settings, 3, 1.0, np.array(losses, np.float32), np.array(moved, np.float32)
    )
    assert record.gap == (None if gap is None else pytest.approx(gap, rel=1e-5))
    assert record.predicted == (None if predicted is None else pytest.approx(predicted, rel=1e-5))

"""A guard while training: what goes wrong by a run's own numbers, at the step where it shows.

    StepRecord ──▶ windows of W steps ──▶ findings:  dead signal, divergence, learning rate
    Evaluation ──▶ one class alone    ──▶ finding:   collapse

    m, s           mean and standard deviation of the reported losses of a window
    se             √((s_a² + s_b²) · hold / W): of a difference of two windows; steps that share a
                   batch (`hold`) count as one
    predicted      Σ coefficient_q · slope_q: what a step changes its batch's loss by, to first
                   order; a sum over steps is compared with what the loss did

    dead           rms ± gap < 2 · √2 · noise       pure round-off reads as √2 · noise
    diverging      m_last − m_lowest > 8 se, and a tenth of the loss
    too large      predicted < −8 se, yet the loss rose by 4 se, or stayed within 2 se for 5 windows
    too small      predicted over all steps < 2 se, or a hundredth of the loss

State is a value, and a pure function of the journal and the evaluations: a resumed run finds what
an uninterrupted one does, and reports no finding twice.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np

from zofx.runs.evaluation import Evaluation
from zofx.zo.settings import Settings
from zofx.zo.types import FloatArray

WINDOW: Final = 20
"""Batches of a window."""

SURE: Final = 8.0
RISEN: Final = 4.0
STILL: Final = 2.0
TENTH: Final = 0.1
HUNDREDTH: Final = 0.01
STILL_WINDOWS: Final = 5
FEWEST_WINDOWS: Final = 3
DEAD_RATIO: Final = 2.0

Kind: TypeAlias = Literal[
    "collapse", "diverging", "dead-signal", "rate-too-large", "rate-too-small"
]


@dataclass(frozen=True)
class Finding:
    """Something that goes wrong.

    Attributes:
        step: after how many steps it shows.
        kind: of it.
        text: what was seen and what to change.
    """

    step: int
    kind: Kind
    text: str

    @property
    def fatal(self) -> bool:
        """Whether further steps lead away from what is wanted."""
        return self.kind in ("collapse", "diverging")

    def __str__(self) -> str:
        return f"step {self.step}: {self.text}"


@dataclass(frozen=True)
class StepRecord:
    """The numbers of a step.

    Attributes:
        step: of the run, from 0.
        loss: as reported.
        gap: root mean square of the differences that slopes are made of; None where slopes are
            exact.
        predicted: change of the batch's loss to first order; None where a rule on tensors moves θ
            another way.
    """

    step: int
    loss: float
    gap: float | None
    predicted: float | None


@dataclass(frozen=True)
class Limits:
    """What a guard compares with.

    Attributes:
        steps: of the whole run.
        hold: steps on the same batch.
        learning_rate: at its peak, for messages.
        noise: round-off of one loss, as the pre-flight measured it; None takes that of float32.
    """

    steps: int
    hold: int
    learning_rate: float
    noise: float | None = None

    @property
    def window(self) -> int:
        """Steps of a window."""
        return WINDOW * self.hold


@dataclass(frozen=True)
class Window:
    """W steps in a row.

    Attributes:
        end: how many steps led to its end.
        mean: of the losses.
        spread: their standard deviation.
        gap: root mean square; None where there is none.
        predicted: sum over the steps; None where there is none.
    """

    end: int
    mean: float
    spread: float
    gap: float | None
    predicted: float | None


@dataclass(frozen=True)
class Guard:
    """What has been seen so far.

    Attributes:
        limits: of the run.
        steps: those of the window that is not full yet.
        windows: full ones.
        reported: kinds that were found and have not gone away.
        began_collapsed: whether the first evaluation had one answer alone; None before it.
    """

    limits: Limits
    steps: tuple[StepRecord, ...] = ()
    windows: tuple[Window, ...] = ()
    reported: frozenset[Kind] = frozenset()
    began_collapsed: bool | None = None

    def after_step(self, record: StepRecord) -> tuple["Guard", tuple[Finding, ...]]:
        """Take in a step; findings come at the end of a window."""
        steps = (*self.steps, record)
        if len(steps) < self.limits.window:
            return replace(self, steps=steps), ()
        grown = replace(self, steps=(), windows=(*self.windows, _window(steps)))
        return grown._report(_judge(grown.windows, self.limits))

    def after_evaluation(
        self, step: int, evaluation: Evaluation
    ) -> tuple["Guard", tuple[Finding, ...]]:
        """Take in an evaluation on dev.

        A model that begins with one answer is given half of the run to leave it.
        """
        label = evaluation.classes.collapsed if evaluation.classes else None
        began = self.began_collapsed
        seen = replace(self, began_collapsed=label is not None if began is None else began)
        if label is None:
            return replace(seen, reported=seen.reported - {"collapse"}), ()
        if step == 0 or (seen.began_collapsed and 2 * step < self.limits.steps):
            return seen, ()
        text = (
            f"every dev answer is {label!r}: the run has collapsed to one class. Lower --lr, "
            "balance the classes (--balance), or take a larger --batch-size"
        )
        return seen._report((Finding(step, "collapse", text),))

    def _report(self, findings: tuple[Finding, ...]) -> tuple["Guard", tuple[Finding, ...]]:
        new = tuple(finding for finding in findings if finding.kind not in self.reported)
        return replace(self, reported=self.reported | {finding.kind for finding in new}), new


def step_record(
    settings: Settings, step: int, loss: float, losses: FloatArray, coefficients: FloatArray
) -> StepRecord:
    """The numbers of a step, from its record in the journal.

    Args:
        settings: of the run.
        step: of the run, from 0.
        loss: as reported.
        losses: f32[P].
        coefficients: f32[Q], how far θ moved along each direction.
    """
    wide, Q = losses.astype(np.float64), settings.queries
    match settings.estimator:
        case "two-point":
            gaps = wide[0 : 2 * Q : 2] - wide[1 : 2 * Q : 2]
            slopes = gaps / (2 * settings.eps)
        case "one-sided":
            gaps = wide[1 : Q + 1] - wide[0]
            slopes = gaps / settings.eps
        case _:
            return StepRecord(step, loss, None, None)
    moved = coefficients.astype(np.float64)
    plain = not settings.tensors and not settings.exact_lr and len(moved) == len(slopes)
    predicted = float(moved @ slopes) if plain else None
    return StepRecord(step, loss, float(np.sqrt(np.mean(gaps**2))), predicted)


def _window(steps: tuple[StepRecord, ...]) -> Window:
    losses = np.array([record.loss for record in steps])
    gaps = [record.gap for record in steps if record.gap is not None]
    predicted = [record.predicted for record in steps if record.predicted is not None]
    return Window(
        steps[-1].step + 1,
        float(losses.mean()),
        float(losses.std(ddof=1)),
        math.sqrt(math.fsum(gap**2 for gap in gaps) / len(gaps)) if gaps else None,
        math.fsum(predicted) if len(predicted) == len(steps) else None,
    )


def _judge(windows: tuple[Window, ...], limits: Limits) -> tuple[Finding, ...]:
    """What the last window shows; a dead signal explains the others."""
    dead = _dead(windows[-1], limits)
    if dead or len(windows) < 2:
        return dead
    return _diverging(windows, limits) or _rate(windows, limits)


def _dead(last: Window, limits: Limits) -> tuple[Finding, ...]:
    if last.gap is None:
        return ()
    float32 = float(np.spacing(np.float32(abs(last.mean)))) / math.sqrt(12)
    noise = float32 if limits.noise is None else max(limits.noise, float32)
    if last.gap >= DEAD_RATIO * math.sqrt(2) * noise:
        return ()
    text = (
        f"the probes differ by {last.gap:.3g}, about the round-off of a loss ({noise:.3g}): steps "
        "follow rounding, not the loss. Raise --eps, or take a larger --batch-size"
    )
    return (Finding(last.end, "dead-signal", text),)


def _error(one: Window, other: Window) -> float:
    """Standard error of the difference of two means."""
    return math.sqrt((one.spread**2 + other.spread**2) / WINDOW)


def _diverging(windows: tuple[Window, ...], limits: Limits) -> tuple[Finding, ...]:
    last, lowest = windows[-1], min(windows[:-1], key=lambda window: window.mean)
    rise = last.mean - lowest.mean
    if rise <= max(SURE * _error(last, lowest), TENTH * abs(lowest.mean)):
        return ()
    text = (
        f"the loss has risen to {last.mean:.4g} from {lowest.mean:.4g} before step {lowest.end}: "
        "the run diverges. Start a new one with a --lr of a third or less"
    )
    return (Finding(last.end, "diverging", text),)


def _rate(windows: tuple[Window, ...], limits: Limits) -> tuple[Finding, ...]:
    first, last = windows[0], windows[-1]
    sums = [window.predicted for window in windows if window.predicted is not None]
    if len(sums) < max(len(windows), FEWEST_WINDOWS):
        return ()
    predicted = math.fsum(sums) - (sums[0] + sums[-1]) / 2  # from centre to centre
    actual, error = last.mean - first.mean, _error(first, last)
    each = abs(predicted) / (last.end - limits.window)
    if each * limits.steps < max(STILL * error, HUNDREDTH * abs(first.mean)):
        return (_too_small(last, first, each * limits.steps, limits),)
    against = predicted < -SURE * error and actual > RISEN * error
    still = len(windows) >= STILL_WINDOWS and predicted < -SURE * error
    if not against and not (still and abs(actual) < STILL * error):
        return ()
    did = f"has risen by {actual:.3g}" if against else f"has not moved ({actual:+.3g})"
    text = (
        f"the loss {did} where projected gradients predicted {predicted:.3g}: steps overshoot, or "
        f"follow single batches. Lower --lr (now {limits.learning_rate:g}), or take a larger "
        "--batch-size or more --queries"
    )
    return (Finding(last.end, "rate-too-large", text),)


def _too_small(last: Window, first: Window, whole: float, limits: Limits) -> Finding:
    wanted = TENTH * abs(first.mean)
    factor = f"{wanted / whole:.2g} times" if whole > 0 else "far above"
    text = (
        f"at --lr {limits.learning_rate:g} projected gradients predict a change of {whole:.2g} in "
        f"all {limits.steps} steps, of a loss of {first.mean:.4g}: too small to see. "
        f"Try a --lr of {factor} that"
    )
    return Finding(last.end, "rate-too-small", text)

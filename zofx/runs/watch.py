"""What a run does with what its guard finds: report it, and end where that was asked for.

step, evaluation ──▶ Guard ──▶ findings ──▶ report; a fatal one ──on_collapse──▶ CollapseError
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import numpy as np

from zofx.errors import DivergenceError, UsageError
from zofx.runs.evaluation import Evaluation
from zofx.runs.guard import Finding, Guard, Limits, StepRecord, step_record
from zofx.zo.driver import StepLog
from zofx.zo.journal.format import Journal
from zofx.zo.settings import Settings

ON_COLLAPSE: Final = ("go", "stop", "rewind")
"""What a run does when it has collapsed or diverges: report it, end, or end at its best step."""


def step_records(settings: Settings, journal: Journal) -> Iterator[StepRecord]:
    """The numbers of every step of a journal."""
    estimator = settings.recipe().estimator
    for record in journal:
        keys = estimator.probes(journal.header.seed, record.step).keys
        loss = estimator.estimate(keys, record.losses[: estimator.evaluations], None).loss
        yield step_record(settings, record.step, loss, record.losses, record.coefficients)


def looked_back(
    guard: Guard, records: Iterable[StepRecord], evaluations: Mapping[int, Evaluation]
) -> tuple[Guard, list[Finding]]:
    """A guard after these steps and the evaluations between them, and what it found on the way."""
    findings: list[Finding] = []
    made = 0
    for record in records:
        if record.step in evaluations:
            guard, found = guard.after_evaluation(record.step, evaluations[record.step])
            findings += found
        guard, found = guard.after_step(record)
        findings += found
        made = record.step + 1
    if made in evaluations:
        guard, found = guard.after_evaluation(made, evaluations[made])
        findings += found
    return guard, findings


class CollapseError(DivergenceError):
    """The guard ends the run."""


class Watch:
    """The guard of one call of `train`.

    Args:
        settings: of the run.
        steps: of the whole run.
        noise: round-off of a loss, as a pre-flight measured it; None where unknown.
        on_collapse: one of ON_COLLAPSE.
        report: called with every finding, at the step where it shows.

    Raises:
        UsageError: there is no such way to go on after a collapse.
    """

    def __init__(
        self,
        settings: Settings,
        steps: int,
        noise: float | None,
        on_collapse: str,
        report: Callable[[Finding], None],
    ) -> None:
        if on_collapse not in ON_COLLAPSE:
            raise UsageError(f"--on-collapse {on_collapse}: there are {', '.join(ON_COLLAPSE)}")
        self.findings: list[Finding] = []
        self._settings, self._report, self._ends = settings, report, on_collapse != "go"
        self._guard = Guard(Limits(steps, settings.hold, settings.lr, noise))

    def look_back(self, journal: Journal, evaluations: Mapping[int, Evaluation]) -> None:
        """Bring the guard to where a journal ends; what it found was reported then."""
        records = step_records(self._settings, journal)
        self._guard, _ = looked_back(self._guard, records, evaluations)

    def after_step(self, step: int, log: StepLog) -> None:
        """Take in a step.

        Raises:
            CollapseError: a finding is fatal, and the run is not to go on.
        """
        moved = np.array([ray.coefficient for ray in log.rays], np.float32)
        record = step_record(self._settings, step, log.loss, log.losses, moved)
        self._guard, findings = self._guard.after_step(record)
        self._act(findings)

    def after_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Take in an evaluation on dev.

        Raises:
            CollapseError: a finding is fatal, and the run is not to go on.
        """
        self._guard, findings = self._guard.after_evaluation(step, evaluation)
        self._act(findings)

    def _act(self, findings: tuple[Finding, ...]) -> None:
        for finding in findings:
            self.findings.append(finding)
            self._report(finding)
            if finding.fatal and self._ends:
                raise CollapseError(str(finding), finding.step)

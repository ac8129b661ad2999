"""Training: stopped anywhere, a run goes on bit-equal; a request that cannot work is refused."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from zofx.errors import DivergenceError, UsageError
from zofx.runs import jsonl
from zofx.runs.evaluation import Evaluation
from zofx.runs.guard import Finding
from zofx.runs.metrics_log import StepMetrics
from zofx.runs.preflight import measure, recall, remember
from zofx.runs.prepare import Prepared, prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.run_folder import RunFolder
from zofx.runs.tune import Outcome, start, train
from zofx.tasks.class_report import ClassReport
from zofx.zo.journal.format import Journal
from zofx.zo.types import FloatArray

SETTINGS: Mapping[str, Any] = {"steps": 12, "batch_size": 4, "lr": 0.03, "eps": 0.01}
RUNTIMES = ["ort", "torch"]


def options(mood: Path, runtime: str = "ort", **given: Any) -> dict[str, Any]:
    return {"task": mood, "runtime": runtime, "threads": 1, **SETTINGS, "eval_every": 5, **given}


class After:
    """Asks to stop after so many steps: an observer and a stop function."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.metrics: list[StepMetrics] = []
        self.closed = False

    def __call__(self) -> bool:
        return self.left <= 0

    def step(self, metrics: StepMetrics) -> None:
        self.left -= 1
        self.metrics.append(metrics)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def finish(prepared: Prepared, stop: After | None = None) -> tuple[Outcome, dict[str, FloatArray]]:
    """Train; returns how it ended and θ."""
    session = prepared.session()
    observer = stop or After(10**6)
    outcome = train(prepared, session, [observer], observer)
    theta = session.read()
    session.close()
    return outcome, theta


def same_run(one: RunFolder, other: RunFolder) -> None:
    """The journals are equal byte by byte, and so are the evaluations but for their seconds."""
    assert one.journal_path.read_bytes() == other.journal_path.read_bytes()
    ours, theirs = (
        {step: replace(evaluation, seconds=0.0) for step, evaluation in run.evaluations().items()}
        for run in (one, other)
    )
    assert ours == theirs


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_interrupted_run_goes_on_bit_equal(
    artifact: Path, mood: Path, tmp_path: Path, runtime: str
) -> None:
    """Stopped between steps, then with a torn record and torn lines: same journal, same θ."""
    asked = options(mood, runtime)
    whole, theta = finish(start(prepare(artifact, asked), tmp_path / "whole"))
    assert whole.steps == 12
    assert not whole.interrupted

    broken = tmp_path / "broken"
    first, _ = finish(start(prepare(artifact, asked), broken), After(7))
    assert (first.steps, first.interrupted) == (7, True)
    with (broken / "journal.bin").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 9)  # in the middle of the seventh record
    with (broken / "evals.jsonl").open("a") as lines:
        lines.write('{"step": 10, "exam')
    resumed, again = finish(prepare_resumed(artifact, broken, asked))

    same_run(resumed.run, whole.run)
    assert (resumed.steps, resumed.best) == (12, whole.best)
    assert theta.keys() == again.keys()
    for name, values in theta.items():
        np.testing.assert_array_equal(values, again[name])
    assert [row["step"] for row in jsonl.read(broken / "metrics.jsonl")] == list(range(12))


def test_evaluations_are_made_on_time_and_the_best_is_kept(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """Dev is evaluated at the start, every five steps and at the end; the best has a snapshot."""
    watch = After(10**6)
    outcome, theta = finish(start(prepare(artifact, options(mood)), tmp_path / "run"), watch)
    assert list(outcome.evaluations) == [0, 5, 10, 12]
    ranks = {step: evaluation.rank("macro-f1") for step, evaluation in outcome.evaluations.items()}
    assert outcome.best is not None
    assert ranks[outcome.best] == max(ranks.values())
    assert (tmp_path / "run" / "best.safetensors").is_file()
    step, last = outcome.run.theta(
        artifact, prepare(artifact, options(mood)).model.manifest, "last"
    )
    assert step == 12
    for name, values in theta.items():
        np.testing.assert_array_equal(values, last[name])
    assert watch.closed
    assert [metrics.step for metrics in watch.metrics] == list(range(12))
    assert all(m.tokens > 0 and m.tokens_per_second > 0 for m in watch.metrics)


def test_training_descends(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """Sixteen directions a step on all examples: the loss falls below 0.6 of where it began."""
    asked = options(mood, steps=60, queries=16, batch_size=30, lr=0.1)
    outcome, _ = finish(start(prepare(artifact, asked), tmp_path / "run"))
    losses = [float(record.losses.mean()) for record in outcome.run.journal()]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_a_stop_within_an_evaluation_drops_it(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """Told to stop between two batches of an evaluation, nothing of it is recorded."""
    calls = iter([False, True, True, True])
    prepared = start(prepare(artifact, options(mood)), tmp_path / "run")
    outcome = train(prepared, prepared.session(), stop=lambda: next(calls))
    assert (outcome.steps, outcome.evaluations, outcome.best) == (0, {}, None)


def test_a_constant_schedule_can_go_on_for_longer(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """--steps may be raised on resuming, and without it a finished run makes no more steps."""
    asked = options(mood, steps=4, schedule="constant")
    finish(start(prepare(artifact, asked), tmp_path / "run"))
    idle, _ = finish(prepare_resumed(artifact, tmp_path / "run", {}))
    assert idle.steps == 4
    longer, _ = finish(prepare_resumed(artifact, tmp_path / "run", {"steps": 6}))
    assert (longer.steps, longer.interrupted) == (6, False)
    idle, _ = finish(prepare_resumed(artifact, tmp_path / "run", {}))
    assert idle.steps == 6


def test_resuming_reads_the_journal_once(
    artifact: Path, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the check of the options to the last snapshot; a journal of a long run is large."""
    finish(start(prepare(artifact, options(mood)), tmp_path / "run"), After(6))
    decoded: list[Path] = []
    decode = Journal.decode
    monkeypatch.setattr(
        Journal, "decode", lambda path, data: decoded.append(path) or decode(path, data)
    )
    outcome, _ = finish(prepare_resumed(artifact, tmp_path / "run", {}))
    assert outcome.steps == 12
    assert decoded == [tmp_path / "run" / "journal.bin"]


def test_another_runtime_can_take_over(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """θ does not depend on the runtime, so a run started on one goes on from it on another."""
    finish(start(prepare(artifact, options(mood)), tmp_path / "run"), After(6))
    on_torch = prepare_resumed(artifact, tmp_path / "run", {"runtime": "torch"})
    outcome, theta = finish(on_torch)
    assert outcome.steps == 12
    replayed = outcome.run.theta(artifact, on_torch.model.manifest, "last")[1]
    for name, values in theta.items():
        np.testing.assert_array_equal(values, replayed[name])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"task": None}, "name a task"),
    ({"task": "trek"}, "did you mean trec"),
    ({"objective": "perplexity"}, "there is no objective 'perplexity'"),
    ({"schedule": "cosin"}, "did you mean cosine"),
    ({"lr": -1.0}, "must be positive"),
    ({"lr": float("nan")}, "must be positive"),
    ({"eps": 0.0}, "eps"),
    (
        {"estimator": "forward-gradient"},
        "--estimator forward-gradient: this artifact was compiled for probes, not forward mode",
    ),
    ({"train": 0}, "at least 1"),
    ({"stepz": 3}, "no option 'stepz'; did you mean steps"),
    ({"steps": "many"}, "--steps 'many': give a whole number, not str"),
    ({"steps": True}, "give a whole number, not bool"),
    ({"threads": 5000}, "from 1 to 1024"),
    ({"data": "nowhere"}, "there is no such folder"),
]


@pytest.mark.parametrize(("asked", "message"), WRONG)
def test_a_wrong_request_is_refused_before_anything_runs(
    artifact: Path, mood: Path, asked: dict[str, Any], message: str
) -> None:
    """One clear error per mistake."""
    with pytest.raises(UsageError, match=message):
        prepare(artifact, {"task": str(mood), **asked})


def test_a_prompt_longer_than_the_model_is_an_error_unless_truncated(
    artifact: Path, tmp_path: Path
) -> None:
    """48 positions do not hold 60 words; --truncate keeps the last ones."""
    task = tiny.task_file(tmp_path / "long.jsonl", ask=" and" * 60)
    with pytest.raises(UsageError, match="do not fit the 48 positions"):
        prepare(artifact, {"task": str(task)})
    cut = prepare(artifact, {"task": str(task), "truncate": True})
    assert cut.batch(0).batch.input_ids.shape[1] <= 48


@pytest.mark.parametrize("objective", ["cross-entropy", "likelihood", "error-rate"])
def test_every_objective_trains(artifact: Path, mood: Path, tmp_path: Path, objective: str) -> None:
    """Each objective of the tasks drives a run; recorded losses are what it computes."""
    asked = options(mood, steps=2, eps=0.5, objective=objective)
    outcome, _ = finish(start(prepare(artifact, asked), tmp_path / "run"))
    assert outcome.steps == 2
    assert all(np.isfinite(record.losses).all() for record in outcome.run.journal())


def test_divergence_leaves_the_journal_and_says_the_way_back(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """A learning rate of 1e30 destroys θ; every step before is still there."""
    prepared = start(prepare(artifact, options(mood, lr=1e30)), tmp_path / "run")
    with pytest.raises(DivergenceError, match="keeps every step before") as caught:
        finish(prepared)
    assert "lower --lr" in str(caught.value)
    run = RunFolder.open(tmp_path / "run")
    assert run.journal().next_step == caught.value.step
    assert run.best() == 0


FATAL = [
    ("stop", 6, r"keeps every step before 6; the best on dev is step 3"),
    ("rewind", 3, r"ends at step 3 now.* steps after it are in .*journal-of-6-steps.bin"),
]


def collapsing(monkeypatch: pytest.MonkeyPatch, prepared: Prepared) -> None:
    """Evaluations that are best at step 3 and answer one class at step 6."""
    tables = {0: ((3, 2), (2, 2)), 3: ((4, 1), (1, 3)), 6: ((5, 0), (4, 0))}

    def judged(session: Any, *args: Any, step: int, **rest: Any) -> Evaluation:
        classes = ClassReport((" bad", " good"), tables[step])
        return Evaluation(classes.accuracy, 0.5, "cross-entropy", 9, 0.0, None, classes)

    monkeypatch.setattr("zofx.runs.training_loop.evaluate", judged)


@pytest.mark.parametrize(("way", "end", "message"), FATAL)
def test_a_collapse_ends_a_run_where_that_is_asked_for(
    artifact: Path,
    mood: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    end: int,
    message: str,
) -> None:
    """At once, or back at its best step with the rest kept aside; by default it goes on."""
    prepared = start(prepare(artifact, options(mood, eval_every=3)), tmp_path / "run")
    collapsing(monkeypatch, prepared)
    findings: list[Finding] = []
    with pytest.raises(DivergenceError, match=message):
        train(prepared, prepared.session(), on_collapse=way, report=findings.append)
    assert [(finding.step, finding.kind) for finding in findings] == [(6, "collapse")]
    run = RunFolder.open(tmp_path / "run")
    assert run.journal().next_step == end
    assert max(run.evaluations()) == end
    assert run.best() == 3
    step, _ = run.theta(artifact, prepared.model.manifest, "best")
    assert step == 3


def test_the_guard_changes_no_bit_and_a_resumed_run_reports_nothing_twice(
    artifact: Path, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default a collapse is reported and the run goes on; earlier findings stay."""
    asked = options(mood, steps=9, schedule="constant", eval_every=3)
    prepared = start(prepare(artifact, asked), tmp_path / "run")
    whole, _ = finish(prepared)
    other = start(prepare(artifact, asked), tmp_path / "other")
    collapsing(monkeypatch, other)
    findings: list[Finding] = []
    first = train(other, other.session(), [stop := After(7)], stop, report=findings.append)
    assert (first.steps, len(findings)) == (7, 1)
    again: list[Finding] = []
    monkeypatch.undo()
    resumed = prepare_resumed(artifact, tmp_path / "other", asked)
    train(resumed, resumed.session(), report=again.append)
    assert [f for f in again if f.step <= 7] == []
    assert other.run is not None
    assert other.run.journal_path.read_bytes() == whole.run.journal_path.read_bytes()


def test_an_unknown_way_is_refused(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """--on-collapse has three."""
    prepared = start(prepare(artifact, options(mood)), tmp_path / "run")
    with pytest.raises(UsageError, match="--on-collapse halt: there are go, stop, rewind"):
        train(prepared, prepared.session(), on_collapse="halt")


def test_a_preflight_is_remembered_for_the_same_run_alone(
    artifact: Path, assets: Path, mood: Path, tmp_path: Path
) -> None:
    """Beside the artifact; another eps, seed or batch is measured anew, damage is passed over."""
    copy = tmp_path / "art"
    shutil.copytree(artifact, copy)
    prepared = prepare(copy, options(mood))
    assert recall(prepared) is None
    reports: list[tuple[int, int]] = []
    measured = measure(
        prepared, prepared.session(), lambda done, total: reports.append((done, total))
    )
    assert measured is not None
    assert reports[-1][0] == reports[-1][1] == len(reports)
    with (tmp_path / "art.preflight.jsonl").open("w") as file:
        file.write('{"key": 3\n[1]\n')
    remember(prepared, measured)
    assert recall(prepare(copy, options(mood))) == measured
    assert recall(prepare(copy, options(mood, eps=0.02))) is None
    assert recall(prepare(copy, options(mood, seed=1))) is None


def test_the_preflight_measures_and_refuses_losses_that_are_not_finite(
    artifact: Path, mood: Path
) -> None:
    """At eps 0.01 the gap is clear; at 1e30 the losses overflow, and no folder is made for it."""
    good = prepare(artifact, options(mood))
    assert measure(good, good.session()).verdict == "good"
    wild = prepare(artifact, options(mood, eps=1e30))
    with pytest.raises(DivergenceError, match="lower --eps"):
        measure(wild, wild.session())


def test_metrics_are_made_again_from_the_journal(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """Whatever happened to their file: a line per step, the loss as it was; none stops a resume."""
    run = tmp_path / "run"
    finish(start(prepare(artifact, options(mood)), run), After(6))
    before = jsonl.read(run / "metrics.jsonl")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for kept in ([], lines[:3], [*lines[:2], "\x00{]", '{"step": []}', *lines[4:]], lines * 2):
        (run / "metrics.jsonl").write_text("\n".join(kept) + "\n[[[")
        finish(prepare_resumed(artifact, run, options(mood)), After(0))
        rows = jsonl.read(run / "metrics.jsonl")
        for row, old in zip(rows, before, strict=True):
            assert {n: row[n] for n in ("step", "loss")} == {n: old[n] for n in ("step", "loss")}


def test_a_first_step_that_fails_leaves_no_run(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """The name is free again, and the message says so."""
    prepared = start(prepare(artifact, options(mood, lr=1e29)), tmp_path / "run")
    session = prepared.session()
    values = session.read()
    session.write({name: np.full_like(value, np.nan) for name, value in values.items()})
    with pytest.raises(DivergenceError, match=r"No step was made, so there is no run folder"):
        train(prepared, session)
    session.close()
    assert not (tmp_path / "run").exists()

"""Training: stopped anywhere, a run goes on bit-equal; a request that cannot work is refused."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from zofx.errors import ArtifactError, DivergenceError, UsageError
from zofx.runs import jsonl
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import StepMetrics
from zofx.runs.prepare import Prepared, Request, prepare, prepare_resumed
from zofx.runs.run_folder import RunFolder
from zofx.runs.tune import Outcome, measure, start, train
from zofx.zo.types import FloatArray

SETTINGS: Mapping[str, Any] = {"steps": 12, "batch_size": 4, "lr": 0.03, "eps": 0.01}
RUNTIMES = ["ort", "torch"]


def request(mood: Path, runtime: str = "ort", **settings: Any) -> Request:
    return Request(
        task=str(mood), runtime=runtime, threads=1, settings={**SETTINGS, **settings}, eval_every=5
    )


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
        {step: replace(found, seconds=0.0) for step, found in run.evaluations().items()}
        for run in (one, other)
    )
    assert ours == theirs


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_interrupted_run_goes_on_bit_equal(
    artifact: Path, mood: Path, tmp_path: Path, runtime: str
) -> None:
    """Stopped between steps, then with a torn record and torn lines: same journal, same θ."""
    asked = request(mood, runtime)
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
    outcome, theta = finish(start(prepare(artifact, request(mood)), tmp_path / "run"), watch)
    assert list(outcome.evaluations) == [0, 5, 10, 12]
    ranks = {step: found.rank("macro-f1") for step, found in outcome.evaluations.items()}
    assert outcome.best is not None
    assert ranks[outcome.best] == max(ranks.values())
    assert (tmp_path / "run" / "best.safetensors").is_file()
    step, last = outcome.run.theta(
        artifact, prepare(artifact, request(mood)).model.manifest, "last"
    )
    assert step == 12
    for name, values in theta.items():
        np.testing.assert_array_equal(values, last[name])
    assert watch.closed
    assert [metrics.step for metrics in watch.metrics] == list(range(12))
    assert all(m.tokens > 0 and m.tokens_per_second > 0 for m in watch.metrics)


def test_training_descends(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """Sixteen directions a step on all examples: the loss falls below 0.6 of where it began."""
    asked = request(mood, steps=60, queries=16, batch_size=30, lr=0.1)
    outcome, _ = finish(start(prepare(artifact, asked), tmp_path / "run"))
    losses = [float(record.losses.mean()) for record in outcome.run.journal()]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_a_stop_within_an_evaluation_drops_it(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """Told to stop between two batches of an evaluation, nothing of it is recorded."""
    calls = iter([False, True, True, True])
    prepared = start(prepare(artifact, request(mood)), tmp_path / "run")
    outcome = train(prepared, prepared.session(), stop=lambda: next(calls))
    assert (outcome.steps, outcome.evaluations, outcome.best) == (0, {}, None)


def test_a_constant_schedule_can_go_on_for_longer(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """--steps may be raised on resuming, and without it a finished run makes no more steps."""
    asked = request(mood, steps=4, schedule="constant")
    finish(start(prepare(artifact, asked), tmp_path / "run"))
    idle, _ = finish(prepare_resumed(artifact, tmp_path / "run", Request()))
    assert idle.steps == 4
    longer, _ = finish(prepare_resumed(artifact, tmp_path / "run", Request(settings={"steps": 6})))
    assert (longer.steps, longer.interrupted) == (6, False)
    idle, _ = finish(prepare_resumed(artifact, tmp_path / "run", Request()))
    assert idle.steps == 6


def test_another_runtime_can_take_over(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """θ does not depend on the runtime, so a run started on one goes on from it on another."""
    finish(start(prepare(artifact, request(mood)), tmp_path / "run"), After(6))
    on_torch = prepare_resumed(artifact, tmp_path / "run", Request(runtime="torch"))
    outcome, theta = finish(on_torch)
    assert outcome.steps == 12
    replayed = outcome.run.theta(artifact, on_torch.model.manifest, "last")[1]
    for name, values in theta.items():
        np.testing.assert_array_equal(values, replayed[name])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"settings": {"lr": 0.5}}, r"--lr 0.5 \(the run has 0.03\)"),
    ({"settings": {"eps": 0.5, "batch_size": 2}}, r"--eps 0.5 .*--batch-size 2"),
    ({"seed": 3}, r"--seed 3 \(the run has 0\)"),
    ({"train": 5}, r"--train 5 \(the run has 1000\)"),
    ({"eval_size": 2}, r"--eval-size 2 \(the run has 9\)"),
    ({"objective": "likelihood"}, r"--objective likelihood"),
    ({"task": "trec"}, r"--task .*trec"),
    ({"truncate": True}, r"--truncate True"),
    ({"settings": {"steps": 1}}, r"has made 2 steps already"),
]


@pytest.fixture(scope="module")
def short_run(artifact: Path, mood: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("short") / "run"
    finish(start(prepare(artifact, request(mood, steps=2)), folder))
    return folder


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_a_resumed_run_is_the_same_run(
    artifact: Path, short_run: Path, asked: dict[str, Any], message: str
) -> None:
    """What is asked again and differs is refused, by name, and nothing is written."""
    before = (short_run / "journal.bin").read_bytes()
    with pytest.raises(UsageError, match=message):
        prepare_resumed(artifact, short_run, Request(**asked))
    assert (short_run / "journal.bin").read_bytes() == before


def test_the_command_that_started_a_run_also_resumes_it(
    artifact: Path, short_run: Path, mood: Path
) -> None:
    """Values that come to the same are no difference: --dev 9 of 9, --eval-size 500 of 9."""
    asked = replace(request(mood, steps=2), train=1000, dev=9, eval_size=500)
    assert prepare_resumed(artifact, short_run, asked).steps == 2


def test_a_decaying_schedule_has_an_end(artifact: Path, mood: Path, tmp_path: Path) -> None:
    """Its steps cannot be raised: the learning rate is 0 there."""
    start(prepare(artifact, request(mood, schedule="linear")), tmp_path / "run")
    with pytest.raises(UsageError, match="linear schedule ends at step 12"):
        prepare_resumed(artifact, tmp_path / "run", Request(settings={"steps": 20}))


def test_changed_examples_are_noticed(artifact: Path, tmp_path: Path) -> None:
    """A task file that was edited between start and resume would change the run."""
    task = tiny.task_file(tmp_path / "task.jsonl")
    start(prepare(artifact, request(task)), tmp_path / "run")
    tiny.task_file(task, ask=" and it was")
    with pytest.raises(ArtifactError, match="have changed since"):
        prepare_resumed(artifact, tmp_path / "run", Request())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"task": None}, "name a task"),
    ({"task": "trek"}, "did you mean trec"),
    ({"objective": "perplexity"}, "there is no objective 'perplexity'"),
    ({"settings": {"schedule": "cosin"}}, "did you mean cosine"),
    ({"settings": {"lr": -1.0}}, "must be positive"),
    ({"settings": {"lr": float("nan")}}, "must be positive"),
    ({"settings": {"eps": 0.0}}, "eps"),
    (
        {"settings": {"estimator": "forward-gradient"}},
        "--estimator forward-gradient: this artifact was compiled for probes, not forward mode; leave",
    ),
    ({"train": 0}, "draw some with --train N"),
    ({"data": "nowhere"}, "there is no such folder"),
]


@pytest.mark.parametrize(("asked", "message"), WRONG)
def test_a_wrong_request_is_refused_before_anything_runs(
    artifact: Path, mood: Path, asked: dict[str, Any], message: str
) -> None:
    """One clear error per mistake."""
    with pytest.raises(UsageError, match=message):
        prepare(artifact, Request(**{"task": str(mood), **asked}))


def test_a_prompt_longer_than_the_model_is_an_error_unless_truncated(
    artifact: Path, tmp_path: Path
) -> None:
    """48 positions do not hold 60 words; --truncate keeps the last ones."""
    task = tiny.task_file(tmp_path / "long.jsonl", ask=" and" * 60)
    with pytest.raises(UsageError, match="do not fit the 48 positions"):
        prepare(artifact, Request(task=str(task)))
    cut = prepare(artifact, Request(task=str(task), truncate=True))
    assert cut.batch(0).batch.input_ids.shape[1] <= 48


@pytest.mark.parametrize("objective", ["cross-entropy", "likelihood", "error-rate"])
def test_every_objective_trains(artifact: Path, mood: Path, tmp_path: Path, objective: str) -> None:
    """Each objective of the tasks drives a run; recorded losses are what it computes."""
    asked = replace(request(mood, steps=2, eps=0.5), objective=objective)
    outcome, _ = finish(start(prepare(artifact, asked), tmp_path / "run"))
    assert outcome.steps == 2
    assert all(np.isfinite(record.losses).all() for record in outcome.run.journal())


def test_divergence_leaves_the_journal_and_says_the_way_back(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """A learning rate of 1e30 destroys θ; every step before is still there."""
    prepared = start(prepare(artifact, request(mood, lr=1e30)), tmp_path / "run")
    with pytest.raises(DivergenceError, match="keeps every step before") as caught:
        finish(prepared)
    assert "lower --lr" in str(caught.value)
    run = RunFolder.open(tmp_path / "run")
    assert run.journal().next_step == caught.value.step
    assert run.best() == 0


def test_the_preflight_measures_and_refuses_losses_that_are_not_finite(
    artifact: Path, mood: Path
) -> None:
    """At eps 0.01 the gap is clear; at 1e30 the losses overflow, and no folder is made."""
    good = prepare(artifact, request(mood))
    assert measure(good, good.session()).verdict == "good"
    wild = prepare(artifact, request(mood, eps=1e30))
    with pytest.raises(DivergenceError, match="lower --eps"):
        measure(wild, wild.session())

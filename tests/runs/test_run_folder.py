"""The run folder: whole or not there, one writer, and every copy of θ checked before it is used."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import tiny
from zofx.artifact.manifest import Manifest
from zofx.errors import ArtifactError, UsageError
from zofx.runs import jsonl
from zofx.runs.compiled_model import open_model
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import JsonlLog, StepMetrics
from zofx.runs.prepare import prepare
from zofx.runs.run_config import RunConfig
from zofx.runs.run_folder import RunFolder
from zofx.runs.tune import start, train
from zofx.tasks.metrics import Accuracy
from zofx.zo.random.direction_spec import Noise


def judged(correct: int, loss: float) -> Evaluation:
    return Evaluation(Accuracy(correct, 10), loss, "cross-entropy", 10, 0.5)


@pytest.fixture
def run(artifact: Path, mood: Path, tmp_path: Path) -> RunFolder:
    """Six steps, evaluated at 0, 3 and 6."""
    options = {
        "task": mood, "runtime": "ort", "threads": 1, "eval_every": 3,
        "steps": 6, "batch_size": 4, "lr": 0.03, "eps": 0.01,
    }  # fmt: skip
    prepared = start(prepare(artifact, options), tmp_path / "run")
    return train(prepared, prepared.session()).run


@pytest.fixture
def manifest(artifact: Path) -> Manifest:
    return open_model(artifact).manifest


def test_a_run_config_reads_back(run: RunFolder) -> None:
    """run.json ⇄ RunConfig, exactly."""
    text = (run.path / "run.json").read_text()
    assert RunConfig.from_json(text, run.path) == run.config
    assert run.config.to_json() == text
    assert RunFolder.open(run.path) == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "does not describe a run"),
        ('{"format": "zofx-run", "version": 2}', "missing 4 required"),
        ("{é}", "UnicodeDecodeError"),
    ],
)
def test_a_damaged_run_config_is_reported(run: RunFolder, text: str, message: str) -> None:
    """Whatever is wrong with run.json is one ArtifactError that names the file."""
    (run.path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match=message):
        RunFolder.open(run.path)


def test_a_run_config_of_another_version_is_reported(run: RunFolder) -> None:
    """It names both versions."""
    payload = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**payload, "version": 9}))
    with pytest.raises(ArtifactError, match="version 9, this zofx reads version 2"):
        RunFolder.open(run.path)


def test_a_journal_of_another_run_is_reported(run: RunFolder) -> None:
    """run.json and journal.bin name the same run, or neither is used."""
    config = replace(run.config, task=replace(run.config.task, seed=1))
    with pytest.raises(ArtifactError, match="does not belong to"):
        RunFolder(run.path, config).journal()
    run.journal_path.unlink()
    with pytest.raises(ArtifactError, match=r"lost its journal\.bin"):
        run.journal()


def test_a_taken_name_is_refused(run: RunFolder, tmp_path: Path) -> None:
    """A run says how to go on with it; anything else is left alone too."""
    with pytest.raises(UsageError, match="--resume"):
        RunFolder.create(run.path, run.config)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="choose another folder"):
        RunFolder.create(tmp_path / "file", run.config)
    assert (tmp_path / "file").read_text() == "mine"


def test_one_process_writes_at_a_time(run: RunFolder) -> None:
    """A second writer is refused; the lock goes with its holder."""
    with run.locked(), pytest.raises(UsageError, match="another process"), run.locked():
        pass
    with run.locked():
        pass


def test_the_best_step_is_the_first_of_the_highest_rank(run: RunFolder) -> None:
    """The metric of the run decides, then the loss, then the earlier step."""
    by_accuracy = replace(run.config.evaluation, select_by="accuracy")
    run = replace(run, config=replace(run.config, evaluation=by_accuracy))
    (run.path / "evals.jsonl").unlink()
    assert run.best() is None
    for step, evaluation in ((1, judged(5, 0.9)), (2, judged(7, 0.8)), (3, judged(7, 0.7))):
        run.add_evaluation(step, evaluation)
    run.add_evaluation(4, judged(7, 0.7))
    run.add_evaluation(5, judged(6, 0.1))
    assert run.best() == 3


def test_a_run_of_an_older_zofx_keeps_its_choice(run: RunFolder) -> None:
    """A flat run.json without a metric, evaluations without classes: the accuracy chooses."""
    fields = json.loads((run.path / "run.json").read_text())
    evaluation, engine, choice = (fields.pop(key) for key in ("evaluation", "engine", "task"))
    assert evaluation.pop("select_by") == "macro-f1"
    assert (choice.pop("balance"), choice.pop("max_length")) == (False, None)
    assert (engine.pop("fleet"), engine.pop("fleet_split")) == (None, "auto")
    older = {**fields, **evaluation, **engine, "choice": choice, "version": 1}
    (run.path / "run.json").write_text(json.dumps(older))
    (run.path / "evals.jsonl").unlink()
    old = RunFolder.open(run.path)
    assert old.config.evaluation.select_by is None
    assert old.config.task.max_length == 2048  # as rows of a file were cut then
    assert old.journal().next_step == 6  # the journal's header is the same
    for step, judgement in ((0, judged(5, 0.1)), (3, judged(7, 0.8))):
        old.add_evaluation(step, judgement)
    assert old.best() == 3


def test_the_theta_of_every_step_is_the_replay_of_the_journal(
    run: RunFolder, artifact: Path, manifest: Manifest
) -> None:
    """Step 0 is the artifact's; best and last are what a replay without snapshots gives."""
    step, theta = run.theta(artifact, manifest, 0)
    initial = load_file(artifact / "trainables.safetensors")
    assert step == 0
    for name, values in theta.items():
        np.testing.assert_array_equal(values, initial[name])
    cached = {at: run.theta(artifact, manifest, at) for at in (run.best() or 0, 6)}
    for name in ("best", "last"):
        (run.path / f"{name}.safetensors").unlink(missing_ok=True)
    for at, (cached_step, kept) in cached.items():
        again = run.theta(artifact, manifest, at)
        assert again[0] == cached_step == at
        for name, value in kept.items():
            np.testing.assert_array_equal(again[1][name], value)
    with pytest.raises(UsageError, match="no step 7"):
        run.theta(artifact, manifest, 7)


def other_step(path: Path) -> None:
    save_file(load_file(path), path, {"step": "5", "journal": "", "values": ""})


def other_values(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 0x40
    path.write_bytes(data)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [other_step, other_values, half])
def test_a_snapshot_is_used_only_if_it_is_the_right_one(
    run: RunFolder, artifact: Path, manifest: Manifest, damage: Callable[[Path], None]
) -> None:
    """Damaged or of another step, it is passed over and the journal is replayed."""
    right = run.theta(artifact, manifest, "last")[1]
    damage(run.path / "last.safetensors")
    for name, values in run.theta(artifact, manifest, "last")[1].items():
        np.testing.assert_array_equal(values, right[name])


def test_a_run_belongs_to_one_artifact(run: RunFolder, artifact: Path, manifest: Manifest) -> None:
    """Another hash is refused before anything is replayed."""
    with pytest.raises(UsageError, match="was made with artifact"):
        run.theta(artifact, replace(manifest, noise=Noise("rademacher")))


def test_trimming_drops_what_is_ahead_of_the_journal(run: RunFolder) -> None:
    """Evaluations of θ after more steps than there are, and metrics of steps that do not count."""
    run.trim(3)
    assert list(run.evaluations()) == [0, 3]
    assert [row["step"] for row in jsonl.read(run.metrics_path)] == [0, 1, 2]


def test_a_log_loses_at_most_its_torn_line(tmp_path: Path) -> None:
    """What follows the last line break is passed over; damage before it is reported."""
    log = tmp_path / "log.jsonl"
    assert jsonl.read(log) == []
    jsonl.append(log, {"step": 1})
    with log.open("a") as file:
        file.write('{"step": 2')
    assert jsonl.read(log) == [{"step": 1}]
    jsonl.keep(log, lambda row: True)
    assert log.read_text() == '{"step": 1}\n'
    log.write_text('{"step"\n{"step": 2}\n')
    with pytest.raises(ArtifactError, match=r"log\.jsonl:1 is damaged"):
        jsonl.read(log)
    log.write_text("3\n")
    with pytest.raises(ArtifactError, match="no JSON object"):
        jsonl.read(log)


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    """One line per step with every field; evaluations are kept elsewhere."""
    log = JsonlLog(tmp_path / "metrics.jsonl")
    log.step(StepMetrics(3, 0.5, 1e-3, 0.25, 64, 256.0, 99.5))
    log.evaluation(4, judged(5, 0.5))
    log.close()
    assert jsonl.read(tmp_path / "metrics.jsonl") == [
        {
            "step": 3, "loss": 0.5, "learning_rate": 1e-3, "seconds": 0.25, "tokens": 64,
            "tokens_per_second": 256.0, "memory_mib": 99.5,
        }
    ]  # fmt: skip


def test_the_tiny_task_is_what_the_tests_say(mood: Path) -> None:
    """48 lines, half of them praise."""
    rows = jsonl.read(mood)
    assert len(rows) == 48
    assert sum(row["answer"] for row in rows) == 24
    assert all(tuple(row["candidates"]) == tiny.CANDIDATES for row in rows)


@pytest.mark.parametrize("change", [{"hold": 3}, {"truncate": True}, {"reward": "0" * 64}])
def test_what_a_run_depends_on_is_in_its_journal(run: RunFolder, change: dict[str, object]) -> None:
    """A run.json that disagrees is refused; an older journal, without the field, is not."""
    settings = replace(run.config.settings, **{k: v for k, v in change.items() if k == "hold"})  # type: ignore[arg-type]
    task = replace(run.config.task, **{k: v for k, v in change.items() if k == "truncate"})  # type: ignore[arg-type]
    reward = change.get("reward")
    config = replace(run.config, settings=settings, task=task, reward=reward)  # type: ignore[arg-type]
    assert config.began(config.header)
    assert not run.config.began(config.header)
    assert config.began(run.config.header) == ("reward" not in change)

"""Runs side by side, in lists, one after the other, and ended early."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zofx
from tests.runs.test_tune import finish, options
from zofx.api.training import origin_of
from zofx.errors import ArtifactError, UsageError
from zofx.runs.comparison import Parting, compare
from zofx.runs.listing import runs_in
from zofx.runs.prepare import Origin, prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.run_folder import RunFolder
from zofx.runs.tune import start, train


def made(artifact: Path, mood: Path, folder: Path, **given: Any) -> RunFolder:
    """A finished run."""
    return finish(start(prepare(artifact, options(mood, **given)), folder))[0].run


@pytest.fixture(scope="module")
def first(artifact: Path, mood: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return made(artifact, mood, tmp_path_factory.mktemp("runs") / "first")


def test_a_run_is_equal_to_itself(first: RunFolder) -> None:
    """No setting, no record and no value differs."""
    compared = compare(first, first)
    assert (compared.settings, compared.parting, compared.distance) == ({}, None, 0.0)
    assert compared.steps == (12, 12)
    assert sorted(compared.evaluations) == [0, 5, 10, 12]
    assert compared.moved
    assert compared.moved[0] > 0


def test_runs_part_where_their_records_do(
    first: RunFolder, artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """A schedule that ends elsewhere gives other rates from its second step on; θ differs by what
    float64 says."""
    other = made(artifact, mood, tmp_path / "other", schedule="linear", steps=6)
    again = made(artifact, mood, tmp_path / "again", schedule="linear", steps=12)
    rates = [run.journal().rows["learning_rate"] for run in (other, again)]
    compared = compare(other, again)
    assert compared.settings["steps"] == (6, 12)
    assert compared.parting == Parting(1, "learning_rate", (float(rates[0][1]), float(rates[1][1])))
    manifest = zofx.load(artifact).manifest
    thetas = [run.theta(artifact, manifest, 6)[1] for run in (other, again)]
    gaps = [np.float64(thetas[0][name]) - np.float64(thetas[1][name]) for name in thetas[0]]
    expected = np.sqrt(sum(float((gap**2).sum()) for gap in gaps))
    np.testing.assert_allclose(compared.distance, expected, rtol=1e-12)
    seeds = compare(first, made(artifact, mood, tmp_path / "seed", seed=1))
    assert seeds.parting
    assert (seeds.parting.step, seeds.parting.field) == (0, "losses")
    wide = made(artifact, mood, tmp_path / "wide", queries=2)
    assert compare(first, wide).parting == Parting(0, "queries and probes", ((1, 2), (2, 4)))


def test_every_run_has_a_line(first: RunFolder, tmp_path: Path, artifact: Path, mood: Path) -> None:
    """Finished, stopped, running and damaged; a folder that is one lists itself."""
    (row,) = runs_in(first.path)
    assert (row.state, row.steps, row.wanted, row.task) == ("finished", 12, 12, "mood.jsonl")
    assert row.method == "senszoq"
    assert row.best_step == first.best()
    stopped = start(prepare(artifact, options(mood)), tmp_path / "a" / "stopped")
    (tmp_path / "a" / "broken").mkdir()
    (tmp_path / "a" / "broken" / "run.json").write_text("{")
    broken, waiting = runs_in(tmp_path)
    assert (broken.state, waiting.state) == ("damaged", "stopped")
    assert "does not describe a run" in broken.reason
    assert waiting.to_dict()["best"] is None
    assert stopped.run
    with stopped.run.locked():
        assert [row.state for row in runs_in(tmp_path)] == ["damaged", "running"]
    with pytest.raises(UsageError, match="there is no folder"):
        runs_in(tmp_path / "nowhere")


def test_a_run_starts_from_the_result_of_another(
    first: RunFolder, artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """θ at step 0 is the other run's; resumed half-way, it is bit-equal; the task is inherited."""
    manifest = zofx.load(artifact).manifest
    _, theta = first.theta(artifact, manifest, 7)
    asked = {name: value for name, value in options(mood, lr=0.01).items() if name != "task"}
    prepared = prepare(artifact, asked, origin=Origin(first, 7))
    assert prepared.config.task == first.config.task
    whole = finish(start(prepared, tmp_path / "whole"))
    run = whole[0].run
    for name, values in run.theta(artifact, manifest, 0)[1].items():
        np.testing.assert_array_equal(values, theta[name])
    assert run.evaluations()[0] != first.evaluations()[0]
    halves = start(
        prepare(artifact, {**asked, "steps": 12}, origin=Origin(first, 7)), tmp_path / "h"
    )
    session = halves.session()
    train(halves, session, stop=_After(5))
    session.close()
    rest = finish(prepare_resumed(artifact, tmp_path / "h", {}))
    for name, values in rest[1].items():
        np.testing.assert_array_equal(values, whole[1][name])
    for name, values in run.theta(artifact, manifest, "last")[1].items():
        np.testing.assert_array_equal(values, whole[1][name])
    assert RunFolder.open(run.path).config == run.config
    (run.path / "start.safetensors").unlink()
    for cache in ("best", "last"):
        (run.path / f"{cache}.safetensors").unlink(missing_ok=True)
    with pytest.raises(ArtifactError, match="is lost or damaged: it holds what the run started"):
        run.theta(artifact, manifest, "last")


class _After:
    """Asks to stop after it was asked so often."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_where_a_run_starts_is_written_as_run_and_step(first: RunFolder, tmp_path: Path) -> None:
    """RUN, RUN@last, RUN@7; a name may hold an @."""
    path = first.path
    assert [origin_of(f"{path}{at}").step for at in ("", "@best", "@last", "@7")] == [
        "best", "best", "last", 7,
    ]  # fmt: skip
    (tmp_path / "a@b").symlink_to(path)
    assert origin_of(str(tmp_path / "a@b")).run.config == first.config
    with pytest.raises(UsageError, match="is not a run folder"):
        origin_of(str(tmp_path / "nowhere@3"))


def test_patience_ends_a_run_that_gets_no_better(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """It ends at the second evaluation that is no better than the best; resumed, it goes on."""
    prepared = start(prepare(artifact, options(mood, lr=1e-9, eval_every=2)), tmp_path / "run")
    session = prepared.session()
    outcome = train(prepared, session, patience=2)
    session.close()
    later = [step for step in outcome.evaluations if step > (outcome.best or 0)]
    assert len(later) == 2
    assert (outcome.out_of_patience, outcome.interrupted) == (True, False)
    assert outcome.steps == later[-1] < 12
    resumed = finish(prepare_resumed(artifact, tmp_path / "run", {}))[0]
    assert (resumed.steps, resumed.out_of_patience) == (12, False)

"""Snapshots on the way: how many, and that they are what a replay gives."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.test_tune import finish, options
from zofx.runs import snapshot_policy, training_loop, tune
from zofx.runs.prepare import prepare
from zofx.runs.snapshot_policy import BYTES, EVERY, FOLDER, interval
from zofx.zo.theta import digest


@given(st.integers(0, 10**7), st.integers(1, 2 * BYTES))
def test_all_fit_and_none_is_left_out_for_nothing(steps: int, size: int) -> None:
    """The least interval of its kind at which they fit."""
    every = interval(steps, size)
    if every is None:
        assert 2 * size > BYTES
        return
    assert steps // every * size <= BYTES
    assert every == EVERY or steps // (every // 2) * size > BYTES


def test_the_demo_is_500_steps_from_a_snapshot() -> None:
    """Its 106,168 trainables, after 20,000 steps: 40 files, 17 MB."""
    assert interval(20_000, 4 * 106_168) == 500


def test_theta_is_the_same_with_and_without(
    artifact: Path, mood: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step; files of another run or damaged ones are passed over."""
    for module in (snapshot_policy, training_loop):
        monkeypatch.setattr(module, "EVERY", 3)
    outcome, theta = finish(tune.start(prepare(artifact, options(mood)), tmp_path / "run"))
    run, folder = outcome.run, outcome.run.path / FOLDER
    kept = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    assert [path.stem for path in kept] == ["3", "6", "9", "12"]
    manifest = prepare(artifact, options(mood)).model.manifest
    for name in ("best", "last"):
        (run.path / f"{name}.safetensors").unlink()
    near = [digest(run.theta(artifact, manifest, step)[1]) for step in range(13)]
    assert near[12] == digest(theta)
    kept[1].write_bytes(kept[2].read_bytes())
    kept[3].write_bytes(b"damaged")
    assert [digest(run.theta(artifact, manifest, step)[1]) for step in (6, 8, 12)] == [
        near[6], near[8], near[12],
    ]  # fmt: skip
    for path in kept:
        path.unlink()
    assert [digest(run.theta(artifact, manifest, step)[1]) for step in range(13)] == near


def test_fewer_are_kept_as_a_run_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other one goes when they no longer fit."""
    monkeypatch.setattr(snapshot_policy, "EVERY", 1)
    monkeypatch.setattr(snapshot_policy, "BYTES", 4 * 40)
    theta = {"a": np.zeros(10, np.float32)}
    for step in range(1, 13):
        snapshot_policy.keep(tmp_path, theta, step, "d")
    assert sorted(int(p.stem) for p in (tmp_path / FOLDER).iterdir()) == [4, 8, 12]

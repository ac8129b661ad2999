"""Merging a run into an artifact: the same answers bit by bit, and a start for the next run."""

from pathlib import Path

import numpy as np
import pytest

import zofx
from tests.compiled import run_zofx
from tests.runs.export.conftest import SHORT
from zofx.artifact.manifest import read_manifest, read_trainables
from zofx.errors import UsageError
from zofx.runs.export.merged_artifact import merge
from zofx.runs.export.subject import Subject


def test_a_merged_artifact_begins_where_the_run_ended(
    lora: Subject, mood: Path, tmp_path: Path
) -> None:
    """θ bit by bit, the run's evaluation without the run, and it trains on."""
    manifest = merge(lora, tmp_path / "art")
    assert read_manifest(tmp_path / "art").hash == manifest.hash != lora.manifest.hash
    assert manifest.report["merged"]["journal"] == lora.journal_hash
    for name, values in read_trainables(tmp_path / "art").items():
        np.testing.assert_array_equal(values, lora.theta[name])
    art = zofx.load(tmp_path / "art")
    assert lora.run is not None
    first = zofx.load(lora.folder).evaluate(mood, run=lora.run.path, step="last", split="train")
    again = art.evaluate(mood, split="train")
    assert (again.loss, again.classes) == (first.loss, first.classes)
    run = art.tune(mood, out=tmp_path / "run", seed=1, **SHORT)
    assert run.steps == 4


def test_merging_takes_a_run(lora: Subject, tmp_path: Path) -> None:
    """Without one there is nothing to merge, and nothing is written."""
    with pytest.raises(UsageError, match="merging takes a run"):
        merge(Subject.of(lora.folder), tmp_path / "art")
    assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_it(lora: Subject, tmp_path: Path) -> None:
    """`zofx merge` says what it made, and leaves what has its name."""
    assert lora.run is not None
    words = ("merge", lora.folder, "--run", lora.run.path, "--step", "last", "-o", "art")
    made = run_zofx(*words, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert f"at step 4 of {lora.run.path}" in made.stdout
    refused = run_zofx(*words, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "exists already" in refused.stderr

"""What a report reads of a run is what the run wrote."""

import json
import shutil
from pathlib import Path

import pytest

from zofx.runs import jsonl
from zofx.runs.report.history import Change, History, changes, history


def test_every_step_is_read_from_the_journal(runs: tuple[History, History]) -> None:
    """Losses are those of the log; the gap is that of the probes; the pre-flight is the run's."""
    one, _ = runs
    logged = [row["loss"] for row in jsonl.read(one.run.metrics_path)]
    assert [step.loss for step in one.steps] == logged
    losses = one.run.journal().rows["losses"]
    assert one.steps[5].gap == pytest.approx(abs(losses[5, 0] - losses[5, 1]), rel=1e-6)
    assert one.preflight is not None
    assert one.preflight.eps == 0.01
    assert one.seconds > 0
    assert one.sizes["weights.safetensors"] > one.sizes["trainables.safetensors"] > 0
    assert [name for name, _, _ in one.stages][-1] == "narrow-vocabulary"


def test_a_run_without_its_artifact_is_read(runs: tuple[History, History], tmp_path: Path) -> None:
    """A folder that was copied elsewhere, its log lost: the journal has the steps."""
    copied = shutil.copytree(runs[0].run.path, tmp_path / "copied")
    (copied / "metrics.jsonl").unlink()
    fields = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**fields, "folder": "/gone"}))
    read = history(copied)
    assert (read.artifact, read.manifest, read.stages, read.sizes) == (None, None, [], {})
    assert read.steps == runs[0].steps
    assert read.method == fields["artifact"][:12]


def test_changes_are_the_answers_that_differ() -> None:
    """Examples in the order of dev; text where text was written."""
    asked = {
        step: [{"prompt": p, "gold": "x", "answer": a} for p, a in zip("ab", answers, strict=True)]
        for step, answers in ((0, "xy"), (7, "xx"))
    }
    assert changes(asked.__getitem__, 7) == [Change("b", "x", "y", "x")]
    texts = {s: [{"prompt": "q", "gold": ["a", "b"], "text": t}] for s, t in ((0, "c"), (3, "a"))}
    assert changes(texts.__getitem__, 3) == [Change("q", "a | b", "c", "a")]

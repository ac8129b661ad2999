"""Training from a layer on: what is kept on disk changes no bit of a run, only what is computed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from tests.artifacts import made_up_scores
from tests.compiled import run_zofx
from zofx.artifact.manifest import read_manifest
from zofx.artifact.merge import merged_tensors
from zofx.compiler.compile import compile_model
from zofx.compiler.frontend import captured
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options, pipeline_for
from zofx.errors import PipelineError
from zofx.ir.partition import split
from zofx.ir.pipeline import Pipeline
from zofx.ir.program import Program
from zofx.ir.schema import UPDATED_ROLES
from zofx.models.checkpoint import open_checkpoint
from zofx.passes import PASSES
from zofx.runs.prepare import Prepared, prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.tune import start, train
from zofx.runtimes import RUNTIMES
from zofx.runtimes.host.activation_cache import ActivationCache
from zofx.runtimes.host.engine_session import EngineSession
from zofx.zo.types import FloatArray

SETTINGS: Mapping[str, Any] = {"steps": 8, "batch_size": 4, "lr": 0.03, "eps": 0.01}
TRAIN, DEV = 12, 4
ROWS = TRAIN + DEV
"""An example is one row: both candidates are a token."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers."""
    return tiny.tiny_llama(tmp_path_factory.mktemp("two") / "llama", layers=2)


@pytest.fixture(scope="session")
def cut(checkpoint: Path) -> Path:
    """The second one trains."""
    source = open_checkpoint(str(checkpoint))
    options = Options(quant="int4", fraction=0.05, from_layer=1)
    out = checkpoint.parent / "art"
    compile_model(source, METHODS["senszoq"], out, scores=made_up_scores(source), options=options)
    return out


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A model of three layers."""
    folder = tiny.tiny_llama(tmp_path_factory.mktemp("three") / "llama", layers=3)
    return captured(open_checkpoint(str(folder)), Options())


def options(mood: Path, runtime: str = "ort") -> dict[str, Any]:
    return {
        "task": mood, "runtime": runtime, "threads": 1, **SETTINGS, "train": TRAIN, "dev": DEV,
        "eval_every": 4,
    }  # fmt: skip


def finish(
    prepared: Prepared, kept: ActivationCache | None
) -> tuple[bytes, dict[str, FloatArray], int]:
    """Train; returns the journal, θ, and how many rows were computed below the cut."""
    session = prepared.session()
    assert isinstance(session, EngineSession)
    assert session.frozen_prefix is not None
    outcome = train(prepared, session, activations=kept)
    theta, computed = session.read(), session.frozen_prefix.computed
    session.close()
    return outcome.run.journal_path.read_bytes(), theta, computed


def test_only_the_layers_from_there_train(cut: Path) -> None:
    """HostTheta are of layer 1 and of the head; the layer below is whole in what is merged."""
    manifest = read_manifest(cut)
    assert manifest.trainables
    assert all(".layers.1." in name or "lm_head" in name for name in manifest.trainables)
    assert {"prefix.json", "prefix.onnx"} <= manifest.files.keys()
    layers = {name.split(".")[2] for name, _ in merged_tensors(cut) if ".layers." in name}
    assert layers == {"0", "1"}


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_run_that_keeps_activations_is_bit_equal(
    cut: Path, mood: Path, tmp_path: Path, runtime: str
) -> None:
    """Same journal, same θ; each row is computed once however often it is seen, or not at all."""
    asked = options(mood, runtime)
    journal, theta, every_time = finish(start(prepare(cut, asked), tmp_path / "plain"), None)
    runs = []
    for name in ("first", "second"):
        kept = ActivationCache(tmp_path / "kept")
        runs.append(finish(start(prepare(cut, asked), tmp_path / name), kept))
        assert kept.disabled_reason is None
    for own_journal, values, _ in runs:
        assert own_journal == journal
        for slice_, wanted in theta.items():
            np.testing.assert_array_equal(values[slice_], wanted)
    assert every_time == 8 * 4 + 3 * DEV
    assert runs[0][2] <= ROWS
    assert runs[1][2] == 0


def test_a_full_folder_changes_no_bit(cut: Path, mood: Path, tmp_path: Path) -> None:
    """Some rows are kept, the others computed every time."""
    whole = finish(start(prepare(cut, options(mood)), tmp_path / "plain"), None)
    small = ActivationCache(tmp_path / "kept", 6_000)
    part = finish(start(prepare(cut, options(mood)), tmp_path / "part"), small)
    assert small.disabled_reason is not None
    assert part[0] == whole[0]
    assert ROWS < part[2] < whole[2]


def test_tune_keeps_them_in_the_run(cut: Path, mood: Path, tmp_path: Path) -> None:
    """By default; a resumed run goes on with them; `none` keeps none; the runs are the same."""
    words = [
        "--task", mood, "--steps", "4", "--batch-size", "4", "--train", "12", "--dev", "0",
        "--threads", "1", "--lr", "0.03",
    ]  # fmt: skip
    for out, more in (("run", []), ("off", ["--activation-cache", "none"])):
        done = run_zofx("tune", cut, *words, *more, "-o", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    kept = sorted(path.name for path in (tmp_path / "run" / "activations").iterdir())
    assert 0 < len(kept) <= 12
    assert not (tmp_path / "off" / "activations").exists()
    journals = {(tmp_path / out / "journal.bin").read_bytes() for out in ("run", "off")}
    assert len(journals) == 1
    going_on = finish(
        prepare_resumed(cut, tmp_path / "run", {}),
        ActivationCache(tmp_path / "run" / "activations"),
    )
    assert going_on[2] == 0
    file = tmp_path / "file"
    file.write_text("")
    refused = run_zofx("tune", cut, *words, "--activation-cache", file, "-o", "new", cwd=tmp_path)
    assert refused.returncode
    assert "no activations can be kept in" in refused.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", ["lozo", "lora-fa", "forward-grad", "zo-hybrid", "qzo"])
def test_every_kind_of_method_can(traced: Program, method: str) -> None:
    """Thin tensors, adapters, tangents, exact gradients, scales: the first layer is cut off."""
    compiled = pipeline_for(METHODS[method], Options(from_layer=1)).run(traced)
    prefix, remainder = split(compiled)
    assert prefix is not None
    assert {name.split(".")[2] for name in prefix.tensors if ".layers." in name} == {"0"}
    moving = {s.name for s in compiled.tensors.values() if s.role in UPDATED_ROLES}
    assert moving <= remainder.tensors.keys()
    assert not any(".layers.0." in name for name in remainder.tensors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(train="prefix", from_layer=1), "a prefix stands before the text"),
        (Options(train="prompt", from_layer=1), "a prompt stands before the text"),
    ],
)
def test_what_stands_before_the_text_is_refused(options: Options, message: str) -> None:
    """Before anything is read: every layer sees it."""
    with pytest.raises(PipelineError, match=message):
        pipeline_for(METHODS["mezo"], options)


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_a_layer_that_is_not_there_is_refused(traced: Program, layer: int) -> None:
    """With those that are."""
    with pytest.raises(PipelineError, match="the first to train is one from 1 to 2"):
        pipeline_for(METHODS["mezo"], Options(from_layer=layer)).run(traced)


def test_what_would_train_nothing_is_refused(traced: Program) -> None:
    """A regular expression that matches parameters of the prefix alone."""
    options = Options(train="layers.0", from_layer=1)
    with pytest.raises(PipelineError, match=r"finds none of the model's \d+ parameters"):
        pipeline_for(METHODS["mezo"], options).run(traced)


def test_the_pipeline_says_both() -> None:
    """Freezing comes first, the cut last; the text reads back."""
    pipeline = pipeline_for(METHODS["senszoq"], Options(from_layer=7))
    names = [item.name for item in pipeline.passes]
    assert names[:3] == ["canonicalize", "narrow-positions", "freeze-layers"]
    assert names[-1] == "cut-frozen-prefix"
    assert Pipeline.parse(str(pipeline), PASSES) == pipeline
    assert "freeze-layers{below=7}" in str(pipeline)

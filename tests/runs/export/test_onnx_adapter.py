"""ONNX Runtime alone: graph.onnx and an adapter answer as the session does, bit by bit."""

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.loads import Load, batch
from zofx.api.export import export
from zofx.runs.export.subject import Subject
from zofx.runtimes import RUNTIMES
from zofx.session import unperturbed

ASKED = Load("three rows", batch(3, 9, 2, 3, "left"), unperturbed())


@pytest.mark.parametrize("name", ["lora", "transposed", "sparse"])
def test_a_stock_engine_answers_as_the_session_does(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By both ways in: as inputs, and as an active adapter of a run."""
    subject: Subject = request.getfixturevalue(name)
    export(subject, "onnx-adapter", tmp_path / "out")
    file = str(tmp_path / "out" / "model.onnx_adapter")
    session = RUNTIMES["ort"].load(subject.folder, threads=1)
    session.write(subject.theta)
    wanted = ASKED.on(session)
    session.close()

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = logging.CRITICAL // 10 - 1, 1
    engine = onnxruntime.InferenceSession(subject.folder / "graph.onnx", options)
    rows = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(value)
        for name, value in ASKED.batch.named().items()
    }
    given = onnxruntime.AdapterFormat.read_adapter(file).get_parameters()
    (fed,) = engine.run_with_ort_values(None, {**rows, **given})
    np.testing.assert_array_equal(fed.numpy(), wanted)

    adapter, run = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    adapter.Load(file)
    run.add_active_adapter(adapter)
    # The Python wrapper asks for every input itself; other languages call what is below it.
    (active,) = engine._sess.run(["logprob"], ASKED.batch.named(), run)
    np.testing.assert_array_equal(active, wanted)


def test_the_card_shows_how(lora: Subject, tmp_path: Path) -> None:
    """The example names the files that are there."""
    export(lora, "onnx-adapter", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "AdapterFormat.read_adapter" in text
    assert f"SHA-256 {lora.manifest.hash}" in text

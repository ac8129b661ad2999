"""What is exported, and that a machine which only trains can: no torch, no transformers."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiled import environment
from zofx.errors import UsageError
from zofx.runs.export.subject import Subject

WITHOUT = """
import sys
for name in ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "huggingface_hub", "gguf"):
    sys.modules[name] = None  # importing it is an error
from zofx.cli import main
main()
"""


def without_torch(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`zofx …` where the compiler's libraries are not installed."""
    command = [sys.executable, "-c", WITHOUT, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)


def test_a_machine_that_trains_can_export(lora: Subject, tmp_path: Path) -> None:
    """An adapter, an ONNX Runtime adapter, an artifact and a report, made without torch."""
    assert lora.run is not None
    what = (lora.folder, "--run", lora.run.path, "--step", "last")
    for words in (
        ("export", *what, "--to", "peft", "-o", "peft"),
        ("export", *what, "--to", "onnx-adapter", "-o", "ort"),
        ("merge", *what, "-o", "art"),
        ("merge", lora.folder, "--adapter", "peft", "-o", "again"),
        ("report", lora.run.path, "-o", "report.html"),
    ):
        made = without_torch(*words, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
    refused = without_torch("export", *what, "--to", "hf", "-o", "hf", cwd=tmp_path)
    assert refused.returncode == 1
    assert "pip install 'zofx[compile]'" in refused.stderr
    made_there = {"peft", "ort", "art", "again", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == made_there


def test_it_says_what_it_is(lora: Subject) -> None:
    """The step, the hashes, the formats; without a run, that there is none."""
    assert lora.run is not None
    assert lora.step == 4
    assert lora.journal_hash == lora.run.journal().digest(4)
    assert lora.stored_as == ("int8",)
    assert str(lora) == f"step 4 of {lora.run.path}"
    bare = Subject.of(lora.folder)
    assert (bare.journal_hash, str(bare)) == (None, "the model as compiled")


def test_a_run_of_another_artifact_is_refused(lora: Subject, transposed: Subject) -> None:
    """θ has a meaning only on its own artifact."""
    with pytest.raises(UsageError, match="was made with artifact"):
        Subject.of(lora.folder, transposed.run)

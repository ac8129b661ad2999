"""DirectionSpec 9: an environment without torch loads an artifact and trains it on ONNX Runtime.

    here:        tiny model ──zofx compile──▶ artifact
    .venv-lean:  artifact ──zofx eval, zofx tune──▶ run folder
    here:        journal ──replay on torch──▶ θ, bit-equal to the θ that the run left

`make install` makes .venv-lean: the base dependencies and onnxruntime. The wheel of this source is
installed beside it for the test, so its console script is what a user would run.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.distribution import ROOT, Built, install
from zofx.runs.run_folder import RunFolder
from zofx.runtimes import RUNTIMES
from zofx.zo.journal.replay import replay

PYTHON = ROOT / ".venv-lean" / "bin" / "python"
ABSENT = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "bitsandbytes", "gguf")
STEPS = 4

pytestmark = pytest.mark.skipif(
    not PYTHON.exists() and not os.environ.get("CI"),
    reason="there is no .venv-lean; `make install` makes it",
)


@dataclass(frozen=True)
class Lean:
    """The lean environment with this source's wheel.

    Attributes:
        site: where the wheel is installed.
    """

    site: Path

    def run(self, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment to its end."""
        environment = {**os.environ, "PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    def zofx(self, *arguments: str | Path, cwd: Path) -> str:
        """Run a verb; what it printed."""
        result = self.run(self.site / "bin" / "zofx", *arguments, cwd=cwd)
        assert result.returncode == 0, result.stderr
        return result.stdout


@pytest.fixture(scope="module")
def lean(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Lean:
    """The environment, without torch for certain."""
    site = tmp_path_factory.mktemp("site")
    install(PYTHON, built.wheel, "--target", site)
    code = f"from importlib.util import find_spec; print([n for n in {ABSENT} if find_spec(n)])"
    assert Lean(site).run(PYTHON, "-c", code, cwd=site).stdout == "[]\n"
    return Lean(site)


def test_help_and_lists_need_no_torch(lean: Lean, tmp_path: Path) -> None:
    """The command line explains itself; what it lists is what there is."""
    assert "tune" in lean.zofx("--help", cwd=tmp_path)
    assert "senszoq" in lean.zofx("list", "methods", cwd=tmp_path)
    assert "trec" in lean.zofx("list", "tasks", cwd=tmp_path)


def test_it_trains_and_the_journal_replays_elsewhere(
    lean: Lean, artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """A run made without torch, judged before and after; torch replays it to the same bits of θ."""
    task = ("--task", mood, "--runtime", "ort")
    before = json.loads(lean.zofx("eval", artifact, *task, "--json", cwd=tmp_path))
    numbers = ("--steps", str(STEPS), "--batch-size", "4", "--lr", "1e-3", "--eps", "1e-2")
    lean.zofx("tune", artifact, *task, *numbers, "-o", "run", cwd=tmp_path)
    after = json.loads(lean.zofx("eval", artifact, "--run", "run", "--json", cwd=tmp_path))
    assert before["examples"] == after["examples"] > 0

    run = RunFolder.open(tmp_path / "run")
    last = load_file(run.path / "last.safetensors")
    session = RUNTIMES["torch"].load(artifact)
    start = session.read()
    assert replay(session, run.journal()) == STEPS
    for name, values in session.read().items():
        np.testing.assert_array_equal(values, last[name])
        assert not np.array_equal(values, start[name])


def test_compiling_says_what_to_install(lean: Lean, assets: Path, tmp_path: Path) -> None:
    """A verb that needs torch ends with one clear error, and writes nothing."""
    verb = ("compile", assets / "llama", "-o", "new")
    result = lean.run(lean.site / "bin" / "zofx", *verb, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert "zofx[compile]" in result.stderr
    assert list(tmp_path.iterdir()) == []

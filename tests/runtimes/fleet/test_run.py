"""A run of a fleet from the command line: its head killed, gone on with alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.compiled import environment, run_zofx
from zofx.errors import UnsupportedError, UsageError
from zofx.runs.compiled_model import open_model, open_session
from zofx.runs.run_config import Engine
from zofx.runs.run_folder import RunFolder
from zofx.zo.theta import digest

WORDS = [
    "--runtime", "ort", "--threads", "1", "--steps", "60", "--batch-size", "4", "--lr", "1e-3",
    "--eps", "0.01", "--eval-every", "30", "--schedule", "constant", "--no-preflight",
]  # fmt: skip


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def children(name: str) -> list[int]:
    """Processes of Ray that know this run's folder of logs, by the environment they have."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and name.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")
def test_a_killed_head_leaves_nothing_and_is_resumed_alone(
    artifact: Path, mood: Path, tmp_path: Path
) -> None:
    """Its workers end with it; θ of the whole run is what the journal replays to."""
    run, mark = tmp_path / "run", f"zofx-test-{os.getpid()}-{time.time_ns()}"
    words = ["tune", str(artifact), "--task", str(mood), *WORDS, "--fleet", "2", "-o", str(run)]
    head = subprocess.Popen(
        [sys.executable, "-m", "zofx", *words], cwd=tmp_path, stdout=subprocess.DEVNULL,
        env={**environment(), "ZOFX_TEST_MARK": mark},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while len(lines(run / "metrics.jsonl")) < 3 and time.monotonic() < deadline:
            assert head.poll() is None
            time.sleep(0.02)
        head.send_signal(signal.SIGKILL)
        head.wait()
    finally:
        head.kill()
    while children(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert children(mark) == []
    made = [json.loads(line) for line in lines(run / "metrics.jsonl")]
    assert set(made[-1]["workers"]) <= {"worker 0 (ort)", "worker 1 (ort)"}
    assert 3 <= len(made) < 60
    resumed = run_zofx("tune", artifact, "--resume", run, "--fleet", "none", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    folder, model = RunFolder.open(run), open_model(artifact)
    kept = folder.theta(artifact, model.manifest, 60)[1]
    for snapshot in run.glob("*.safetensors"):
        snapshot.unlink()
    assert digest(folder.theta(artifact, model.manifest, 60)[1]) == digest(kept)


@pytest.mark.parametrize(
    ("fleet", "split", "message"),
    [("two", "auto", "is no number of workers"), ("2", "rings", "--fleet-split rings: there are")],
)
def test_no_such_fleet(artifact: Path, fleet: str, split: str, message: str) -> None:
    """Refused before any process is started."""
    with pytest.raises(UsageError, match=message):
        open_session(open_model(artifact), Engine("ort", fleet=fleet, fleet_split=split))


def test_without_ray(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.delitem(sys.modules, "zofx.runtimes.fleet.runtime", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'zofx\[fleet\]'"):
        open_session(open_model(artifact), Engine("ort", fleet="2"))

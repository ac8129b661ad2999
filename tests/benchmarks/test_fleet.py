"""The fleet's benchmark runs, and records what it says."""

import json
from pathlib import Path

import pytest

from benchmarks.fleet.__main__ import main


def test_a_fleet_is_timed_against_one_session(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Overhead, bytes and speed-up of the same path; θ agrees, else nothing would be written."""
    out = tmp_path / "fleet.json"
    assert (
        main([str(artifact), "--rows", "4", "--tokens", "8", "--steps", "4", "-o", str(out)]) == 0
    )
    result = json.loads(out.read_bytes())["result"]
    assert len(result["one_worker"]["differences"]) == len(result["workers"]["ratios"]) == 4
    assert min(result["workers"]["ratios"]) > 0
    assert 4 * 8 * 8 < result["bytes_per_step"] < 64 * 1024  # more than the tokens alone
    assert "overhead of one worker, ms" in capsys.readouterr().out

"""Several runs through the command line: listed, compared, one from the other, ended early."""

import json
import re
from pathlib import Path

from tests.compiled import run_zofx

TUNE = ("--batch-size", "4", "--lr", "0.03", "--eps", "0.01", "--no-preflight", "--eval-every", "2")


def test_two_stages(artifact: Path, assets: Path, tmp_path: Path) -> None:
    """tune → tune --from → runs → diff, each as text and as JSON."""
    one = (
        "tune",
        artifact,
        "--task",
        assets / "mood.jsonl",
        "--steps",
        "4",
        *TUNE,
        "-o",
        "runs/one",
    )
    assert run_zofx(*one, cwd=tmp_path).returncode == 0
    two = ("tune", artifact, "--from", "runs/one@last", "--steps", "6", *TUNE, "-o", "runs/two")
    second = run_zofx(*two, "--patience", "1", "--lr", "1e-9", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "starting from step 4 of" in second.stderr
    assert "ended early: no evaluation after" in second.stdout
    ended = re.search(r"runs/two: (\d) of 6 steps", second.stdout)
    assert ended
    listed = run_zofx("runs", cwd=tmp_path).stdout
    assert "runs/one  finished  4 of 4" in listed
    assert f"runs/two  stopped   {ended[1]} of 6" in listed
    rows = json.loads(run_zofx("runs", "runs", "--json", cwd=tmp_path).stdout)
    assert [row["task"] for row in rows] == ["mood.jsonl"] * 2
    text = run_zofx("diff", "runs/one", "runs/two", cwd=tmp_path).stdout
    assert "records part at step 0: learning_rate" in text
    fields = json.loads(run_zofx("diff", "runs/one", "runs/two", "--json", cwd=tmp_path).stdout)
    assert fields["settings"]["lr"] == [0.03, 1e-9]
    assert fields["theta_distance"] > 0
    back = run_zofx("rewind", "runs/one", "--step", "2", "-o", "runs/back", cwd=tmp_path)
    assert (back.returncode, "the first 2 steps of runs/one" in back.stdout) == (0, True)
    asked = ("--metric", "loss", "--good", "0", "--threshold", "1e9")
    none = run_zofx("bisect", "runs/one", *asked, cwd=tmp_path)
    assert (none.returncode, "the metric did not fall below" in none.stderr) == (2, True)
    other = ("tune", artifact, "--from", "runs/one", "--steps", "1", "--seed", "1", *TUNE)
    assert "what is dev now may be what that run" in run_zofx(*other, cwd=tmp_path).stderr
    both = run_zofx("tune", artifact, "--from", "runs/one", "--resume", "runs/one", cwd=tmp_path)
    assert (both.returncode, "give one of the two" in both.stderr) == (2, True)
    assert "there are no runs" in run_zofx("runs", artifact, cwd=tmp_path).stdout

"""The step benchmark from a command line to its table, and who fails on the way; no timings."""

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.step import __main__ as script
from benchmarks.step import contestants, match
from benchmarks.step.clock import Clock
from benchmarks.step.match import Child, ContestantError, Protocol
from tests import loads
from tests.benchmarks.steps import job
from zofx.runtimes import RUNTIMES
from zofx.zo.random import noise
from zofx.zo.random.philox import WordArray
from zofx.zo.types import Key, Ray


def words(assets: Path, folder: Path, *more: str) -> list[str]:
    """A command line on the tiny model and task."""
    return [
        "--model", f"tiny={assets / 'llama'}", "--calibration", str(assets / "text.txt"),
        "--cases", f"tiny:{assets / 'mood.jsonl'}:4", "--methods", "senszoq@ort",
        "--peers", "mezo", "bare", "--rounds", "2", "--threads", "1",
        "--work", str(folder / "work"), "-o", str(folder / "result.json"), *more,
    ]  # fmt: skip


def test_a_case_from_the_model_to_the_table(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Everyone takes the steps of one batch; a second call measures nothing, a changed one ends."""
    code = script.main(words(assets, tmp_path))
    results = json.loads((tmp_path / "result.json").read_bytes())
    assert results["machine"]["versions"]["torch"]
    (case,) = results["cases"]
    assert case["failed"] == case["left_out"] == []
    assert case["shape"]["candidates"] == 2
    assert case["shape"]["rows"] == case["shape"]["batch"] == 4
    zofx, mezo, bare = case["contestants"]
    assert [row["contestant"] for row in (zofx, mezo, bare)] == [
        "senszoq int4 ort", "MeZO", "inference int4",
    ]  # fmt: skip
    for row in (zofx, mezo, bare):
        assert len(row["seconds"]) == 2
        assert row["min"] <= row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
        assert 0 < row["before_bytes"] <= row["peak_bytes"]
    assert mezo["stand_in"]
    assert not zofx["stand_in"]
    assert set(zofx["shares"]) == {"encode", "forward", "journal", "log", "move", "z"}
    assert 0 < sum(zofx["shares"].values()) < 1
    # one batch and one model: 4-bit weights and ε apart, 1 % of a loss near log 2 here
    assert zofx["first_loss"] == pytest.approx(mezo["first_loss"], rel=0.05)
    assert bare["first_loss"] == pytest.approx(mezo["first_loss"], rel=0.05)
    assert {bar["contestant"] for bar in case["bars"]} == {"senszoq int4 ort"}
    assert len(case["bars"]) == 4
    assert code == (0 if all(bar["kept"] for bar in case["bars"]) else 1)
    output = capsys.readouterr().out
    assert "MeZO (stand-in)" in output

    monkeypatch.setattr(script, "measured", None)
    assert script.main(words(assets, tmp_path)) == code
    assert capsys.readouterr().out == output
    assert script.main(words(assets, tmp_path, "--rounds", "3")) == 2
    assert "made with another rounds" in capsys.readouterr().err


PAUSE = 0.002

SCRIPTED = """
import os, sys
from benchmarks.step.turns import Turns
turns = Turns.claim()
print("noise", flush=True)
os.write(1, b"more noise")
turns.job()
turns.introduce(made_by="", before_bytes=1)
for step in range(3):
    turns.wait()
    if step == 1:
        {what}
    turns.done([0.5, 0.7])
"""


def scripted(folder: Path, what: str) -> Child:
    """A child that does something in its second step."""
    code = SCRIPTED.format(what=what)
    return Child(job(), folder / "log", (sys.executable, "-c", code))


@pytest.mark.parametrize("runtime", ["ort", "torch"])
def test_all_that_is_drawn_counts_as_z(
    runtime: str, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a forward, and for a move along what was not kept."""
    clock, drawn = Clock(), 0.0

    class Undone(Clock):
        def watch(self, owner: Any, name: str, label: str) -> None:
            monkeypatch.setattr(owner, name, clock.timed(getattr(owner, name), label))

    def slow(*args: Any) -> WordArray:
        nonlocal drawn
        drawn += PAUSE
        time.sleep(PAUSE)
        return words_of(*args)

    words_of = noise._words
    monkeypatch.setattr(noise, "_words", slow)
    with closing(RUNTIMES[runtime].load(artifact)) as session:
        contestants._watch(Undone(), session, runtime)
        session.evaluate(loads.batch(2, 8, 1, 2), [Key(0, 0)], np.ones((2, 1), np.float32))
        session.move([Ray(Key(0, 1), 0.5)])
    assert drawn >= 2 * PAUSE * len(session.trainables)
    assert clock.take()["z"] >= drawn


def test_noise_on_standard_output_is_no_answer(tmp_path: Path) -> None:
    """The protocol has the pipe for itself; what is printed is in the log."""
    with scripted(tmp_path, "pass") as child:
        assert child.begin() == {"made_by": "", "before_bytes": 1}
        reply = child.step()
    assert reply["losses"] == [0.5, 0.7]
    assert reply["seconds"] >= 0
    assert "noisemore noise" in (tmp_path / "log").read_text().replace("\n", "")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("os._exit(3)", r"MeZO ended with code 3; its log, .*log, ends:"),
        ("os.kill(os.getpid(), 9)", r"MeZO was ended by signal 9; there may have been too little"),
        ("sys.exit('no such thing')", r"(?s)MeZO ended with code 1; .*no such thing"),
    ],
)
def test_a_child_that_ends_is_reported(tmp_path: Path, what: str, message: str) -> None:
    """With how it ended, and the end of its output."""
    with scripted(tmp_path, what) as child:
        child.begin()
        child.step()
        with pytest.raises(ContestantError, match=message):
            child.step()


def test_a_contestant_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of one is recorded with its words; the rounds of the others are whole."""
    monkeypatch.setattr(match, "PAUSE", 0.0)
    real, plain = match.Child, scripted(tmp_path, "pass")
    monkeypatch.setattr(
        match, "Child", lambda job, *more: plain if job.task == "x" else real(job, *more)
    )
    rows, failed = match.measured([job(), job(task="x")], Protocol(2, 1), tmp_path)
    (row,) = rows
    assert len(row["seconds"]) == 2
    assert row["stand_in"]
    (failure,) = failed
    assert failure["contestant"] == "MeZO"
    assert "UsageError" in failure["error"] or "ArtifactError" in failure["error"]
    assert "nowhere" in failure["error"]

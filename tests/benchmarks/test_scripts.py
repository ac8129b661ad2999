"""The benchmarks run, write what they promise, and fail where they should."""

import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import engine_options
from tests.compiled import ROOT, environment, run_zofx
from zofx.compiler.sensitivity.rank import rank_on_text
from zofx.compiler.sensitivity.scores import load_scores
from zofx.models.checkpoint import open_checkpoint
from zofx.runtimes import ort
from zofx.runtimes.host import theta
from zofx.zo.types import Key

SCRIPTS = ROOT / "benchmarks"
DIGEST = 64  # hex digits of SHA-256


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module: a process of its own would only import torch once more."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import accuracy

    return accuracy


def words(assets: Path, folder: Path, *more: str) -> list[str]:
    """A command line of the accuracy benchmark on the tiny model."""
    return [
        str(assets / "llama"), "--calibration", str(assets / "text.txt"),
        "--task", str(assets / "mood.jsonl"), "--quant", "int4", "--fraction", "0.05",
        "--steps", "6", "--batch-size", "4", "--lr", "0.03", "--eps", "0.01", "--eval-every", "3",
        "--threads", "1", "-o", str(folder / "result.json"), "--work", str(folder / "work"), *more,
    ]  # fmt: skip


def test_accuracy_before_and_after(
    accuracy: ModuleType, assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds: judged, replayed on torch to the bit, one exported; a lost one is made again."""
    assert accuracy.main(words(assets, tmp_path, "--seeds", "0", "1")) == 0
    output = capsys.readouterr().out
    results = json.loads((tmp_path / "result.json").read_bytes())
    assert results["machine"]["versions"]["torch"]
    assert results["protocol"]["steps"] == 6
    first, second = results["runs"]
    for run in (first, second):
        low, high = run["best"]["interval95"]
        assert low < run["best"]["accuracy"] < high
        assert run["best"]["examples"] == results["compiled"]["int4"]["before"]["examples"] == 9
        assert [row["step"] for row in run["dev"]] == [0, 3, 6]
        assert run["seconds_per_step"] > 0
        assert run["theta_sha256"]["ort"] == run["theta_sha256"]["torch"]
        assert len(run["theta_sha256"]["ort"]) == DIGEST
    assert first["theta_sha256"] != second["theta_sha256"]
    assert first["transformers"]["differing_answers"] == 0
    assert first["transformers"]["correct"] == first["best"]["correct"]
    assert "transformers" not in second
    assert "mean of 2 seeds" in output

    # As after a kill in the middle of the second run: its row is missing, its journal is short.
    (tmp_path / "result.json").write_text(json.dumps({**results, "runs": [first]}))
    journal = tmp_path / "work" / "int4-seed1" / "journal.bin"
    os.truncate(journal, journal.stat().st_size - 1)
    assert accuracy.main(words(assets, tmp_path, "--seeds", "0", "1")) == 0
    again = json.loads((tmp_path / "result.json").read_bytes())["runs"]
    assert again[0] == first
    assert again[1]["theta_sha256"] == second["theta_sha256"]
    assert again[1]["last"]["loss"] == second["last"]["loss"]

    _refuses_what_does_not_fit(accuracy, assets, tmp_path, capsys)
    _notices_another_theta(accuracy, assets, tmp_path, capsys)


def _refuses_what_does_not_fit(
    accuracy: ModuleType, assets: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results of other settings, or of another artifact, do not go into the same file."""
    assert accuracy.main(words(assets, folder, "--seeds", "0", "--lr", "0.01")) == 2
    assert "made with another lr" in capsys.readouterr().err
    elsewhere = ("-o", str(folder / "other.json"), "--fraction", "0.1")
    assert accuracy.main(words(assets, folder, *elsewhere)) == 2
    assert "give another --work" in capsys.readouterr().err
    results = json.loads((folder / "result.json").read_bytes())
    results["compiled"]["int4"]["artifact"] = "0" * DIGEST
    (folder / "edited.json").write_text(json.dumps(results))
    assert accuracy.main(words(assets, folder, "-o", str(folder / "edited.json"))) == 2
    assert "not the artifact of the results" in capsys.readouterr().err


def _notices_another_theta(
    accuracy: ModuleType, assets: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A replay that leaves one step out ends the benchmark, and nothing is recorded."""
    trial: Any = sys.modules["trial"]
    whole = trial.replay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "replay", lambda s, journal, _, rule: whole(s, journal, 5, rule))
        assert accuracy.main(words(assets, folder, "--seeds", "0", "1", "2")) == 1
    assert "must be bit-equal" in capsys.readouterr().err
    assert len(json.loads((folder / "result.json").read_bytes())["runs"]) == 2


def test_precision_of_projected_gradients(
    monkeypatch: pytest.MonkeyPatch,
    assets: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With f32 activations σ grows with ε; with rounded ones it is larger."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import precision

    checkpoint = open_checkpoint(str(assets / "llama"))
    rank_on_text(checkpoint, str(assets / "text.txt")).save(tmp_path / "scores.safetensors")
    asked = [
        str(assets / "llama"), "--sensitivity", str(tmp_path / "scores.safetensors"),
        "--quant", "int8-row", "--fraction", "0.05", "--task", str(assets / "mood.jsonl"),
        "--batch-size", "4", "--directions", "4", "--threads", "1",
        "--work", str(tmp_path / "work"), "-o", str(tmp_path / "result.json"),
    ]  # fmt: skip
    assert precision.main(asked) == 0
    assert "best" in capsys.readouterr().out
    rows = json.loads((tmp_path / "result.json").read_bytes())["rows"]
    plain, rounded = ([r for r in rows if r["activations"] == a] for a in ("f32", "int8"))
    assert [row["eps"] for row in plain] == list(precision.EPSILONS)
    by_eps = {row["eps"]: row["sigma"] for row in plain}
    assert by_eps[1e-3] < 0.01
    assert by_eps[1e-2] > by_eps[1e-3]
    assert min(r["sigma"] for r in rounded) > min(r["sigma"] for r in plain)
    assert all(0.3 < row["gain"] < 3 for row in plain)
    assert precision.main([*asked, "--quant", "int3"]) == 2
    assert "there are none, nf4" in capsys.readouterr().err


def test_plans_are_held_against_runs(assets: Path, tmp_path: Path) -> None:
    """Every format and every case is predicted and measured; one that is too far off fails."""
    scores, out = tmp_path / "scores.safetensors", tmp_path / "result.json"
    rank_on_text(open_checkpoint(str(assets / "llama")), str(assets / "text.txt")).save(scores)
    done = subprocess.run(
        [
            sys.executable, str(SCRIPTS / "plan.py"), str(assets / "llama"),
            "--sensitivity", str(scores), "--quant", "int4", "int8-row", "--cases", "ort:4:12",
            "--limit", "1e-9", "-o", str(out),
        ],
        env=environment(), capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("OVER") == 2
    payload = json.loads(out.read_bytes())
    assert [row["quant"] for row in payload["result"]] == ["int4", "int8-row"]
    for row in payload["result"]:
        assert row["predicted_bytes"] == sum(row["parts"].values())
        assert row["off"] == row["predicted_bytes"] / row["measured_bytes"] - 1
        assert row["parts"]["frozen weights"] < row["measured_bytes"]
        assert row["measured_seconds"] > 0


def test_memory_over_the_bound_fails(tmp_path: Path) -> None:
    """A bound no process can meet is reported and recorded as broken."""
    done = subprocess.run(
        [
            sys.executable, str(SCRIPTS / "compile_memory.py"), "--gigabytes", "0.0004",
            "--hidden", "128", "--vocabulary", "128", "--spare", "0.01",
            "-o", str(tmp_path / "result.json"), "--keep", str(tmp_path / "kept"),
        ],
        env=environment(), capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "OVER" in done.stdout
    payload = json.loads((tmp_path / "result.json").read_bytes())
    result, kept = payload["result"], tmp_path / "kept"
    assert payload["protocol"]["layers"] == 1
    assert result["weights_bytes"] == sum(
        recipe().nbytes for recipe in open_checkpoint(str(kept / "checkpoint")).tensors.values()
    )
    assert result["bound_bytes"] == result["weights_bytes"] // 4 + 10_000_000
    assert result["peak_rss_bytes"] > result["bound_bytes"]
    assert result["seconds"] > sum(result["seconds_by_stage"].values()) > 0


def test_a_random_checkpoint_is_of_the_size_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Layers are counted to come near; shards, index and scores are what the compiler opens."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import random_llama

    shape = random_llama.Shape.of_bytes(4.2e9, 2, 2048, 32000)
    assert abs(shape.size * 2 - 4.2e9) < 1e8
    largest = max(np.prod(each) for each in shape.tensors.values())
    assert largest / shape.size < 0.05

    small = random_llama.Shape(hidden=128, layers=2, vocabulary=64)
    monkeypatch.setattr(random_llama, "SHARD", 400_000)
    rng = np.random.Generator(np.random.Philox(key=0))
    folder, scores = tmp_path / "checkpoint", tmp_path / "scores.safetensors"
    written = random_llama.make_checkpoint(folder, small, "F32", rng)
    checkpoint = open_checkpoint(str(folder))
    random_llama.make_scores(scores, checkpoint.hash, small, random_llama.SHARED, rng)
    files = list(folder.glob("model-*.safetensors"))
    assert len(files) > 2
    assert written < sum(file.stat().st_size for file in files) < written + 20_000
    assert {name: recipe.shape for name, recipe in checkpoint.tensors.items()} == small.tensors
    load_scores(scores).check_model(checkpoint)
    spread = float(checkpoint.load("model.layers.1.mlp.up_proj.weight").std())
    assert spread == pytest.approx(0.02, rel=0.02)


def test_random_scores_share_columns_as_trained_ones_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The largest thousandth: in a few columns of few matrices, or all over the model."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import random_llama

    shape = random_llama.Shape(hidden=512, layers=2, vocabulary=64)
    touched = {}
    for name in ("SHARED", "SCATTERED"):
        path, rng = tmp_path / name, np.random.Generator(np.random.Philox(key=0))
        random_llama.make_scores(path, "of nothing", shape, getattr(random_llama, name), rng)
        scores = load_file(path)
        every = np.concatenate([values.ravel() for values in scores.values()])
        limit = np.partition(every, -every.size // 1000)[-every.size // 1000]
        touched[name] = [float((v >= limit).any(axis=0).mean()) for v in scores.values()]
    assert np.mean(touched["SCATTERED"]) > 0.4
    assert 0 == min(touched["SHARED"]) < np.mean(touched["SHARED"]) < 0.1 < max(touched["SHARED"])


def test_starting_is_timed_and_may_be_too_slow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command beside a bare interpreter, which none beats; a limit none meets is broken."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import startup

    commands = {name: startup.COMMANDS[name] for name in (startup.BASELINE, "zofx --help")}
    monkeypatch.setattr(startup, "COMMANDS", commands)
    file = tmp_path / "result.json"
    assert startup.main(["--rounds", "1", "--limit", "0.001", "-o", str(file)]) == 1
    assert "OVER 0.001 s" in capsys.readouterr().out
    payload = json.loads(file.read_bytes())
    bare, help_ = payload["result"][startup.BASELINE], payload["result"]["zofx --help"]
    assert not payload["within"]
    assert 0 < bare["processor_seconds"] < help_["processor_seconds"]
    assert 0 < bare["wall_seconds"] < help_["wall_seconds"]


def test_forwards_side_by_side_and_in_turn(
    monkeypatch: pytest.MonkeyPatch,
    assets: Path,
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every way is timed, scores agree or it fails, and one worker is nothing to compare."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import lanes

    rounded = ("compile", "llama", "--fraction", "0.05", "--calibration", "text.txt")
    made = run_zofx(*rounded, "-o", tmp_path / "art", cwd=assets)
    assert made.returncode == 0, made.stderr
    asked = ["--rows", "4", "--tokens", "5", "9", "--rounds", "2"]
    line = [str(tmp_path / "art"), *asked, "-o", str(tmp_path / "result.json")]
    assert lanes.main(line) == 0
    results = json.loads((tmp_path / "result.json").read_bytes())
    assert [row["tokens"] for row in results["result"]] == [5, 9]
    for row in results["result"]:
        ways = [(way["workers"], way["forwards"]) for way in row["ways"]]
        assert ways == [(1, 1), (1, 2), (1, 4), (2, 2), (2, 4)]
        assert all(way["median"] > 0 for way in row["ways"])
    monkeypatch.setattr(lanes, "TOLERANCE", -1.0)
    assert lanes.main(line) == 1
    assert "SCORES DIFFER" in capsys.readouterr().out
    floats = tmp_path / "floats"
    made = run_zofx(*rounded, "--quant", "none", "-o", floats, cwd=assets)
    assert made.returncode == 0, made.stderr
    for alone in ([str(artifact), *asked, "--threads", "1"], [str(floats), *asked]):
        with pytest.raises(SystemExit, match="has one worker"):
            lanes.main(alone)


def test_options_of_the_engine_change_no_loss(
    artifact: Path, assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps in turns, of what zofx does and of what calls it otherwise; the bits are the same."""
    options = [*engine_options.NAMES[:3], "no arena", engine_options.BOUND, engine_options.DRAWN]
    asked = ["--task", str(assets / "mood.jsonl"), "--batch", "2", "--rounds", "2"]
    line = [str(artifact), *asked, "--options", *options, "-o", str(tmp_path / "result.json")]
    assert engine_options.main(line) == 0
    results = json.loads((tmp_path / "result.json").read_bytes())
    assert results["failed"] == []
    rows = results["result"]
    assert [row["option"] for row in rows] == options
    assert [row["difference"] for row in rows] == [0.0] * len(options)
    assert all(row["median"] > 0 and row["peak_bytes"] > 10e6 for row in rows)
    assert rows[0]["ratio"] == 1.0
    assert "DIFFERS" not in capsys.readouterr().out


def test_an_option_does_what_it_says(artifact: Path) -> None:
    """An engine is opened with it, bound to its arrays, or fed the draws of the other model."""
    with engine_options._changed("a plan of memory per shape", artifact, 2):
        session = ort.RUNTIME.load(artifact, threads=2, rows=16)
    assert session._engine.get_session_options().enable_mem_pattern
    assert session.batching.workers == 2
    with (
        engine_options._changed(engine_options.SHARED, artifact, 2),
        closing(ort.RUNTIME.load(artifact, threads=2, rows=16)) as other,
    ):
        assert other.batching == replace(session.batching, workers=1)
    key, name = Key(3, 5), next(iter(session.trainables))
    wanted, drawn_by_numpy = session.direction(key, name), theta.HostTheta.draw
    with engine_options._changed(engine_options.DRAWN, artifact, 1):
        assert theta.HostTheta.draw is not drawn_by_numpy
        np.testing.assert_array_equal(session._slices.draw(key)[name], wanted)
    with engine_options._changed(engine_options.BOUND, artifact, 1):
        assert ort.OrtSession._forward is engine_options._bound
    assert ort.OrtSession._forward is not engine_options._bound
    session.close()


def test_losses_that_differ_fail(
    artifact: Path,
    assets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And so does an option that nobody knows."""
    monkeypatch.setattr(engine_options, "TOLERANCE", -1.0)
    asked = ["--task", str(assets / "mood.jsonl"), "--batch", "2", "--rounds", "2"]
    assert engine_options.main([str(artifact), *asked, "--options", "as it is"]) == 1
    assert "LOSS DIFFERS" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        engine_options.main([str(artifact), "--options", "more threads"])
    assert "invalid choice" in capsys.readouterr().err

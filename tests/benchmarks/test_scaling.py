"""The scaling benchmark tells a line from what is none, and measures what it says; no timings."""

import json
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.scaling import __main__ as script
from benchmarks.scaling import journal, plot, sweeps
from benchmarks.scaling.fits import Fit, bars
from benchmarks.scaling.sweeps import Bench, Point, sweeps_of
from zofx.errors import UsageError
from zofx.runs.compiled_model import open_model

X = (256.0, 512.0, 1024.0, 1536.0, 2048.0)
TINY = (
    "--rows", "1", "2", "3", "4", "--lengths", "8", "--layers", "1", "--hidden", "128",
    "--vocabulary", "64", "--rounds", "1", "--steps", "20", "--threads", "1",
)  # fmt: skip
ARTIFACT = Point(layers=2, sliced=2, fraction=0.01, rows=1, length=8)


def kept(fit: Fit, *, straight: bool = True) -> list[bool]:
    """Growth, then what explains it, then the bend."""
    return [bar["kept"] for bar in bars(fit, straight=straight)]


# --- the arithmetic -------------------------------------------------------------------------------


def test_a_line_is_fitted() -> None:
    """Its constants, exponent 1, nothing left over; every bar is kept."""
    fit = Fit.of(X, [0.01 + 2e-4 * x for x in X])
    assert fit.intercept == pytest.approx(0.01)
    assert fit.slope == pytest.approx(2e-4)
    assert fit.exponent == pytest.approx(1)
    assert fit.r2 == pytest.approx(1)
    assert fit.growth == pytest.approx(2e-4 * (2048 - 256) / (0.01 + 2e-4 * 2048))
    assert max(abs(fit.curvature), fit.residual) < 1e-12
    assert kept(fit) == [True, True, True]


@pytest.mark.parametrize("bend", [5e-8, -2.5e-8])
def test_a_curve_is_no_line(bend: float) -> None:
    """A quadratic part of known size is measured, with its sign, and misses the bar either way."""
    seconds = [0.01 + 2e-4 * x + bend * x * x for x in X]
    fit = Fit.of(X, seconds)
    assert fit.curvature == pytest.approx(bend * X[-1] ** 2 / seconds[-1])
    assert abs(fit.curvature) > 0.1
    assert fit.r2 > 0.98  # which alone would have passed
    assert kept(fit) == [True, True, False]
    assert kept(fit, straight=False) == [True, True]


@pytest.mark.parametrize("power", [0.5, 2])
def test_the_exponent_is_reported(power: float) -> None:
    """Of a root, or of a square above a constant; neither passes for a line."""
    fit = Fit.of(X, [0.01 + 0.2 * (x / X[-1]) ** power for x in X])
    assert fit.exponent == pytest.approx(power)
    assert not kept(fit)[2]


def test_a_cost_that_does_not_grow_shows_nothing() -> None:
    """Equal points lie on a line exactly; noise about a constant, or a falling cost, is none."""
    assert kept(Fit.of(X, [0.5] * 5)) == [False, False, True]
    noise = Fit.of(X, [0.50, 0.52, 0.49, 0.51, 0.505])
    assert kept(noise)[:2] == [False, False]
    falling = Fit.of(X, [1 - 1e-4 * x for x in X])
    assert kept(falling) == [False, True, True]
    assert falling.growth < 0


def test_noise_on_a_line_is_borne_up_to_a_point() -> None:
    """One percent of noise keeps every bar; thirty percent on one point does not."""
    rng = np.random.Generator(np.random.Philox(key=3))
    line = np.array([0.01 + 2e-4 * x for x in X])
    assert all(kept(Fit.of(X, list(line * (1 + 0.01 * rng.standard_normal(5))))))
    line[2] *= 1.3
    fit = Fit.of(X, list(line))
    assert not all(kept(fit))
    assert fit.residual > 0.1


def test_three_points_tell_nothing() -> None:
    """A parabola goes through any three, however often they are repeated."""
    with pytest.raises(UsageError, match="by 4 or more"):
        Fit.of((1, 2, 3, 3), [1.0, 2.0, 3.0, 3.0])


def recorded(early: Sequence[float], late: Sequence[float], *sizes: int) -> dict[str, Any]:
    """What the journal's part measures, the same for every part of a step."""

    def rows(seconds: Sequence[float]) -> list[dict[str, float]]:
        return [dict.fromkeys(journal.PARTS, s) for s in seconds]

    return {
        "steps": 5000, "chunk": 100, "record_bytes": list(sizes), "early": rows(early),
        "late": rows(late), "windows": [{"from": 0, **rows(early)[0]}],
    }  # fmt: skip


def test_late_steps_are_compared_within_a_round() -> None:
    """A slow round slows both runs; a record of another size or a slower late step is a miss."""
    slow_round = journal.bars(recorded([1, 9, 1], [1.1, 9.9, 1.1], 32))
    assert [bar["kept"] for bar in slow_round] == [True] * 4
    assert slow_round[1]["value"] == pytest.approx(1.1)
    assert [b["kept"] for b in journal.bars(recorded([1, 1], [1.3, 1.3], 32))] == [
        True,
        *[False] * 3,
    ]
    assert not journal.bars(recorded([1], [1], 32, 40))[0]["kept"]


# --- what is measured -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A place to make tiny models."""
    return Bench(tmp_path_factory.mktemp("bench"), 128, 64, "int4", "ort", 1)


def test_points_differ_in_what_their_sweep_says(bench: Bench) -> None:
    """One quantity grows and the rest stays; artifacts have the trainables and weights asked
    for."""
    given = script._parser().parse_args([])
    fixed = {
        "rows": "rows", "length": "length", "layers": "layers sliced", "trainables": "sliced",
        "weights": "fraction",
    }  # fmt: skip
    for sweep in sweeps_of(given):
        first, *others = sweep.points
        for other in others:
            varied = {name: getattr(other, name) for name in fixed[sweep.name].split()}
            assert replace(first, **varied) == other != first
    half = replace(ARTIFACT, sliced=1)
    whole, part = (
        open_model(bench.artifact(point)).manifest.trainables for point in (ARTIFACT, half)
    )
    assert len(whole) == 2 * len(part) == 14
    entries = [sum(map(prod, each.values())) for each in (whole, part)]
    matrices = 4 * 128 * 128 + 3 * 128 * 352
    assert entries == [round(0.02 * matrices), round(0.01 * matrices)]
    assert bench.attention(replace(ARTIFACT, length=256)) == pytest.approx(
        2 * 256 * 128 / (2 * 256 * 128 + matrices)
    )


def test_a_run_is_taken_apart_wherever_it_stands(bench: Bench, tmp_path: Path) -> None:
    """A journal that is gone on with counts its new steps alone; the writer is left as it was."""
    append = journal.JournalWriter.append
    job = bench.job(ARTIFACT, tmp_path / "job")
    run = journal.start(journal.prepared(job, "ort"), tmp_path / "run")
    first, second = journal.go(run, 3), journal.go(run, 2)
    sizes = [step.size for step in [*first, *second]]
    assert len(set(np.diff(sizes))) == 1
    for step in (*first, *second):
        assert min(step.append, step.disk, step.rest) > 0
    assert run.run is not None
    assert run.run.journal().next_step == 5
    assert journal.JournalWriter.append is append


def test_end_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Processes in turns and a journal; the exit code is what the bars say."""
    monkeypatch.setattr(journal, "CHUNK", 5)
    file = tmp_path / "result.json"
    code = script.main([*TINY, "--sweeps", "rows", "journal", "-o", str(file)])
    output = capsys.readouterr().out
    results = json.loads(file.read_bytes())
    (rows,) = results["sweeps"]
    assert [point["tokens"] for point in rows["points"]] == [8, 16, 24, 32]
    assert all(len(point["seconds"]) == 1 and point["median"] > 0 for point in rows["points"])
    assert len({(p["trainables"], p["weights"]) for p in rows["points"]}) == 1
    again = Fit.of([p["tokens"] for p in rows["points"]], [p["median"] for p in rows["points"]])
    assert rows["fit"] == again.to_dict()
    measured = results["journal"]
    assert measured["record_bytes"] == [32]  # step, cursor, rate, a coefficient, two losses, CRC-32
    assert [window["from"] for window in measured["windows"]] == list(range(0, 20, 2))
    judged = [bar["kept"] for part in (rows, measured) for bar in part["bars"]]
    assert results["kept"] == all(judged) == (code == 0)
    assert output.count("MISSED") == judged.count(False)
    assert results["machine"]["versions"]["onnxruntime"]


def test_the_exit_code_follows_the_bars(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 for lines, 1 for a curve or a point that fails, 2 for a command that cannot work."""
    words = [*TINY, "--sweeps", "rows", "length", "--lengths", "8", "16", "32", "64"]

    def measured(power: float) -> Any:
        def measure(self: Bench, sweep: Any, protocol: Any) -> list[dict[str, Any]]:
            tokens = [point.rows * point.length for point in sweep.points]
            times = [(0.1 + (n / max(tokens)) ** power) for n in tokens]
            return [
                {"tokens": n, "median": s, "quartiles": [s, s], "attention": 0.1}
                for n, s in zip(tokens, times, strict=True)
            ]

        return measure

    monkeypatch.setattr(Bench, "measure", measured(1))
    assert script.main(words) == 0
    assert "R² 1.0000" in capsys.readouterr().out
    monkeypatch.setattr(Bench, "measure", measured(1.5))
    assert script.main(words) == 1
    assert capsys.readouterr().out.count("MISSED") == 1  # of the rows: attention may bend
    assert script.main([*TINY, "--sweeps", "length"]) == 2
    assert "has 1 points" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(Bench, "job", lambda *_: None)
    monkeypatch.setattr(sweeps, "measured", lambda *_: ([], [{"error": "it ended"}]))
    assert script.main([*TINY, "--sweeps", "rows"]) == 1
    assert "sweep 'rows': it ended" in capsys.readouterr().err
    monkeypatch.setattr("benchmarks.step.plot.find_spec", lambda name: None)
    assert script.main(["--plot", str(tmp_path / "picture.svg")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    """A panel per sweep and one of the journal; the same results give the same file."""
    pytest.importorskip("matplotlib")
    fit = Fit.of(X, [0.01 + 2e-4 * x for x in X])
    points = [{"tokens": x, "median": x, "quartiles": [0.9 * x, 1.1 * x]} for x in X]
    sweep = {"name": "rows", "by": "tokens", "points": points, "fit": fit.to_dict()}
    results = {"sweeps": [sweep], "journal": recorded([1e-3], [1e-3], 32)}
    files = [tmp_path / name for name in ("one.svg", "two.svg")]
    for file in files:
        plot.plot(results, file)
    assert "milliseconds per step" in files[0].read_text()
    assert files[0].read_bytes() == files[1].read_bytes()

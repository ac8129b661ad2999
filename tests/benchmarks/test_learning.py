"""The learning benchmark: when contestants are judged, what a row of results says, who they are."""

from typing import Any

import pytest

from benchmarks.learning import clock
from benchmarks.learning.__main__ import table
from benchmarks.learning.contestants import CONTESTANTS, FirstOrder, Zofx
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options, pipeline_for


class Judged:
    """Stands in for an evaluation: takes its time, and says which step it judged."""

    def __init__(self, now: list[float]) -> None:
        self._now = now
        self._step = 0

    def __call__(self, step: int) -> Any:
        self._now[0] += 1000.0
        self._step = step
        return self

    def to_dict(self) -> dict[str, Any]:
        """The judgement."""
        return {"accuracy": self._step / 100, "step": -1, "seconds": 1000.0}


def test_judging_is_off_the_clock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten seconds a step: marks at 15 and 18 are one point, the last step another."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    watch = clock.Clock([15, 18, 100], Judged(now))
    watch._since = now[0]
    for step in range(1, 4):
        now[0] += 10.0
        watch.tick(step, 16 * step)
    assert not watch.done
    watch.finish()
    watch.finish()  # that step has been judged
    points = clock.last_point(capsys.readouterr().out)
    assert [(p["step"], p["seconds"], p["row_forwards"]) for p in points] == [
        (2, 20.0, 32), (3, 30.0, 48),
    ]  # fmt: skip
    assert all(point["peak_bytes"] > 0 for point in points)


def test_lines_that_are_no_points_are_left_out() -> None:
    """A library may print."""
    assert clock.last_point('hello\n{"step": 1}\n\nbye\n') == [{"step": 1}]


def test_a_row_of_the_table_is_the_mean_over_seeds() -> None:
    """Each seed with its interval, the largest memory, and the majority baseline."""
    point = {
        "contestant": "exact-lora", "seed": 0, "step": 5, "seconds": 9.96, "row_forwards": 240,
        "peak_bytes": 400e6, "accuracy": 0.7, "interval95": [0.6, 0.8],
        "majority": {"label": "a", "share": 0.25},
    }  # fmt: skip
    other = point | {"seed": 1, "accuracy": 0.8, "interval95": [0.7, 0.9], "peak_bytes": 500e6}
    assert table({"points": [point, other]}).splitlines()[-1] == (
        "| LoRA, exact gradients on ONNX Runtime, int8 | 10.0 | 5 | 240 | 500 "
        "| **0.750**: 0.700 [0.600, 0.800], 0.800 [0.700, 0.900] | 0.250 |"
    )


@pytest.mark.parametrize("name", [n for n, row in CONTESTANTS.items() if isinstance(row, Zofx)])
def test_contestants_are_what_a_user_can_type(name: str) -> None:
    """Every zofx row is a pipeline, and its options of a run are those of `zofx tune`."""
    row = CONTESTANTS[name]
    assert isinstance(row, Zofx)
    method = METHODS[row.method]
    assert pipeline_for(method, Options(**row.compiled)).passes
    assert method.settings.with_given(**row.tuned).steps == row.tuned["steps"]


def test_peers_end() -> None:
    """A peer's rate falls to zero over its steps, as zofx's does."""
    peers = [row for row in CONTESTANTS.values() if isinstance(row, FirstOrder)]
    assert {row.kind for row in peers} == {"lora", "last-block"}
    assert all(row.steps > 0 for row in peers)

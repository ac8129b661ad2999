"""Halving finds where a metric fell."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zofx.errors import UsageError
from zofx.runs.bisection import bisect


@given(st.integers(2, 3000), st.data())
def test_the_step_is_found(steps: int, data: st.DataObject) -> None:
    """Of a metric that falls once, in as few measurements as halving takes."""
    last = data.draw(st.integers(0, steps - 1))
    asked = []

    def measure(step: int) -> float:
        asked.append(step)
        return 0.9 if step <= last else 0.5

    fall = bisect(measure, 0, steps)
    assert (fall.good, fall.bad, fall.threshold) == (last, last + 1, pytest.approx(0.7))
    assert len(asked) == len(set(asked)) <= 2 + math.ceil(math.log2(steps))
    assert list(fall.values) == sorted(asked)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=60))
def test_a_metric_that_wavers_falls_where_it_is_told(values: list[float]) -> None:
    """The two steps are neighbours, on either side of the threshold."""
    values[0], values[-1] = 1.0, 0.0
    fall = bisect(values.__getitem__, 0, len(values) - 1, 0.5)
    assert fall.bad == fall.good + 1
    assert values[fall.good] >= 0.5 > values[fall.bad]


@pytest.mark.parametrize(
    ("good", "bad", "threshold", "message"),
    [
        (0, 4, None, "did not fall below 2"),
        (4, 0, 3.5, "did not fall"),
        (4, 4, None, "comes before"),
    ],
)
def test_no_fall(good: int, bad: int, threshold: float | None, message: str) -> None:
    """A metric that rises, or steps in the wrong order."""
    with pytest.raises(UsageError, match=message if good <= bad else "comes before"):
        bisect(float, good, bad, threshold)

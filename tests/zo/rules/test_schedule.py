"""Schedules."""

import math

import pytest

from zofx.errors import UsageError
from zofx.zo.rules.schedule import Schedule, constant


def test_constant() -> None:
    """A constant never changes, and starts at once."""
    assert {constant(0.5)(step) for step in (0, 1, 10**9)} == {0.5}


def test_warmup_rises_to_the_peak() -> None:
    """The first step is a part of the peak, not zero; the last step of the warm-up is the peak."""
    for shape in ("constant", "linear", "cosine"):
        rate = Schedule(shape, peak=2.0, steps=10, warmup=4)
        assert [rate(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_linear_decays_to_the_floor() -> None:
    """Linear loses the same amount every step and stays at the floor."""
    rate = Schedule("linear", peak=1.0, steps=4, floor=0.5)
    assert [rate(step) for step in (0, 1, 2, 3, 4, 99)] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]


def test_cosine_follows_half_a_wave() -> None:
    """Cosine starts and ends flat, is half way in the middle, and stays at the floor."""
    rate = Schedule("cosine", peak=1.0, steps=100, floor=0.2)
    for step in range(101):
        assert rate(step) == pytest.approx(0.6 + 0.4 * math.cos(math.pi * step / 100))
    assert rate(1000) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("shape", "steps", "warmup", "message"),
    [
        ("cosin", 10, 0, "there is no schedule 'cosin'; did you mean cosine?"),
        (
            "zigzag",
            10,
            0,
            "there is no schedule 'zigzag'; did you mean constant or linear or cosine?",
        ),
        ("linear", 0, 0, "it needs 0 <= warmup < steps"),
        ("cosine", 5, 5, "it needs 0 <= warmup < steps"),
        ("constant", 0, -1, "it needs 0 <= warmup < steps"),
    ],
)
def test_errors(shape: str, steps: int, warmup: int, message: str) -> None:
    """What cannot be a schedule is refused when it is written down, not at some step."""
    with pytest.raises(UsageError) as error:
        Schedule(shape, 1.0, steps, warmup)
    assert message in str(error.value)

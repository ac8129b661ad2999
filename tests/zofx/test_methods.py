"""Settings: the numbers of a run, and the recipe they make."""

import pytest

from zofx.errors import UsageError
from zofx.methods import Settings


def test_a_constant_rate_does_not_know_how_long_the_run_is() -> None:
    """So a run extended by --steps has the recipe it started with."""
    short, long = (Settings(schedule="constant", steps=steps).recipe() for steps in (10, 20))
    assert short.learning_rate == long.learning_rate
    assert str(short) == str(long)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_decaying_rate_ends_with_the_run(schedule: str) -> None:
    """The rate reaches 0 at the last step, so another length is another recipe."""
    short, long = (Settings().with_given(schedule=schedule, steps=n).recipe() for n in (10, 20))
    assert str(short) != str(long)
    assert short.learning_rate(10) == 0 < long.learning_rate(10)


@pytest.mark.parametrize(
    ("given", "named"),
    [({"lr": 0.0}, "lr=0.0"), ({"steps": 0}, "steps=0"), ({"batch_size": 0}, "=0")],
)
def test_numbers_that_cannot_train_are_refused(given: dict[str, float], named: str) -> None:
    """The message shows the number."""
    with pytest.raises(UsageError, match=named):
        Settings().with_given(**given)

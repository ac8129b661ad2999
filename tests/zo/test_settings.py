"""Settings: the numbers of a run, and the recipe they make."""

from dataclasses import asdict

import pytest

from zofx.compiler.methods import METHODS
from zofx.errors import UsageError
from zofx.zo.random.direction_spec import DirectionSpec, Noise, RandomMask, Turn
from zofx.zo.settings import Settings


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
    [
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"lr": 1e-50}, "lr=1e-50"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "=0"),
    ],
)
def test_numbers_that_cannot_train_are_refused(given: dict[str, float], named: str) -> None:
    """The message shows the number."""
    with pytest.raises(UsageError, match=named):
        Settings().with_given(**given)


def turns(by: str) -> Noise:
    """Of three groups."""
    specs = {f"w{group}": DirectionSpec("gaussian", turn=Turn(group, 3, by)) for group in range(3)}  # type: ignore[arg-type]  # a parameter is a string
    return Noise("gaussian", specs)


def test_a_round_by_steps_holds_a_batch() -> None:
    """Each group sees the batch of the round; the data stream moves on with the next."""
    settings = Settings(batch_size=8).fitted(turns("step"))
    assert (settings.hold, settings.queries) == (3, 1)
    assert [settings.cursor(step) for step in range(7)] == [0, 0, 0, 8, 8, 8, 16]


def test_a_round_by_queries_has_one_for_each_group() -> None:
    """Their directions do not overlap, so their slopes are not averaged."""
    settings = Settings(batch_size=8).fitted(turns("query"))
    assert (settings.hold, settings.queries, settings.average) == (1, 3, False)
    assert str(settings.recipe().estimator) == "Spsa(eps=0.001, queries=3, average=False)"
    assert [settings.cursor(step) for step in range(3)] == [0, 8, 16]


UPDATED_ROLES = [DirectionSpec("gaussian", limit=1.0), DirectionSpec("gaussian", scale="w.scale")]
"""Directions that are functions of more than their keys."""


@pytest.mark.parametrize("spec", UPDATED_ROLES)
def test_without_turns_settings_fit_as_they_are(spec: DirectionSpec) -> None:
    """Whatever else the directions are: a rule on this step's rays makes no others again."""
    settings = Settings(queries=2, rays="past_momentum(0.9, 1)", tensors="past_adam(window=1)")
    assert settings.fitted(Noise("gaussian", {"w": spec})) == settings


PAST = [{"rays": "clip(1) > past_momentum(0.9, 4)"}, {"tensors": "past_adam(0.9, 0.99)"}]
"""Rules that make the directions of past steps again."""


@pytest.mark.parametrize("spec", UPDATED_ROLES)
@pytest.mark.parametrize("rule", PAST)
def test_past_directions_cannot_be_made_from_another_state(
    rule: dict[str, str], spec: DirectionSpec
) -> None:
    """Refused before anything moves; the message names the rule and what remembers instead."""
    message = r"past_\w+\(0.9, .*\) makes the directions of past steps again.* momentum\(\) or adam"
    with pytest.raises(UsageError, match=message):
        Settings(**rule).fitted(Noise("gaussian", {"v": DirectionSpec("gaussian"), "w": spec}))  # type: ignore[arg-type]  # strings only


@pytest.mark.parametrize("rule", PAST)
def test_past_directions_of_keys_alone_are_what_they_were(rule: dict[str, str]) -> None:
    """Draws, random masks and turns are functions of the key."""
    spec = DirectionSpec("gaussian", mask=RandomMask(1 << 15, 10), turn=Turn(0, 1, "step"))
    settings = Settings(**rule)  # type: ignore[arg-type]  # strings only
    assert settings.fitted(Noise("gaussian", {"w": spec})) == settings


@pytest.mark.parametrize("estimator", ["one-sided", "two-point-curvature", "forward-gradient"])
def test_a_round_by_queries_takes_two_points(estimator: str) -> None:
    """Other estimators would average what is not one gradient, or look along one group alone."""
    with pytest.raises(UsageError, match=rf"--estimator {estimator}: this artifact moves each"):
        Settings(estimator=estimator).fitted(turns("query"))


def test_curved_looks_along_one_direction() -> None:
    """More would be ignored."""
    with pytest.raises(
        UsageError, match="queries=4: the estimator 'two-point-curvature' looks along one"
    ):
        Settings(estimator="two-point-curvature", queries=4)


@pytest.mark.parametrize("name", tuple(METHODS))
def test_settings_read_back(name: str) -> None:
    """From what a manifest holds of them."""
    settings = METHODS[name].settings
    assert Settings.from_mapping(asdict(settings)) == settings

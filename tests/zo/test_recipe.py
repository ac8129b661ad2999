"""Recipes: a step that is tried, what goes into a journal, and what does not go together."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.zo.bowl import Bowl, mean_loss, rows
from zofx.errors import UsageError
from zofx.session import scored
from zofx.zo.driver import Driver
from zofx.zo.estimators import Spsa, SpsaWithCurvature
from zofx.zo.journal.format import Record
from zofx.zo.recipe import Recipe, Trial
from zofx.zo.rules.coefficient_rules import chain, clip, past_momentum
from zofx.zo.rules.gradient_rules import chain_tensors, decay
from zofx.zo.rules.schedule import constant
from zofx.zo.rules.stateful_rules import diagonal_hessian, momentum, past_adam
from zofx.zo.types import Key, Ray


def test_a_trial_is_made_of_multiples_of_the_step() -> None:
    """One row per multiplier."""
    matrix = Trial((-1.0, 0.5, 0.0)).matrix(np.array([2.0, -4.0], np.float32))
    assert matrix.tolist() == [[-2, 4], [1, -2], [0, 0]]
    assert matrix.dtype == np.float32


@pytest.mark.parametrize(
    ("losses", "multiplier"),
    [
        ([1, 2, 3], -1),
        ([2, 1, 3], 1),
        ([3, 2, 1], 0),
        ([1, 1, 1], -1),
        ([2, 1, 1], 1),
        ([1, 2, 1], -1),
    ],
)
def test_a_trial_takes_the_best(losses: list[float], multiplier: int) -> None:
    """Of equals backwards before forwards before staying, as ZO-Bench's comparisons fall."""
    chosen = Trial().choose(np.array([2.0, -4.0]), np.array(losses, np.float32))
    assert chosen.tolist() == [2 * multiplier, -4 * multiplier]


def test_a_tried_step_is_where_its_probe_was() -> None:
    """The losses of the trial are those of θ after the step that each row stands for."""
    recipe, batch = Recipe(Spsa(), constant(0.3), trial=Trial()), rows(1, 2)
    for seed in range(6):
        bowl = Bowl()
        log = Driver(recipe, bowl, seed).step(0, scored(bowl, batch, mean_loss))
        assert bowl.probes == recipe.evaluations == len(log.losses) == 5
        after = mean_loss(bowl.evaluate(batch, [], np.zeros((1, 0), np.float32)))
        best = log.losses[2:].min()
        assert after[0] == pytest.approx(best, rel=1e-6)


def test_a_header_says_how_long_a_record_is() -> None:
    """Rays of the window, losses of probes and trial."""
    walking = Recipe(Spsa(queries=2), constant(1.0), past_momentum(0.9, 3)).header("hash", 1)
    assert (walking.queries, walking.window, walking.evaluations) == (2, 3, 4)
    assert walking.layout["coefficients"].shape == (6,)
    tried = Recipe(Spsa(), constant(1.0), trial=Trial(), refresh=7).header("hash", 1)
    assert (tried.evaluations, tried.refresh) == (5, 7)
    curved = Recipe(SpsaWithCurvature(), constant(1.0), tensors=diagonal_hessian()).header(
        "hash", 1
    )
    assert (curved.queries, curved.evaluations) == (2, 3)


def test_a_record_knows_the_rays_of_the_past() -> None:
    """This step's queries first; before step 0 there is nothing."""
    header = Recipe(Spsa(queries=2), constant(1.0), past_momentum(0.9, 3)).header("hash", 1)
    coefficients = np.arange(1, 7, dtype=np.float32)
    rays = Record(1, 0, 1.0, coefficients, np.ones(4, np.float32)).rays(header)
    assert rays == (
        Ray(Key(1, 1, 0), 1.0), Ray(Key(1, 1, 1), 2.0), Ray(Key(1, 0, 0), 3.0),
        Ray(Key(1, 0, 1), 4.0),
    )  # fmt: skip
    later = Record(9, 0, 1.0, coefficients, np.ones(4, np.float32)).rays(header)
    assert [ray.key.step for ray in later] == [9, 9, 8, 8, 7, 7]


def test_the_text_has_every_part() -> None:
    """Two recipes that do other things have other texts."""
    recipe = Recipe(Spsa(), constant(1.0), clip(2.0), trial=Trial(), refresh=5)
    assert str(recipe).endswith("floor=0.0) | Trial(multipliers=(-1.0, 1.0, 0.0)) | refresh(5)")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Recipe(Spsa(), constant(1.0), tensors=momentum(), trial=Trial()),
            "a trial tries a step along this step's own directions; it does not go with a rule on "
            "tensors or on past rays: drop the trial, or momentum(0.9)",
        ),
        (
            lambda: Recipe(Spsa(), constant(1.0), past_momentum(), trial=Trial()),
            "a trial tries a step along this step's own directions; it does not go with a rule on "
            "tensors or on past rays: drop the trial, or past_momentum(0.9, 20)",
        ),
        (
            lambda: Recipe(Spsa(), constant(1.0), chain(clip(1.0), past_momentum()), refresh=50),
            "clip(1.0) > past_momentum(0.9, 20) goes along past rays, and refresh=50 replaces the "
            "basis that those are coordinates in: drop one of them, or average with "
            "low_rank_momentum()",
        ),
        (
            lambda: Recipe(Spsa(), constant(1.0), tensors=momentum(), refresh=50),
            "momentum(0.9) remembers coordinates of the past, and refresh=50 replaces the basis "
            "that those are in: drop one of them, or average with low_rank_momentum(), which is "
            "carried over to the new basis",
        ),
        (
            lambda: Recipe(
                Spsa(), constant(1.0), tensors=chain_tensors(past_adam(), decay(0.1)), refresh=2
            ),
            "past_adam(0.9, 0.999, 1e-08, 20) > decay(0.1) remembers coordinates of the past, and "
            "refresh=2 replaces the basis that those are in: drop one of them, or average with "
            "low_rank_momentum(), which is carried over to the new basis",
        ),
        (
            lambda: Recipe(Spsa(), constant(1.0), refresh=-1),
            "refresh=-1: a number of steps, or 0 for none",
        ),
        (
            lambda: Recipe(SpsaWithCurvature(), constant(1.0)),
            "SpsaWithCurvature(eps=0.001) with tensors='': the estimator `SpsaWithCurvature` "
            "measures curvature beside the slope, and the rule diagonal_hessian() takes it; use "
            "both or neither",
        ),
        (
            lambda: Recipe(Spsa(queries=2), constant(1.0), tensors=diagonal_hessian()),
            "Spsa(eps=0.001, queries=2, average=True) with tensors='diagonal_hessian(1e-06)': the "
            "estimator `SpsaWithCurvature` measures curvature beside the slope, and the rule "
            "diagonal_hessian() takes it; use both or neither",
        ),
        (
            lambda: Recipe(SpsaWithCurvature(), constant(1.0), clip(1.0), diagonal_hessian()),
            "clip(1.0) would change the curvature that diagonal_hessian() takes, as if it were a "
            "slope: drop one of them",
        ),
    ],
)
def test_what_does_not_go_together(make: Callable[[], Recipe], message: str) -> None:
    """Refused where it is written down, with what to do."""
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value) == message

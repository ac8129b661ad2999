"""The driver: every recipe descends, replays and resumes; what goes wrong stops the run."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.zo.bowl import Bowl, LowRank, Scaled, mean_loss, rows
from zofx.errors import ArtifactError, DivergenceError, UsageError
from zofx.session import Batch, scored
from zofx.zo.driver import Driver
from zofx.zo.estimators import ForwardGradient, OnePoint, OneSided, Spsa, SpsaWithCurvature
from zofx.zo.gauss_newton import GaussNewton, Quadratics
from zofx.zo.journal.format import Journal
from zofx.zo.journal.replay import replay
from zofx.zo.journal.writer import JournalWriter
from zofx.zo.recipe import Recipe, Trial
from zofx.zo.rules.coefficient_rules import (
    chain,
    clip,
    normalise_by_spread,
    past_momentum,
    scale_by_rms,
    scale_by_schedule,
    sign,
)
from zofx.zo.rules.gradient_rules import chain_tensors, decay, sign_coordinates
from zofx.zo.rules.schedule import Schedule, constant
from zofx.zo.rules.stateful_rules import (
    adam,
    diagonal_hessian,
    low_rank_momentum,
    momentum,
    past_adam,
)
from zofx.zo.types import FloatArray, Key, LossFn

SEED = 11

# A new estimator or rule is one row here.
CASES = {
    "spsa": Recipe(Spsa(), constant(0.01)),
    "spsa-4": Recipe(Spsa(queries=4), constant(0.03)),
    "one-sided": Recipe(OneSided(queries=4), constant(0.03)),
    "one-point": Recipe(OnePoint(eps=0.3), constant(4e-3)),
    "clip": Recipe(Spsa(), constant(0.01), clip(5.0)),
    "sign": Recipe(Spsa(), Schedule("linear", 0.1, steps=300), sign()),
    "spread": Recipe(OneSided(queries=8), Schedule("cosine", 0.3, 300, 10), normalise_by_spread()),
    "rms": Recipe(Spsa(), Schedule("linear", 0.1, steps=300), scale_by_rms(0.9)),
    "annealed": Recipe(
        Spsa(), constant(0.02), chain(clip(9.0), scale_by_schedule(Schedule("cosine", 1.0, 300)))
    ),
    "momentum": Recipe(Spsa(), constant(0.002), tensors=momentum(0.9)),
    "adam": Recipe(Spsa(queries=2), Schedule("linear", 0.05, steps=300), tensors=adam()),
    "decayed": Recipe(
        Spsa(), constant(0.01), clip(50.0), chain_tensors(decay(0.01, ["bias"]), momentum(0.5))
    ),
    "trial": Recipe(Spsa(), constant(0.05), trial=Trial()),
    "forward-gradient": Recipe(ForwardGradient(queries=2), constant(0.02)),
    "gauss-newton": Recipe(GaussNewton(queries=4), constant(0.5)),
    "past-momentum": Recipe(Spsa(), constant(0.002), chain(clip(20.0), past_momentum(0.9, 4))),
    "past-adam": Recipe(
        Spsa(), Schedule("linear", 0.05, steps=300), tensors=past_adam(0.9, 0.99, window=4)
    ),
    "coordinates": Recipe(
        Spsa(queries=4), Schedule("linear", 0.03, steps=300), tensors=sign_coordinates()
    ),
    "hizoo": Recipe(SpsaWithCurvature(eps=0.1), constant(0.03), tensors=diagonal_hessian(0.01)),
    "lozo": Recipe(Spsa(), constant(0.01), refresh=4),
    "lozo-momentum": Recipe(
        Spsa(),
        constant(0.01),
        tensors=chain_tensors(low_rank_momentum(0.5), decay(1e-3)),
        refresh=4,
    ),
}
each_recipe = pytest.mark.parametrize("recipe", CASES.values(), ids=CASES)


def batch(step: int) -> Batch:
    """Another batch every step, the same in every run."""
    return rows(1, 1 + step % 2, 1)


def fresh(recipe: Recipe) -> Bowl:
    """A session with the state that a recipe needs."""
    if recipe.refresh:
        return LowRank()
    return Scaled() if isinstance(recipe.estimator, SpsaWithCurvature) else Bowl()


def measure(bowl: Bowl, recipe: Recipe, step: int) -> LossFn:
    """What a step's batch says: exact slopes where the estimator asks for them."""
    if isinstance(recipe.estimator, ForwardGradient):
        return lambda keys, matrix: bowl.slopes(batch(step), keys)
    if isinstance(recipe.estimator, GaussNewton):
        return lambda keys, matrix: quadratics(bowl, batch(step), keys, matrix)
    return scored(bowl, batch(step), mean_loss)


def quadratics(
    bowl: Bowl, of: Batch, keys: tuple[Key, ...], matrix: FloatArray
) -> NDArray[np.float64]:
    """What a Gauss–Newton step records: rows as examples, g from differences, G exact."""
    scores = bowl.evaluate(of, keys, matrix)[:, :, 0].astype(np.float64)
    gradients = (scores[0] - scores[1:]).T / np.diag(matrix[1:])
    directions = [bowl.directions(key) for key in keys]
    height = [
        [sum(float(np.sum(bowl.curvature[n] * p[n] * q[n])) for n in p) for q in directions]
        for p in directions
    ]
    curvatures = of.input_ids[:, :1, None] * np.array(height)
    return Quadratics(float(-scores[0].mean()), gradients, curvatures).measured()


def train(driver: Driver, start: int, stop: int) -> None:
    for step in range(start, stop):
        driver.step(step, measure(driver.theta, driver.recipe, step), cursor=3 * step)


def recorded(path: Path, recipe: Recipe, steps: int) -> Bowl:
    """A run from the start, with a journal; returns its session."""
    bowl = fresh(recipe)
    with JournalWriter.create(path, recipe.header("hash", SEED), sync_every=1000) as journal:
        train(Driver(recipe, bowl, SEED, journal), 0, steps)
    return bowl


def forwards(recipe: Recipe) -> int:
    """Of a step: the probes', and those of a trial."""
    return 2 if recipe.trial else 1


def evaluated(recipe: Recipe) -> int:
    """Points of a step: as many as losses, but where an estimator measures more at each."""
    if isinstance(recipe.estimator, GaussNewton):
        return len(recipe.estimator.probes(SEED, 0).matrix)
    return recipe.evaluations


def assert_same_theta(a: Bowl, b: Bowl) -> None:
    for name, values in a.read().items():
        np.testing.assert_array_equal(values, b.read()[name])


@each_recipe
def test_descends(recipe: Recipe) -> None:
    """Every recipe makes the bowl's height a fraction of what it was, by so many forwards."""
    bowl = fresh(recipe)
    before = bowl.loss()
    train(Driver(recipe, bowl, SEED), 0, 300)
    assert bowl.loss() < before / 4
    assert bowl.calls == 300 * forwards(recipe)
    assert bowl.probes == 300 * evaluated(recipe)


@each_recipe
def test_replay_is_bit_equal(recipe: Recipe, tmp_path: Path) -> None:
    """θ follows from the journal alone: no forward, the same bits, at the end and on the way."""
    trained = recorded(tmp_path / "j", recipe, 20)
    journal = Journal.read(tmp_path / "j")
    replayed = fresh(recipe)
    assert replay(replayed, journal, tensors=recipe.tensors) == 20
    assert_same_theta(replayed, trained)
    assert replayed.calls == 0
    halfway = fresh(recipe)
    assert replay(halfway, journal, upto=7, tensors=recipe.tensors) == 7
    assert_same_theta(halfway, recorded(tmp_path / "half", recipe, 7))


@each_recipe
def test_resume_equals_uninterrupted(recipe: Recipe, tmp_path: Path) -> None:
    """Stopped and resumed, a run writes the same journal and ends at the same bits."""
    whole = recorded(tmp_path / "whole", recipe, 20)
    recorded(tmp_path / "j", recipe, 9)
    resumed = fresh(recipe)
    writer, journal = JournalWriter.resume(tmp_path / "j")
    with writer:
        driver = Driver(recipe, resumed, SEED, writer)
        assert driver.resume(journal) == 9
        assert resumed.calls == 0
        train(driver, 9, 20)
    assert_same_theta(resumed, whole)
    assert (tmp_path / "j").read_bytes() == (tmp_path / "whole").read_bytes()


REMEMBERING = (
    "rms", "one-point", "gauss-newton", "adam", "trial", "past-momentum", "past-adam", "hizoo",
    "lozo-momentum",
)  # fmt: skip


@pytest.mark.parametrize("recipe", [CASES[name] for name in REMEMBERING], ids=REMEMBERING)
def test_killed_at_any_byte(recipe: Recipe, tmp_path: Path) -> None:
    """From a journal cut at any byte a run resumes, loses at most a step, and ends the same."""
    whole = recorded(tmp_path / "whole", recipe, 3)
    data = (tmp_path / "whole").read_bytes()
    start = len(recipe.header("hash", SEED).encode())
    for cut in range(start, len(data) + 1):
        (tmp_path / "cut").write_bytes(data[:cut])
        bowl = fresh(recipe)
        writer, journal = JournalWriter.resume(tmp_path / "cut", sync_every=1000)
        with writer:
            driver = Driver(recipe, bowl, SEED, writer)
            train(driver, driver.resume(journal), 3)
        steps = 3 - (cut - start) * 3 // (len(data) - start)
        assert bowl.calls == steps * forwards(recipe)
        assert_same_theta(bowl, whole)


def test_killed_between_record_and_move(tmp_path: Path) -> None:
    """A record is on disk before θ moves: killed in between, the step counts."""
    recipe = CASES["spsa"]

    class Killed(Bowl):
        def move(self, rays: object) -> None:
            raise KeyboardInterrupt

    with JournalWriter.create(tmp_path / "j", recipe.header("hash", SEED)) as writer:
        driver = Driver(recipe, Killed(), SEED, writer)
        with pytest.raises(KeyboardInterrupt):
            driver.step(0, scored(driver.theta, batch(0), mean_loss))
    replayed = Bowl()
    assert replay(replayed, Journal.read(tmp_path / "j")) == 1
    assert_same_theta(replayed, recorded(tmp_path / "whole", recipe, 1))


def test_step_log(tmp_path: Path) -> None:
    """The log of a step is what the journal holds."""
    recipe = CASES["spsa-4"]
    bowl = Bowl()
    with JournalWriter.create(tmp_path / "j", recipe.header("hash", SEED, task="t")) as writer:
        log = Driver(recipe, bowl, SEED, writer).step(
            0, scored(bowl, batch(0), mean_loss), cursor=3
        )
    journal = Journal.read(tmp_path / "j")
    (record,) = journal
    assert (record.step, record.cursor, record.learning_rate) == (0, 3, log.learning_rate)
    assert record.rays(journal.header) == log.rays
    np.testing.assert_array_equal(record.losses, log.losses)
    assert log.learning_rate == np.float32(0.03)
    assert log.loss == pytest.approx(float(log.losses.mean()))


def test_a_step_is_descent_along_its_rays() -> None:
    """The coefficient of a plain step is −rate · (f₊ − f₋) / 2ε, rounded once."""
    bowl = Bowl()
    log = Driver(CASES["spsa"], bowl, SEED).step(0, scored(bowl, batch(0), mean_loss))
    up, down = (float(loss) for loss in log.losses)
    expected = np.float32(-float(np.float32(0.01)) * ((up - down) / 2e-3))
    assert [ray.coefficient for ray in log.rays] == [float(expected)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_loss_that_is_not_finite_stops_the_run(bad: float, tmp_path: Path) -> None:
    """The error names the step and the way back; θ and the journal are as before it."""
    recipe = CASES["rms"]

    def breaks(scores: FloatArray) -> NDArray[np.float64]:
        losses = mean_loss(scores)
        losses[1] = bad
        return losses

    bowl = Bowl()
    with JournalWriter.create(tmp_path / "j", recipe.header("hash", SEED)) as writer:
        driver = Driver(recipe, bowl, SEED, writer)
        train(driver, 0, 4)
        with pytest.raises(DivergenceError, match="losses of step 4 are not finite") as error:
            driver.step(4, scored(driver.theta, batch(4), breaks))
        assert error.value.step == 4
        assert "replay the journal up to a step well before 4" in str(error.value)
        assert len(Journal.read(tmp_path / "j")) == 4
        train(driver, 4, 6)
    assert_same_theta(bowl, recorded(tmp_path / "whole", recipe, 6))


def test_a_coefficient_that_overflows_stops_the_run() -> None:
    """Finite losses that lead to an infinite step do not move θ."""
    bowl = Bowl()
    driver = Driver(Recipe(Spsa(eps=1e-30), constant(1e38)), bowl, SEED)
    with pytest.raises(DivergenceError, match="coefficients of step 0 are not finite"):
        driver.step(0, scored(driver.theta, batch(0), lambda scores: np.array([1.0, 2.0])))
    assert_same_theta(bowl, Bowl())


@pytest.mark.parametrize(
    "recipe", [Recipe(Spsa(1e-4), constant(0.1)), Recipe(OneSided(1e-4, 3), constant(0.1))]
)
def test_probes_that_cannot_be_told_apart_stop_the_run(recipe: Recipe, tmp_path: Path) -> None:
    """An eps below the engine's resolution is reported after as many steps as patience allows."""
    bowl = Bowl(resolution=0.5)
    with JournalWriter.create(tmp_path / "j", recipe.header("hash", SEED)) as writer:
        driver = Driver(recipe, bowl, SEED, writer, patience=4)
        train(driver, 0, 3)
        with pytest.raises(DivergenceError, match="4 steps in a row, the last of them step 3") as e:
            driver.step(3, scored(driver.theta, batch(3), mean_loss))
    assert e.value.step == 3
    assert "eps is so small" in str(e.value)
    assert len(Journal.read(tmp_path / "j")) == 3


def test_patience_survives_a_resume_and_ends_with_a_slope(tmp_path: Path) -> None:
    """Steps without a slope count across a resume; one slope starts the count anew."""
    recipe = CASES["spsa"]

    def flat(scores: FloatArray) -> NDArray[np.float64]:
        return np.ones(len(scores))

    with JournalWriter.create(tmp_path / "j", recipe.header("hash", SEED)) as writer:
        driver = Driver(recipe, Bowl(), SEED, writer, patience=3)
        for step, objective in enumerate([flat, flat, mean_loss, flat, flat]):
            driver.step(step, scored(driver.theta, batch(step), objective))
    resumed = Driver(recipe, Bowl(), SEED, patience=3)
    resumed.resume(Journal.read(tmp_path / "j"))
    with pytest.raises(DivergenceError, match="3 steps in a row"):
        resumed.step(5, scored(driver.theta, batch(5), flat))


def test_another_recipe_cannot_resume(tmp_path: Path) -> None:
    """A journal goes on only with its own recipe and seed, and replays only with its own rule."""
    recorded(tmp_path / "j", CASES["adam"], 2)
    journal = Journal.read(tmp_path / "j")
    bowl = Bowl()
    for recipe, seed in ((CASES["spsa"], SEED), (CASES["adam"], SEED + 1)):
        with pytest.raises(UsageError, match="the journal belongs to seed 11 and recipe Spsa"):
            Driver(recipe, bowl, seed).resume(journal)
    for rule in (None, momentum(0.9)):
        with pytest.raises(UsageError, match=r"rule on tensors 'adam\(0.9, 0.999, 1e-08\)', not"):
            replay(bowl, journal, tensors=rule)
    assert_same_theta(bowl, Bowl())


def test_a_journal_that_contradicts_its_recipe(tmp_path: Path) -> None:
    """Recorded coefficients that do not follow from the recorded losses are an error."""
    recipe = CASES["spsa"]
    recorded(tmp_path / "j", recipe, 2)
    journal = Journal.read(tmp_path / "j")
    rows_ = journal.rows.copy()
    rows_["coefficients"][1] *= 1.001
    bent = Journal(journal.header, rows_, journal.data, 0)
    with pytest.raises(ArtifactError, match="disagree at step 1"):
        Driver(recipe, Bowl(), SEED).resume(bent)


def test_an_objective_of_the_wrong_shape() -> None:
    """One loss per probe: anything else is refused with both shapes."""
    with pytest.raises(
        UsageError, match=r"shape \(\) at step 0; it must return one per probe, \(2,\)"
    ):
        Driver(CASES["spsa"], Bowl(), SEED).step(
            0, scored(Bowl(), batch(0), lambda s: np.asarray(s.mean()))
        )


def test_a_recipe_prints_what_it_does() -> None:
    """The text in the journal names every part with its options."""
    assert str(CASES["decayed"]) == (
        "Spsa(eps=0.001, queries=1, average=True) | clip(50.0) | Schedule(shape='constant', "
        "peak=0.01, steps=0, warmup=0, floor=0.0) | decay(0.01, exempt=['bias']) > momentum(0.5)"
    )

"""Every compiled method takes the steps of its paper, on every runtime.

    ROWS × (causal, masked) × RUNTIMES        20 steps of a Driver, each against the textbook

A step is two functions, θ → losses and (θ, losses, state) → θ', and both are compared: the losses
with those of a plain transformers model in float64, and θ' with where the textbook goes from the
same losses. Exact gradients are compared as losses are: their inner products with signs.
The bounds are derived in `tests.methods.bounds` and, of gradients, in `tests.methods.backward`.

Before every step the textbook starts from zofx's θ, which float64 holds exactly, while its state
(moments, curvature) goes on. So nothing but one step's rounding is allowed, for rules that are not
smooth, too. Rows whose step is a sum of c·z also run freely, on their own losses, with the bound of
all the steps; for the others such a bound is unsound (a sign, a choice or a mask may turn over once
θ differs by an ulp) or says nothing (Adam divides by what may be near 0).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from tests.methods.bench import MODELS, Bench, Run, Step
from tests.methods.bounds import Forced, rounding_of_move
from tests.methods.free_run import FreeRun
from tests.methods.hybrid import Hybrid
from tests.methods.reference import Loss, Method, Mezo
from tests.methods.rows import ROWS, Row
from tests.methods.start import Subject
from tests.methods.subjects import hybrid
from zofx.runtimes import RUNTIMES
from zofx.session import Session

ENGINES = tuple(RUNTIMES)


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Bench]:
    """(kind, layers) → both models, of as many blocks as a row wants."""
    return cache(lambda kind, layers: Bench(kind, tmp_path_factory.mktemp(kind), layers))


@pytest.fixture
def run(
    benches: Callable[[str, int], Bench],
) -> Iterator[Callable[[Row, str, str], Run]]:
    """Opens a run; ends its session afterwards."""
    opened: list[Session] = []

    def start(row: Row, kind: str, engine: str) -> Run:
        bench = benches(kind, row.layers)
        folder = bench.artifact(row)
        support = RUNTIMES[engine].support(folder)
        if not support:
            pytest.skip("; ".join(support.reasons))
        opened.append(RUNTIMES[engine].load(folder, threads=1))
        return Run(row, bench, opened[-1])

    yield start
    for session in opened:
        session.close()


def compare(step: Step, subject: Subject, roundings: int) -> None:
    """One step of zofx with one of the textbook, which goes on from the measured losses."""
    method, theta = subject.method, subject.theta(step.after)
    method.theta, before = subject.theta(step.before), subject.theta(step.before)
    forced = Forced(step.given.loss, step.losses, step.descent.slopes)
    method.step(step.t, forced)
    within("losses", step.losses, torch.stack(forced.own), step.allowed)
    for name, own in forced.own_slopes.items():
        slope, signs = step.descent.slopes[name], step.descent.signs[name]
        allowed = step.descent.allowed[name]
        within(f"gradient of {name}", (signs * slope).sum(), (signs * own).sum(), allowed)
    moved = rounding_of_move(subject.size(step.before, step.after), method, roundings)
    for name, values in theta.items():
        if name in moved:
            within(name, values, method.theta[name], moved[name])
        else:
            assert torch.equal(values, before[name]), f"{name} is frozen"


def within(what: str, actual: Tensor, wanted: Tensor, allowed: Tensor) -> None:
    """Every value is as near as allowed."""
    assert actual.shape == wanted.shape, what
    error = (actual - wanted).abs()
    place = (error / allowed.clamp(min=torch.finfo(torch.float64).tiny)).argmax()
    assert (error <= allowed).all(), (
        f"{what}: off by {error.flatten()[place]:.3g}, allowed there {allowed.flatten()[place]:.3g}"
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_compiled_method_takes_the_steps_of_its_paper(
    run: Callable[[Row, str, str], Run], row: Row, kind: str, engine: str
) -> None:
    """Losses and θ after each of 20 steps are the textbook's, up to derived rounding."""
    started = run(row, kind, engine)
    subject, free = started.subject(), FreeRun(started.subject().method)
    first = {name: values.clone() for name, values in subject.method.theta.items()}
    for step in started.steps():
        roundings = row.roundings(started.settings, step.t)
        compare(step, subject, roundings)
        if row.free:
            allowed = free.step(step.t, step.given.loss, step.allowed, roundings)
            actual = subject.theta(step.after)
            for name, bound in allowed.items():
                within(f"{name} of the free run", actual[name], free.theta[name], bound)
                assert bound.max() < (actual[name] - first[name]).abs().max() / 10, (
                    "it says nothing"
                )


def _direction_of_another_step(method: Method) -> None:
    draw = method.z
    method.z = lambda t, query, name: draw(t + 1, query, name)


def _another_rate(method: Method) -> None:
    method.lr *= 1.001


def _another_distance(method: Method) -> None:
    method.eps *= 1.01


def _up(method: Method) -> None:
    method.lr *= -1


def _one_weight_less(method: Method) -> None:
    method.trained = method.trained[1:]


def _another_exact_rate(method: Hybrid) -> None:
    method.exact_lr *= 1.001


def _one_exact_weight_less(method: Hybrid) -> None:
    method.exact = method.exact[1:]


def _exact_weights_perturbed(method: Hybrid) -> None:
    draw = method.z
    method.z = lambda t, query, name: (
        torch.ones_like(method.theta[name]) if name in method.exact else draw(t, query, name)
    )
    method.trained = (*method.trained, *method.exact)


class _Late(Hybrid):
    """Takes the gradient after the move."""

    def update(self, t: int, loss: Loss) -> None:
        Mezo.update(self, t, loss)
        self.descend(self.slopes(loss))


MISTAKES = (_direction_of_another_step, _another_rate, _another_distance, _up, _one_weight_less)
MISTAKEN = [
    pytest.param(row, mistake, id=f"{row}-{mistake.__name__.strip('_')}")
    for row in ROWS
    for mistake in MISTAKES
    if not (
        mistake is _another_distance and row.run.estimator == "forward-gradient"
    )  # there is none
]
HYBRID = next(row for row in ROWS if row.method == "zo-hybrid")
EXACT_MISTAKES = (_another_exact_rate, _one_exact_weight_less, _exact_weights_perturbed)
MISTAKEN += [
    pytest.param(HYBRID, mistake, id=f"{HYBRID}-{mistake.__name__.strip('_')}")
    for mistake in EXACT_MISTAKES
]
LATE = replace(HYBRID, reference=partial(hybrid, kind=_Late))
MISTAKEN.append(pytest.param(LATE, lambda method: None, id=f"{HYBRID}-gradient_after_the_move"))


@pytest.mark.parametrize(("row", "mistake"), MISTAKEN)
def test_the_bounds_would_show_a_mistake(
    run: Callable[[Row, str, str], Run], row: Row, mistake: Callable[[Method], None]
) -> None:
    """A textbook that is changed a little is another method, in the first step."""
    started = run(row, "causal", "torch")
    subject = started.subject()
    mistake(subject.method)
    (step,) = started.steps(1)
    with pytest.raises(AssertionError, match=r"off by|is frozen"):
        compare(step, subject, row.roundings(started.settings, step.t))

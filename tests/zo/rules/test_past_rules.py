"""Rules on past rays: moments made again from directions are those that are kept as tensors."""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import pytest
from numpy.typing import NDArray

from zofx.errors import UsageError
from zofx.zo.estimate import Estimate
from zofx.zo.random.noise import sample
from zofx.zo.rules.coefficient_rules import chain, clip, past_momentum, sign
from zofx.zo.rules.gradient_rules import Gradient, Tensors, chain_tensors
from zofx.zo.rules.stateful_rules import adam, momentum, past_adam
from zofx.zo.types import FloatArray, Key, Ray

UNIT = 2.0**-24  # round-off of f32
WINDOW = 4
DoubleArray = NDArray[np.float64]


def estimates(*steps: list[float]) -> Iterator[Estimate]:
    """What an estimator would tell, step by step."""
    for step, coefficients in enumerate(steps):
        keys = tuple(Key(3, step, query) for query in range(len(coefficients)))
        yield Estimate(float(step), keys, np.array(coefficients))


def walked(beta: float, *steps: list[float]) -> list[Estimate]:
    """After `past_momentum`."""
    rule, after = past_momentum(beta, WINDOW), []
    state = rule.init()
    for step, estimate in enumerate(estimates(*steps)):
        changed, state = rule.update(estimate, state, step)
        after.append(changed)
    return after


def signs(key: Key) -> FloatArray:
    return sample("rademacher", key, "w", (64,))


def test_the_last_rays_are_walked_again() -> None:
    """This step's first, each earlier one weighted by beta once more, as far as the window."""
    after = walked(0.5, [3.0, 1.0], [5.0, 0.0], [-7.0, 2.0], [1.0, 1.0], [2.0, 4.0])
    assert [e.loss for e in after] == [0, 1, 2, 3, 4]
    assert after[0].coefficients.tolist() == [3, 1]
    assert after[1].coefficients.tolist() == [5, 0, 1.5, 0.5]
    assert after[4].coefficients.tolist() == [2, 4, 0.5, 0.5, -1.75, 0.5, 0.625, 0]
    assert after[4].keys == tuple(Key(3, 4 - age, query) for age in range(4) for query in (0, 1))


def test_within_the_window_it_is_momentum() -> None:
    """In exact numbers the sum of the rays is the tensor, bit for bit; later it is cut off.

    What is missing weighs beta^window / (1 − beta) of the largest gradient at most.
    """
    steps = [[4.0], [-2.0], [8.0], [1.0], [-5.0], [3.0], [16.0]]
    rule = momentum(0.5)
    state = rule.init({"w": np.zeros(64, np.float32)})
    for step, estimate in enumerate(walked(0.5, *steps)):
        g = {"w": np.float32(steps[step][0]) * signs(Key(3, step))}
        kept, state = rule.update(Gradient((), (), lambda key: {}, g), {}, state)
        again = sum(np.float32(ray.coefficient) * signs(ray.key) for ray in estimate.rays)
        missing = np.abs(again - kept["w"])
        if step < WINDOW:
            assert not missing.any()
        else:
            assert 0 < missing.max() <= 0.5**WINDOW / (1 - 0.5) * 16


def test_rules_before_it_change_this_steps_rays() -> None:
    """Each step's coefficients are clipped once, and remembered clipped."""
    rule = chain(clip(2.0), past_momentum(0.5, 2))
    state = rule.init()
    for step, estimate in enumerate(estimates([8.0], [1.0])):
        changed, state = rule.update(estimate, state, step)
    assert changed.coefficients.tolist() == [1.0, 1.0]
    assert rule.window == 2
    with pytest.raises(UsageError, match="a rule on past rays comes last"):
        chain(past_momentum(), sign())


RAYS = [(Ray(Key(3, step), c),) for step, c in enumerate([0.5, -2.0, 1e-3, 4.0, -0.3, 1.5, -9.0])]


def directions(key: Key) -> Tensors:
    return {"w": sample("gaussian", key, "w", (40,)), "v": sample("gaussian", key, "v", (2, 3))}


def gradients() -> Iterator[tuple[int, Gradient]]:
    """As a run hands them to a rule: this step's rays, and as many before as the window takes."""
    for step in count():
        if step == len(RAYS):
            return
        past = RAYS[max(0, step - WINDOW + 1) : step][::-1]
        yield step, Gradient(RAYS[step], tuple(past), directions)


def textbook(
    steps: Sequence[DoubleArray], beta1: float, beta2: float, eps: float
) -> tuple[DoubleArray, DoubleArray]:
    """Adam's direction from gradients, newest first, in float64; and its bound.

    Weights beta^j over their sum are those of unbiased running means. A step of either rule rounds
    beta, a product and a sum, and a handful of roundings follow: 3t + 10 in all, on sums of
    magnitudes; the root halves those of the second moment.
    """
    weights1, weights2 = (beta ** np.arange(len(steps)) for beta in (beta1, beta2))
    stack = np.stack(steps)
    first = np.tensordot(weights1, stack, 1) / weights1.sum()
    size = np.tensordot(weights1, np.abs(stack), 1) / weights1.sum()
    root = np.sqrt(np.tensordot(weights2, stack**2, 1) / weights2.sum()) + eps
    roundings = 3 * len(RAYS) + 10
    return first / root, 2 * roundings * UNIT / (1 - roundings * UNIT) * size / root


def test_within_the_window_it_is_adam() -> None:
    """Both are the textbook's; beyond the window `past_adam` is that of the window alone."""
    betas = 0.9, 0.99, 1e-8
    kept, again = adam(*betas), past_adam(*betas, window=WINDOW)
    theta = directions(Key(0, 0))
    states = kept.init(theta), again.init(theta)
    before: list[Tensors] = []
    for step, gradient in gradients():
        before.insert(0, gradient.tensors)
        one, first = kept.update(gradient, theta, states[0])
        other, second = again.update(gradient, theta, states[1])
        states = first, second
        for name in theta:
            all_steps = [g[name].astype(np.float64) for g in before]
            for moved, steps in ((one, all_steps), (other, all_steps[:WINDOW])):
                wanted, bound = textbook(steps, *betas)
                assert moved[name].dtype == np.float32
                assert (np.abs(moved[name] - wanted) <= bound).all()
            cut = np.abs(textbook(all_steps, *betas)[0] - other[name]).max()
            assert (cut > 100 * bound.max()) == (step >= WINDOW)


def test_the_past_is_made_one_step_at_a_time() -> None:
    """No more than the window's directions, each once, newest first."""
    asked: list[Key] = []

    def watched(key: Key) -> Tensors:
        asked.append(key)
        return directions(key)

    rule = past_adam(window=3)
    rule.update(Gradient(RAYS[5], (RAYS[4], RAYS[3]), watched), {}, rule.init({}))
    assert [key.step for key in asked] == [5, 4, 3]


def test_errors() -> None:
    """What cannot be a window, and what would come before the past is known."""
    for beta, window in ((0.9, 0), (1.0, 5)):
        with pytest.raises(UsageError, match=r"beta in \[0, 1\), window at least 1"):
            past_momentum(beta, window)
    with pytest.raises(UsageError, match="past_adam: window 0 must be at least 1"):
        past_adam(window=0)
    with pytest.raises(UsageError, match="comes first: it reads rays"):
        chain_tensors(momentum(), past_adam())
    assert chain_tensors(past_adam(window=7), momentum()).window == 7

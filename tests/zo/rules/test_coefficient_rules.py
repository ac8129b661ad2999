"""Rules on rays, and rules on tensors."""

from typing import Any

import numpy as np
import pytest

from zofx.errors import UsageError
from zofx.zo.estimate import Estimate
from zofx.zo.rules.coefficient_rules import (
    RayRule,
    chain,
    clip,
    normalise_by_spread,
    scale_by_rms,
    scale_by_schedule,
    sign,
)
from zofx.zo.rules.gradient_rules import Gradient, TensorRule, Tensors, chain_tensors, decay
from zofx.zo.rules.schedule import Schedule, constant
from zofx.zo.rules.stateful_rules import adam, momentum
from zofx.zo.types import Key


def applied(rule: RayRule[Any], *steps: list[float]) -> list[list[float]]:
    """The coefficients after each step."""
    state, after = rule.init(), []
    for step, coefficients in enumerate(steps):
        keys = tuple(Key(0, step, query) for query in range(len(coefficients)))
        estimate = Estimate(1.5, keys, np.array(coefficients, dtype=np.float64))
        changed, state = rule.update(estimate, state, step)
        assert (changed.loss, changed.keys) == (1.5, keys)
        assert estimate.coefficients.tolist() == coefficients
        after.append(changed.coefficients.tolist())
    return after


def given(gradient: Tensors) -> Gradient:
    """A gradient that is there already."""
    return Gradient((), (), lambda key: {}, gradient)


def descended(rule: TensorRule[Any], theta: Tensors, *gradients: Tensors) -> list[Tensors]:
    """The directions after each step."""
    state, after = rule.init(theta), []
    for gradient in gradients:
        direction, state = rule.update(given(gradient), theta, state)
        assert all(values.dtype == np.float32 for values in direction.values())
        after.append(direction)
    return after


def test_clip() -> None:
    """Coefficients beyond the limit stop at it, on both sides."""
    assert applied(clip(2.0), [3.0, -3.0, 1.0]) == [[2.0, -2.0, 1.0]]


def test_sign() -> None:
    """Only the sign is left; no slope stays no slope."""
    assert applied(sign(), [3.0, -0.1, 0.0]) == [[1.0, -1.0, 0.0]]


def test_scale_by_schedule() -> None:
    """Each step is scaled by the schedule's value at that step."""
    rule = scale_by_schedule(Schedule("linear", peak=2.0, steps=2))
    assert applied(rule, [1.0], [1.0], [1.0]) == [[2.0], [1.0], [0.0]]


def test_chain_is_in_order() -> None:
    """The first rule comes first: clip then scale is not scale then clip."""
    double = scale_by_schedule(constant(2.0))
    assert applied(chain(clip(1.0), double), [3.0]) == [[2.0]]
    assert applied(chain(double, clip(1.0)), [3.0]) == [[1.0]]
    assert applied(chain(), [3.0]) == [[3.0]]


def test_chains_nest_and_carry_states() -> None:
    """A chain is a rule; the states of its parts travel with it."""
    nested = chain(sign(), chain(scale_by_rms(), clip(10.0)))
    flat = chain(sign(), scale_by_rms(), clip(10.0))
    steps = [3.0, 1.0], [0.0, 2.0], [-5.0, 0.0]
    assert applied(nested, *steps) == applied(flat, *steps)
    assert nested.text == flat.text == "sign() > scale_by_rms(0.999, 1e-08) > clip(10.0)"


def test_normalise_by_spread() -> None:
    """Projected gradients have deviation 1 afterwards, whatever the unit of the loss."""
    slopes = np.array([3.0, -1.0, 4.0, 1.0])
    (once,) = applied(normalise_by_spread(), list(slopes / 4))
    (scaled,) = applied(normalise_by_spread(), list(slopes * 1000 / 4))
    np.testing.assert_allclose(once, scaled, rtol=1e-12)
    np.testing.assert_allclose(np.array(once) * 4, slopes / np.std(slopes, ddof=1), rtol=1e-12)


def test_normalise_without_spread() -> None:
    """Equal slopes have no spread to divide by and stay; one query never has one."""
    assert applied(normalise_by_spread(), [2.0, 2.0]) == [[2.0, 2.0]]
    with pytest.raises(UsageError, match="needs at least two queries"):
        applied(normalise_by_spread(), [2.0])


def test_scale_by_rms() -> None:
    """The first step has length 1; a steady size stays there; the mean follows a change slowly."""
    first, second, third = applied(scale_by_rms(decay=0.5), [-8.0], [8.0], [16.0])
    assert first == pytest.approx([-1.0])
    assert second == pytest.approx([1.0])
    mean_square = (0.125 * 64 + 0.25 * 64 + 0.5 * 256) / (1 - 0.125)
    assert third == pytest.approx([16 / np.sqrt(mean_square)])


def test_momentum() -> None:
    """Heavy ball: what came before counts beta, beta², ... of what comes now."""
    theta = {"w": np.zeros(2, np.float32)}
    g = {"w": np.array([1, -2], np.float32)}
    after = descended(momentum(0.5), theta, g, g, g)
    assert [d["w"].tolist() for d in after] == [[1, -2], [1.5, -3], [1.75, -3.5]]


def test_adam_equals_its_formula() -> None:
    """Three steps equal the textbook's, computed in float64 with powers."""
    gradients = [np.array(g) for g in ([0.1, -20.0, 0.0], [0.3, 5.0, 1e-3], [-0.2, 1.0, 0.0])]
    theta = {"w": np.zeros(3, np.float32)}
    after = descended(
        adam(0.9, 0.99, 1e-8), theta, *({"w": g.astype(np.float32)} for g in gradients)
    )
    m, v = np.zeros(3), np.zeros(3)
    for t, (g, direction) in enumerate(zip(gradients, after, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        expected = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        np.testing.assert_allclose(direction["w"], expected, rtol=2e-6, atol=1e-7)


def test_decay() -> None:
    """rate · θ is added, save to the trainables that are exempt."""
    theta = {"fc.weight": np.array([4.0], np.float32), "fc.bias": np.array([4.0], np.float32)}
    gradient = {name: np.array([1.0], np.float32) for name in theta}
    (after,) = descended(decay(0.5, exempt=("bias",)), theta, gradient)
    assert {name: values.tolist() for name, values in after.items()} == {
        "fc.weight": [3.0],
        "fc.bias": [1.0],
    }


def test_tensor_rules_chain_in_order() -> None:
    """Decay before momentum is remembered by it, after it is not."""
    theta = {"w": np.array([2.0], np.float32)}
    zero = {"w": np.array([0.0], np.float32)}
    coupled = descended(chain_tensors(decay(1.0), momentum(0.5)), theta, zero, zero)
    decoupled = descended(chain_tensors(momentum(0.5), decay(1.0)), theta, zero, zero)
    assert [d["w"].tolist() for d in coupled] == [[2.0], [3.0]]
    assert [d["w"].tolist() for d in decoupled] == [[2.0], [2.0]]


def test_rules_do_not_write_to_what_they_are_given() -> None:
    """θ, gradients and earlier states are values: a rule makes new ones."""
    rule = chain_tensors(decay(0.1), momentum(), adam())
    theta = {"w": np.ones(3, np.float32)}
    gradient = {"w": np.full(3, 2.0, np.float32)}
    for values in (theta["w"], gradient["w"]):
        values.setflags(write=False)
    state = rule.init(theta)
    first, _ = rule.update(given(gradient), theta, state)
    again, _ = rule.update(given(gradient), theta, state)
    np.testing.assert_array_equal(first["w"], again["w"])


def test_a_rule_on_tensors_is_no_rule_on_rays() -> None:
    """Chaining Adam with rays is an error of types, or mypy would call this ignore unused."""
    with pytest.raises(TypeError):
        applied(chain(adam()), [1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: clip(0.0), "clip(0.0): the limit must be positive"),
        (lambda: scale_by_rms(1.0), "scale_by_rms(decay=1.0): decay must be in [0, 1)"),
        (lambda: momentum(-0.1), "momentum: beta -0.1 must be in [0, 1)"),
        (lambda: adam(beta2=1.0), "adam: beta 1.0 must be in [0, 1)"),
    ],
)
def test_errors(make: object, message: str) -> None:
    """A rule that could not work is refused when it is written down."""
    assert callable(make)
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value) == message

"""Rules that are tied to the state of a session: bases of low-rank trainables, scales of
directions."""

from typing import Any

import numpy as np
import pytest

from zofx.errors import UsageError
from zofx.zo.random.direction_spec import Basis, Noise
from zofx.zo.random.low_rank_bases import carried
from zofx.zo.random.noise import sample
from zofx.zo.rules.gradient_rules import (
    Gradient,
    TensorRule,
    Tensors,
    chain_tensors,
    decay,
    sign_coordinates,
)
from zofx.zo.rules.stateful_rules import (
    adam,
    diagonal_hessian,
    low_rank_momentum,
    momentum,
    past_adam,
)
from zofx.zo.types import Key, Ray

UNIT = 2.0**-24  # round-off of f32


def given(gradient: Tensors) -> Gradient:
    """A gradient that is there already."""
    return Gradient((), (), lambda key: {}, gradient)


def test_sign_coordinates() -> None:
    """Each coordinate of the gradient becomes ±1, or stays 0."""
    rule, g = sign_coordinates(), {"w": np.array([[-3, 0], [2e-30, 1]], np.float32)}
    along, _ = rule.update(given(g), {}, rule.init({}))
    assert along["w"].tolist() == [[-1, 0], [1, 1]]
    assert along["w"].dtype == np.float32


def test_low_rank_momentum_is_an_average() -> None:
    """The first gradient whole, then beta of what was and 1 − beta of what comes."""
    rule = low_rank_momentum(0.75)
    state, after = rule.init({"w": np.zeros(2, np.float32)}), []
    for g in ([8.0, -4.0], [0.0, 4.0], [16.0, 0.0]):
        along, state = rule.update(given({"w": np.array(g, np.float32)}), {}, state)
        after.append(along["w"].tolist())
    assert after == [[8, -4], [6, -2], [8.5, -1.5]]


FACTORS = {
    "old": {"a.right": sample("gaussian", Key(1, 0), "a", (2, 30))},
    "new": {"a.right": sample("gaussian", Key(2, 0), "a", (2, 30))},
}
BASIS = Basis("a.right", "a")
NOISE = Noise("gaussian", bases={"a.slice": BASIS, "b.lora_B": Basis("b.lora_A", gain=2.0)})


@pytest.mark.parametrize("chained", [False, True])
def test_low_rank_momentum_is_carried_to_a_new_basis(chained: bool) -> None:
    """Only what is folded and drawn anew: vectors, and adapters beside frozen matrices, stay."""
    rule = low_rank_momentum(0.5)
    rule = chain_tensors(rule, decay(0.0)) if chained else rule  # type: ignore[assignment]  # a rule is a rule
    old, new = FACTORS["old"], FACTORS["new"]
    g = {
        name: sample("gaussian", Key(3, 0), name, shape)
        for name, shape in {"a.slice": (5, 2), "b.lora_B": (4, 3), "bias": (6,)}.items()
    }
    state = rule.init(g)
    assert rule.refreshed
    assert rule.refreshed(state, old, new, NOISE) == state  # at the first, nothing is known yet
    _, state = rule.update(given(g), g, state)
    moved = rule.refreshed(state, old, new, NOISE)
    zero = {name: np.zeros_like(values) for name, values in g.items()}
    along, _ = rule.update(given(zero), g, moved)
    wanted = {**g, "a.slice": carried(g["a.slice"], BASIS, old, new)}
    for name, values in wanted.items():
        np.testing.assert_array_equal(along[name], np.float32(0.5) * values)


@pytest.mark.parametrize("rule", [decay(0.1), sign_coordinates(), chain_tensors()])
def test_a_rule_without_memory_follows_any_basis(rule: TensorRule[Any]) -> None:
    """Its state before and after is that of a new run."""
    state = rule.init({"a.slice": np.ones((5, 2), np.float32)})
    assert rule.refreshed
    assert rule.refreshed(state, FACTORS["old"], FACTORS["new"], NOISE) == state


@pytest.mark.parametrize("rule", [momentum(), adam(), past_adam(), diagonal_hessian()])
def test_a_state_of_coordinates_cannot_follow(rule: TensorRule[Any]) -> None:
    """Nor can a chain that has such a rule, whatever its others do."""
    assert rule.refreshed is None
    assert chain_tensors(rule, low_rank_momentum(), decay(0.1)).refreshed is None


SHAPES = {"w": (3, 4), "b": (5,)}
STEPS = [(2.0, 0.5), (-1.0, 30.0), (0.25, 0.0), (3.0, 7.0)]
"""Slope and curvature of each step."""


def test_diagonal_hessian_equals_its_formula() -> None:
    """H, the step and the next scales are those of float64, to the roundings of every step.

    u is had back from z by a root, a division and two products, 5 roundings; twice in H, which is a
    sum of positive terms of 6 more; so an error of H grows by less than 20 roundings a step.
    """
    smooth = 0.05
    rule = diagonal_hessian(smooth)
    theta = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    scales = {f"{name}.scale": np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    state = rule.init(theta | scales)
    exact = {name: np.ones(shape) for name, shape in SHAPES.items()}
    for step, (slope, curvature) in enumerate(STEPS):
        u = {n: sample("gaussian", Key(1, step), n, shape) for n, shape in SHAPES.items()}
        z = {name: values * scales[f"{name}.scale"] for name, values in u.items()}
        rays = (Ray(Key(1, step), slope), Ray(Key(1, step, 1), curvature))
        along, state = rule.update(Gradient(rays, (), lambda key, z=z: z), theta, state)  # type: ignore[misc]  # of this step
        scales = dict(rule.exposes(state))
        within = 40 * (step + 1) * UNIT
        for name, values in u.items():
            before, wide = exact[name], values.astype(np.float64)
            exact[name] = (1 - smooth) * before + smooth * curvature * before * wide**2
            root = np.sqrt(exact[name])
            np.testing.assert_allclose(along[name], slope * wide / root, rtol=within)
            np.testing.assert_allclose(scales[f"{name}.scale"], 1 / root, rtol=within)
            assert along[name].dtype == scales[f"{name}.scale"].dtype == np.float32


def test_diagonal_hessian_reads_one_direction() -> None:
    """The curvature is a number under a key of its own, which no direction is made of."""
    asked: list[Key] = []

    def watched(key: Key) -> Tensors:
        asked.append(key)
        return {"w": np.ones(3, np.float32)}

    rule = chain_tensors(diagonal_hessian(0.5), decay(0.1))
    theta = {"w": np.full(3, 10, np.float32), "w.scale": np.ones(3, np.float32)}
    rays = (Ray(Key(1, 4), 6.0), Ray(Key(1, 4, 1), 3.0))
    along, state = rule.update(Gradient(rays, (), watched), theta, rule.init(theta))
    assert asked == [Key(1, 4)]
    assert rule.exposes(state)["w.scale"].tolist() == [np.float32(1) / np.sqrt(np.float32(2))] * 3
    np.testing.assert_allclose(along["w"], 6 / np.sqrt(2) + 0.1 * 10, rtol=1e-6)


def test_diagonal_hessian_needs_scales_and_comes_first() -> None:
    """An artifact without scales, and a rule before it, are refused before anything moves."""
    with pytest.raises(UsageError, match=r"compile with a method that does, such as hizoo"):
        diagonal_hessian().init({"w": np.ones(3, np.float32)})
    with pytest.raises(UsageError, match="on curvature, comes first"):
        chain_tensors(decay(0.1), diagonal_hessian())

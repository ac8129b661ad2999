"""A rule on tensors is taken slice by slice: the same bits as all at once, in less memory."""

import tracemalloc
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import pytest

from tests.zo.bowl import Bowl, LowRank, Scaled
from zofx.runtimes.host.theta import HostTheta, HostThetaSession
from zofx.zo.journal.replay import Mover
from zofx.zo.random.direction_spec import DirectionSpec, Noise, RandomMask, Turn
from zofx.zo.random.noise import CHUNK
from zofx.zo.rules.gradient_rules import Gradient
from zofx.zo.rules.syntax import TENSOR_RULES, tensor_rule
from zofx.zo.types import FloatArray, Key, Ray

STEPS = 5
RATE = 0.1
RULES = (
    "adam(0.9, 0.99)",
    "momentum()",
    "past_adam(window=3)",
    "low_rank_momentum()",
    "sign_coordinates()",
    "decay(0.1, exempt=['bias']) > adam()",
    "diagonal_hessian(0.1)",
    "diagonal_hessian(0.1) > momentum(0.5) > decay(0.1)",
)


def rays(step: int) -> tuple[Ray, ...]:
    """Two directions; of a curved rule, a slope and a curvature."""
    slope = float(np.float32((-1) ** step * (0.3 + step)))
    return Ray(Key(7, step, 0), slope), Ray(Key(7, step, 1), 0.25)


def at_once(session: Bowl, text: str, refresh: int) -> dict[str, FloatArray]:
    """θ after the steps by the rule's own definition, every trainable in one call."""
    rule: Any = tensor_rule(text)
    state = rule.init(session.read())
    past: list[tuple[Ray, ...]] = []
    for step in range(STEPS):
        old = session.read()
        if refresh and step % refresh == 0:
            session.refresh(Key(7, step))
            state = rule.refreshed(state, old, session.read(), session.noise)
        theta = session.read()
        gradient = Gradient(rays(step), tuple(past[: rule.window - 1]), session.directions)
        along, state = rule.update(gradient, theta, state)
        past.insert(0, rays(step))
        moved = {name: theta[name] + np.float32(-RATE) * a for name, a in along.items()}
        session.write({**theta, **moved, **rule.exposes(state)})
    return session.read()


@pytest.mark.parametrize(
    ("kind", "text", "refresh"),
    [(Scaled if "hessian" in text else Bowl, text, 0) for text in RULES]
    + [(LowRank, "low_rank_momentum()", 2), (LowRank, "decay(0.1) > low_rank_momentum()", 2)],
)
def test_slices_one_by_one_are_slices_at_once(kind: type[Bowl], text: str, refresh: int) -> None:
    """Whatever the rule keeps, reads, sets or carries to a new basis, θ is equal bit for bit."""
    session = kind()
    mover = Mover(session, tensor_rule(text), 7, refresh, 0.0)
    for step in range(STEPS):
        mover.begin_step(step)
        mover.move(rays(step), RATE)
    wanted, theta = at_once(kind(), text, refresh), session.read()
    assert wanted.keys() == theta.keys()
    for name, values in wanted.items():
        assert values.tobytes() == theta[name].tobytes(), name


def test_every_rule_is_tried() -> None:
    """A new one takes a row above."""
    assert all(any(name in text for text in RULES) for name in TENSOR_RULES)


SPECS: Mapping[str, DirectionSpec] = {
    "masked": DirectionSpec("gaussian", mask=RandomMask(30_000, 3)),
    "idle": DirectionSpec("rademacher", turn=Turn(1, 2, "step")),
    "small": DirectionSpec("gaussian", limit=0.5),
    "scaled": DirectionSpec("gaussian", scale="scaled.scale"),
}


def test_a_direction_is_what_the_law_of_its_slice_says() -> None:
    """Under every spec, and where a draw is made in several chunks."""
    shapes = {**dict.fromkeys(SPECS, (3, 5)), "long": (2, CHUNK // 2 + 3)}
    rng = np.random.Generator(np.random.Philox(key=1))
    values = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    values["scaled.scale"] = rng.standard_normal((3, 5), np.float32)
    session = HostThetaSession(HostTheta(values, shapes, Noise("gaussian", SPECS)))
    for key in (Key(3, 4), Key(3, 5, 1)):
        for name, shape in shapes.items():
            direction, spec = session.direction(key, name), session.noise.spec(name)
            z = spec.draw(key, name, 0, prod(shape)).reshape(shape)
            z = spec.apply(z, values[name], values[spec.scale] if spec.scale else None)
            assert direction.shape == shape
            assert direction.tobytes() == z.tobytes(), name


@pytest.mark.parametrize("text", ["adam()", "past_adam(window=3)", "decay(0.1) > momentum()"])
def test_a_step_holds_temporaries_of_one_slice(text: str) -> None:
    """Beside a copy of θ, less than ten arrays of a trainable, of which there are forty."""
    shapes = {f"w{number}": (1 << 14,) for number in range(40)}
    values = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    session: Any = HostThetaSession(
        HostTheta(values, shapes, Noise("rademacher"))
    )  # nothing is evaluated
    mover = Mover(session, tensor_rule(text), 7, 0, 0.0)
    tracemalloc.start()
    try:
        for step in range(3):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            mover.move(rays(step), RATE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    slice_bytes = 4 * prod(shapes["w0"])
    assert len(shapes) * slice_bytes < peak - before < (len(shapes) + 10) * slice_bytes

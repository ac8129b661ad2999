"""Draws that are kept: made once per step, and the same moves as when they are made again."""

import math
from typing import Any

import numpy as np
import pytest

from tests.zo.bowl import Bowl
from zofx.runtimes.host import theta
from zofx.zo.random import noise
from zofx.zo.random.direction_spec import DirectionSpec, Noise, RandomMask
from zofx.zo.random.noise import Kind
from zofx.zo.types import FloatArray, Key, Ray

KEYS = (Key(3, 1, 0), Key(3, 1, 1))
MATRIX = np.array([[0.5, 0.25], [-0.5, -0.25]], np.float32)


@pytest.mark.parametrize("small", [0, theta.SMALL])
@pytest.mark.parametrize(
    ("queries", "room", "forwards", "draws"),
    [
        (1, 0, 1, 2),  # a single key's are all there in the forward: kept, however large
        (1, 0, 2, 2),
        (2, 0, 1, 8),  # two keys', for which there is no room, are made again to move
        (2, 1 << 20, 1, 4),
    ],
)
def test_how_often_directions_are_drawn(
    queries: int, room: int, forwards: int, draws: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per slice (there are two) and key, at once or one by one; what is kept moves θ by the same
    bits."""
    monkeypatch.setattr(theta, "KEEP_BYTES", room)
    monkeypatch.setattr(theta, "SMALL", small)
    drawn: list[str] = []
    draw, sample_small = DirectionSpec.draw, noise.sample_small

    def counted(spec: DirectionSpec, key: Key, name: str, *span: Any) -> FloatArray:
        drawn.append(name)
        return draw(spec, key, name, *span)

    def counted_at_once(kind: Kind, key: Key, sizes: dict[str, int]) -> dict[str, FloatArray]:
        drawn.extend(sizes)
        return sample_small(kind, key, sizes)

    keys = KEYS[:queries]
    rays = [Ray(key, 0.125 * (number + 1)) for number, key in enumerate(keys)]
    expected = Bowl()
    expected.move(rays)

    monkeypatch.setattr(DirectionSpec, "draw", counted)
    monkeypatch.setattr(theta, "sample_small", counted_at_once)
    directions = Bowl().all_that_moves("gaussian")
    for _ in range(forwards):
        directions.probes(keys, MATRIX[:, :queries])
    directions.move(rays)
    assert len(drawn) == draws
    for name, value in expected.theta.items():
        np.testing.assert_array_equal(directions.values[name], value)


def test_other_keys_are_dropped_before_new_ones_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two sets of directions, each as large as θ, were alive at once."""
    monkeypatch.setattr(theta, "SMALL", 0)
    directions = Bowl().all_that_moves("gaussian")
    directions.probes(KEYS[:1], MATRIX[:, :1])
    alive: list[int] = []
    draw = DirectionSpec.draw

    def watched(spec: DirectionSpec, key: Key, name: str, *span: Any) -> FloatArray:
        alive.append(len(directions._kept))
        return draw(spec, key, name, *span)

    monkeypatch.setattr(DirectionSpec, "draw", watched)
    directions.probes(KEYS[1:], MATRIX[:, 1:])
    assert set(alive) == {0}


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_only_plain_small_slices_are_drawn_at_once(kind: Kind) -> None:
    """All directions are those of the specs: of small trainables, of larger ones, of one with a
    mask."""
    shapes = {"a": (3, 5), "b": (theta.SMALL + 1,), "masked": (64,), "c": (), "d": (theta.SMALL,)}
    specs = Noise(kind, {"masked": DirectionSpec(kind, mask=RandomMask(keep=1 << 15))})
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    z, _ = theta.HostTheta(values, shapes, specs).probes(KEYS, MATRIX)
    assert 0 < np.count_nonzero(z["masked"]) < z["masked"].size
    for name, shape in shapes.items():
        size = math.prod(shape)
        whole = [specs.spec(name).draw(key, name, 0, size).reshape(shape) for key in KEYS]
        np.testing.assert_array_equal(z[name], np.stack(whole))

"""Draws that are kept: made once per step, and the same moves as when they are made again."""

from typing import Any

import numpy as np
import pytest

from tests.zo.bowl import Bowl
from zofx.runtimes import slices
from zofx.zo import Key, Ray
from zofx.zo.laws import Law
from zofx.zo.types import FloatArray

KEYS = (Key(3, 1, 0), Key(3, 1, 1))
MATRIX = np.array([[0.5, 0.25], [-0.5, -0.25]], np.float32)


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
    queries: int, room: int, forwards: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per slice (there are two) and key; what is kept moves θ by the same bits."""
    monkeypatch.setattr(slices, "KEEP_BYTES", room)
    drawn: list[str] = []
    draw = Law.draw

    def counted(law: Law, key: Key, name: str, *span: Any) -> FloatArray:
        drawn.append(name)
        return draw(law, key, name, *span)

    keys = KEYS[:queries]
    rays = [Ray(key, 0.125 * (number + 1)) for number, key in enumerate(keys)]
    expected = Bowl()
    expected.move(rays)

    monkeypatch.setattr(Law, "draw", counted)
    held = Bowl().all_that_moves("gaussian")
    for _ in range(forwards):
        held.probes(keys, MATRIX[:, :queries])
    held.move(rays)
    assert len(drawn) == draws
    for name, value in expected.theta.items():
        np.testing.assert_array_equal(held.values[name], value)


def test_other_keys_are_dropped_before_new_ones_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two sets of directions, each as large as θ, were alive at once."""
    held = Bowl().all_that_moves("gaussian")
    held.probes(KEYS[:1], MATRIX[:, :1])
    alive: list[int] = []
    draw = Law.draw

    def watched(law: Law, key: Key, name: str, *span: Any) -> FloatArray:
        alive.append(len(held._kept))
        return draw(law, key, name, *span)

    monkeypatch.setattr(Law, "draw", watched)
    held.probes(KEYS[1:], MATRIX[:, 1:])
    assert set(alive) == {0}

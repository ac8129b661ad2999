"""Laws: what a direction is beyond its draw, against the specification and by pieces."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from zofx.zo.random import apply as moving
from zofx.zo.random.apply import apply_rays
from zofx.zo.random.direction_spec import KEEP_ALL, Basis, DirectionSpec, Noise, RandomMask, Turn
from zofx.zo.random.noise import sample
from zofx.zo.types import FloatArray, Key, Ray

KEY = Key(seed=9, step=25, query=3)
HALF = RandomMask(KEEP_ALL // 2, interval=10)
SPECS = {
    "plain": DirectionSpec("gaussian"),
    "signs": DirectionSpec("rademacher"),
    "masked": DirectionSpec("gaussian", mask=HALF),
    "masked-signs": DirectionSpec("rademacher", mask=RandomMask(100)),
    "its-turn": DirectionSpec("gaussian", turn=Turn(3, 4, "query")),
    "not-its-turn": DirectionSpec("gaussian", turn=Turn(2, 4, "query")),
    "all": DirectionSpec("gaussian", HALF, Turn(1, 2, "step"), limit=0.5, scale="w.scale"),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def mask_by_hand(key: Key, name: str, mask: RandomMask, length: int) -> NDArray[np.bool_]:
    """The specification read aloud: stream 3 of the key of the interval, 16 bits an entry."""
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    first = key.step // mask.interval * mask.interval if mask.interval else 0
    generator = np.random.Philox(
        counter=np.array([0, word, 3, 0], dtype=np.uint64),
        key=np.array([key.seed, first << 16], dtype=np.uint64),
    )
    words = [int(generator.random_raw()) for _ in range(-(-length // 4))]
    bits = [(w >> (16 * part)) % 2**16 for w in words for part in range(4)]
    return np.array(bits[:length]) < mask.keep


@each_spec
def test_a_draw_follows_the_specification(spec: DirectionSpec) -> None:
    """Noise of the key, zero where the mask says so, and all of it where it is not its turn."""
    z = sample(spec.kind, KEY, "w", (501,))
    if spec.mask:
        z = np.where(mask_by_hand(KEY, "w", spec.mask, 501), z, 0)
    if spec.turn:
        counted = {"step": KEY.step, "query": KEY.query}[spec.turn.by]
        z *= counted % spec.turn.groups == spec.turn.group
    np.testing.assert_array_equal(spec.draw(KEY, "w", 0, 501), z)


@each_spec
def test_a_draw_in_pieces_is_the_whole(spec: DirectionSpec) -> None:
    """Any range of a trainable is that range of the whole, wherever it starts."""
    whole = spec.draw(KEY, "w", 0, 2500)
    cuts = [0, 1, 3, 4, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 2500]
    parts = [spec.draw(KEY, "w", start, stop - start) for start, stop in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_draw_is_the_callers() -> None:
    """Writing to one changes no other."""
    spec = SPECS["masked"]
    first = spec.draw(KEY, "w", 0, 40)
    kept = first.copy()
    first += 1
    np.testing.assert_array_equal(spec.draw(KEY, "w", 0, 40), kept)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.8, 1.0])
def test_a_mask_keeps_its_share(share: float) -> None:
    """Within five deviations of the binomial; all is all."""
    size, keep = 1 << 18, round(share * KEEP_ALL)
    p = keep / KEEP_ALL
    kept = np.count_nonzero(DirectionSpec("rademacher", RandomMask(keep)).draw(KEY, "w", 0, size))
    assert abs(kept - size * p) <= 5 * np.sqrt(size * p * (1 - p))


def test_a_mask_takes_no_account_of_what_it_masks() -> None:
    """What is kept has the moments of the noise, within five standard errors."""
    z = DirectionSpec("gaussian", RandomMask(KEEP_ALL // 4)).draw(KEY, "w", 0, 1 << 18)
    kept = z[z != 0].astype(np.float64)
    assert abs(kept.mean()) < 5 / np.sqrt(kept.size)
    assert abs(np.mean(kept**2) - 1) < 5 * np.sqrt(2 / kept.size)


def places(mask: RandomMask, key: Key, name: str = "w") -> list[int]:
    """Which of 300 entries stay."""
    return np.flatnonzero(DirectionSpec("rademacher", mask).draw(key, name, 0, 300)).tolist()


def test_a_mask_holds_for_its_interval_and_for_all_queries() -> None:
    """Steps 20 to 29, whatever the query; step 30 has another."""
    within = [Key(9, step, query) for step in (20, 25, 29) for query in (0, 7)]
    assert len({tuple(places(HALF, key)) for key in within}) == 1
    others = [places(HALF, Key(9, 19)), places(HALF, Key(9, 30)), places(HALF, Key(8, 25))]
    assert places(HALF, KEY) not in [*others, places(HALF, KEY, "v")]


def test_a_mask_without_an_interval_holds_for_the_run() -> None:
    """One mask for all steps of a seed."""
    mask = replace(HALF, interval=0)
    assert places(mask, Key(9, 0)) == places(mask, Key(9, 10**9)) != places(mask, Key(8, 0))


@pytest.mark.parametrize("by", ["step", "query"])
def test_every_group_has_one_turn_in_a_round(by: str) -> None:
    """And in the same order in the next round."""
    keys = [Key(1, n, 0) if by == "step" else Key(1, 0, n) for n in range(8)]
    turns = [[Turn(group, 4, by).has(key) for group in range(4)] for key in keys]  # type: ignore[arg-type]  # a parameter is a string
    assert turns == 2 * np.eye(4, dtype=bool).tolist()


def test_what_depends_on_the_session() -> None:
    """|θ| ≤ limit, the limit itself included, times the scale; z is not written to."""
    z, theta = np.full(5, 3, np.float32), np.array([-0.5, 0.25, 0, 0.50000006, -7], np.float32)
    scale = np.arange(5, dtype=np.float32)
    z.setflags(write=False)
    limited = DirectionSpec("gaussian", limit=0.5)
    assert limited.apply(z, theta, None).tolist() == [3, 3, 3, 0, 0]
    assert replace(limited, scale="s").apply(z, theta, scale).tolist() == [0, 3, 6, 0, 0]
    assert DirectionSpec("gaussian", scale="s").apply(z, theta, scale).tolist() == [0, 3, 6, 9, 12]
    assert [spec.depends_on_state for spec in SPECS.values()] == 6 * [False] + [True]


def test_moving_follows_the_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    """θ + round(c·z) ray by ray, the mask of small weights made of θ before the first ray."""
    monkeypatch.setattr(moving, "CHUNK", 7)
    rays = [Ray(Key(9, 25, 0), 0.75), Ray(Key(9, 25, 1), -0.3), Ray(Key(9, 26), 2.0)]
    theta: FloatArray = np.linspace(-1, 1, 40, dtype=np.float32).reshape(8, 5)
    scale = np.linspace(0.1, 2, 40, dtype=np.float32).reshape(8, 5)
    for spec in SPECS.values():
        values = {"w": theta.copy(), "w.scale": scale.copy()}
        apply_rays(values, ["w"], rays, Noise(spec.kind, {"w": spec}))
        expected = theta.copy()
        for ray in rays:
            z = spec.draw(ray.key, "w", 0, 40).reshape(8, 5)
            if spec.limit is not None:
                z = np.where(np.abs(theta) <= spec.limit, z, 0)
            z = z * scale if spec.scale else z
            expected = expected + np.float32(ray.coefficient) * z
        np.testing.assert_array_equal(values["w"], expected)
        np.testing.assert_array_equal(values["w.scale"], scale)


def test_noise_reads_back_from_json() -> None:
    """Every field that is set, and no other."""
    bases = {
        "a.slice": Basis("a.right", "a", "a.left", 0.5, orthonormal=True),
        "b.lora_B": Basis("b.lora_A", gain=2.0),
    }
    noise = Noise("gaussian", {"w": SPECS["all"], "v": DirectionSpec("gaussian", limit=0.0)}, bases)
    payload = json.loads(json.dumps(noise.to_dict()))
    assert Noise.from_dict(payload) == noise
    assert payload["specs"]["v"] == {"kind": "gaussian", "limit": 0.0}
    assert payload["bases"]["b.lora_B"] == {"right": "b.lora_A", "gain": 2.0, "orthonormal": False}
    assert Noise("rademacher").to_dict() == {"kind": "rademacher"}
    assert Noise.from_dict({"kind": "rademacher"}) == Noise("rademacher")


def test_a_slice_without_a_law_has_the_noise_alone() -> None:
    """And turns are those of any trainable that has some."""
    noise = Noise("rademacher", {"w": SPECS["its-turn"]})
    assert (noise.spec("w"), noise.spec("v")) == (SPECS["its-turn"], DirectionSpec("rademacher"))
    assert (noise.turns, Noise("gaussian").turns) == (Turn(3, 4, "query"), None)

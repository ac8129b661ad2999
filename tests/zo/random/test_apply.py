"""Moving θ along rays."""

from typing import Any

import numpy as np
import pytest

from zofx.errors import UsageError
from zofx.zo.random import apply, direction_spec, noise
from zofx.zo.random.apply import apply_rays
from zofx.zo.random.direction_spec import Noise
from zofx.zo.random.noise import Kind, sample, sample_flat
from zofx.zo.types import FloatArray, Key, Ray

RAYS = (
    Ray(Key(1, 2), float(np.float32(0.1))),
    Ray(Key(1, 2, 1), float(np.float32(-3e-4))),
    Ray(Key(9, 9), 1.0),
)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_each_product_and_each_sum_is_rounded(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """θ is, element by element, what float32 scalars give one operation at a time, ray by ray."""
    monkeypatch.setattr(apply, "CHUNK", 7)
    theta = {
        "a": np.linspace(-2, 3, 24, dtype=np.float32).reshape(4, 6),
        "b": np.ones((), np.float32),
    }
    expected = {name: values.copy() for name, values in theta.items()}
    for name, values in expected.items():
        for index in np.ndindex(values.shape):
            for ray in RAYS:
                z = sample(kind, ray.key, name, values.shape)[index]
                values[index] = np.float32(
                    values[index] + np.float32(np.float32(ray.coefficient) * z)
                )
    apply_rays(theta, list(theta), RAYS, Noise(kind))
    for name, values in theta.items():
        np.testing.assert_array_equal(values, expected[name])


def test_order_matters() -> None:
    """Rays are applied one by one: summed first, they would round differently."""
    theta = {"a": np.linspace(-2, 3, 4096, dtype=np.float32)}
    summed = theta["a"] + sum(
        np.float32(ray.coefficient) * sample("gaussian", ray.key, "a", (4096,)) for ray in RAYS
    )
    apply_rays(theta, list(theta), RAYS, Noise("gaussian"))
    np.testing.assert_allclose(theta["a"], summed, rtol=1e-5, atol=1e-6)
    assert np.any(theta["a"] != summed)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated at a time is a chunk, however large the trainable."""
    sizes: list[int] = []

    def spy(kind: Kind, key: Key, name: str, offset: int, length: int, **rest: Any) -> FloatArray:
        sizes.append(length)
        return sample_flat(kind, key, name, offset, length, **rest)

    monkeypatch.setattr(direction_spec, "sample_flat", spy)
    theta = {"a": np.zeros(3 * noise.CHUNK + 5, dtype=np.float32)}
    apply_rays(theta, list(theta), RAYS[:1], Noise("gaussian"))
    assert sizes == [noise.CHUNK] * 3 + [5]
    assert np.count_nonzero(theta["a"]) == theta["a"].size


def test_a_slice_that_cannot_be_moved_in_place() -> None:
    """A float64, strided or read-only slice is refused before any trainable has moved."""
    good = np.zeros(4, dtype=np.float32)
    frozen = np.zeros(4, dtype=np.float32)
    frozen.setflags(write=False)
    for bad in (np.zeros(4), np.zeros((4, 4), np.float32).T[:2], frozen):
        with pytest.raises(UsageError, match="slice 'bad' cannot be moved in place"):
            apply_rays({"good": good, "bad": bad}, ["good", "bad"], RAYS, Noise("gaussian"))  # type: ignore[dict-item]
    assert not good.any()

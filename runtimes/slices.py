"""θ on the host: what every session that keeps its slices in numpy shares.

    probes(keys, C)   z: f32[Q, …] per slice, and C; never empty, as engines need it
    move(rays)        θ ← θ + coefficient · z(key)      f32, multiply then add, each rounded

The directions of the last keys are kept when they are small, so that a step makes them once for its
forward and its move.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from zofx.errors import UsageError
from zofx.zo.noise import Kind, sample
from zofx.zo.types import FloatArray, Key, Ray
from zofx.zo.update import apply_rays

KEEP_BYTES = 1 << 28


class Slices:
    """The trainable tensors of one session.

    Attributes:
        theta: name → values, f32, contiguous; the engine reads these arrays.
        noise: the distribution of z.
    """

    def __init__(self, theta: dict[str, FloatArray], noise: str) -> None:
        self.theta = theta
        self.noise: Kind = noise  # type: ignore[assignment]  # a manifest holds strings
        self._kept: dict[Key, dict[str, FloatArray]] = {}
        self._bytes = sum(values.nbytes for values in theta.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape."""
        return {name: values.shape for name, values in self.theta.items()}

    def probes(
        self, keys: Sequence[Key], coefficients: FloatArray
    ) -> tuple[dict[str, FloatArray], FloatArray]:
        """What an engine is fed: directions stacked over the keys, and the probe matrix."""
        if not keys:
            zeros = {n: np.zeros((1, *v.shape), np.float32) for n, v in self.theta.items()}
            return zeros, np.zeros((len(coefficients), 1), np.float32)
        if (len(keys) + 1) * self._bytes <= KEEP_BYTES:
            self._kept = {key: self._kept.get(key) or self._sample(key) for key in keys}
        directions = [self.direction(key) for key in keys]
        z = {name: np.stack([d[name] for d in directions]) for name in self.theta}
        return z, np.ascontiguousarray(coefficients, dtype=np.float32)

    def direction(self, key: Key) -> dict[str, FloatArray]:
        """z(key) for every slice."""
        return self._kept.get(key) or self._sample(key)

    def _sample(self, key: Key) -> dict[str, FloatArray]:
        return {n: sample(self.noise, key, n, v.shape) for n, v in self.theta.items()}

    def move(self, rays: Sequence[Ray]) -> None:
        """θ ← θ + coefficient · z(key), ray by ray."""
        if not all(ray.key in self._kept for ray in rays):
            apply_rays(self.theta, rays, self.noise)
            return
        for ray in rays:
            for name, values in self.theta.items():
                values += self._kept[ray.key][name] * np.float32(ray.coefficient)

    def read(self) -> dict[str, FloatArray]:
        """A copy of θ."""
        return {name: values.copy() for name, values in self.theta.items()}

    def write(self, values: Mapping[str, FloatArray]) -> None:
        """Replace θ; the arrays stay where they are.

        Raises:
            UsageError: other names or shapes than the artifact's.
        """
        given = {name: np.shape(value) for name, value in values.items()}
        if given != self.shapes:
            wrong = sorted(set(given.items()) ^ set(self.shapes.items()))[:3]
            raise UsageError(
                f"these values are not of this artifact's slices: they differ in {wrong}"
            )
        for name, value in values.items():
            self.theta[name][...] = value


class HostSession:
    """The half of a session that is the same for every engine: θ and what moves it."""

    def __init__(self, slices: Slices) -> None:
        self._slices = slices

    @property
    def slices(self) -> Mapping[str, tuple[int, ...]]:
        """Name → shape."""
        return self._slices.shapes

    def move(self, rays: Sequence[Ray]) -> None:
        """θ ← θ + coefficient · z(key), ray by ray."""
        self._slices.move(rays)

    def direction(self, key: Key) -> dict[str, FloatArray]:
        """z(key) for every slice."""
        return self._slices.direction(key)

    def read(self) -> dict[str, FloatArray]:
        """A copy of θ."""
        return self._slices.read()

    def write(self, values: Mapping[str, FloatArray]) -> None:
        """Replace θ."""
        self._slices.write(values)

"""θ on the host: what every session that keeps its trainables in numpy shares.

    probes(keys, C)   z: f32[Q, …] per trainable, and C; never empty, as engines need it
    move(rays)        θ ← θ + coefficient · z(key)      f32, multiply then add, each rounded
    refresh(key)      low-rank trainables are folded and get a new basis

The draws of the last keys are kept when they are small, and of a single key always, for its draws
are all there in the forward anyway: so a step makes them once for its forward and its move.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from zofx.artifact.manifest import Manifest, read_trainables
from zofx.errors import UsageError
from zofx.zo.random import low_rank_bases
from zofx.zo.random.apply import apply_rays
from zofx.zo.random.direction_spec import Noise
from zofx.zo.random.noise import in_parts, sample_small
from zofx.zo.types import FloatArray, Key, Ray

KEEP_BYTES = 1 << 28
SMALL = 1 << 14
"""Entries of a trainable up to which the calls that draw it cost about as much as its numbers."""


def keeps(keys: int, size: int) -> bool:
    """Whether draws of `size` bytes a key are kept from a forward to its move."""
    return keys == 1 or (keys + 1) * size <= KEEP_BYTES


class HostTheta:
    """All that moves in one session.

    Attributes:
        values: trainables, and the state beside them (bases, factors, scales), f32, contiguous; the
            engine reads these arrays.
        shapes: name → shape of the trainables.
        noise: their directions.
        bytes: of the trainables.
    """

    def __init__(
        self,
        values: dict[str, FloatArray],
        shapes: Mapping[str, tuple[int, ...]],
        noise: Noise,
    ) -> None:
        self.values = values
        self.shapes = shapes
        self.noise = noise
        self._kept: dict[Key, dict[str, FloatArray]] = {}
        plain = {name: prod(shape) for name, shape in shapes.items() if name not in noise.specs}
        self._small = {name: size for name, size in plain.items() if size <= SMALL}
        self.bytes = sum(values[name].nbytes for name in shapes)

    def probes(
        self, keys: Sequence[Key], coefficients: FloatArray
    ) -> tuple[dict[str, FloatArray], FloatArray]:
        """What an engine is fed: draws stacked over the keys, and the probe matrix."""
        if not keys:
            zeros = {name: np.zeros((1, *shape), np.float32) for name, shape in self.shapes.items()}
            return zeros, np.zeros((len(coefficients), 1), np.float32)
        if keeps(len(keys), self.bytes):
            self._keep(keys)
        draws = [self._kept.get(key) or self.draw(key) for key in keys]
        z = {name: _stack([d[name] for d in draws]) for name in self.shapes}
        return z, np.ascontiguousarray(coefficients, dtype=np.float32)

    def _keep(self, keys: Sequence[Key]) -> None:
        """Have the draws of these keys at hand, and no others; those are dropped first."""
        self._kept = {key: self._kept[key] for key in keys if key in self._kept}
        for key in keys:
            self._kept[key] = self._kept.get(key) or self.draw(key)

    def direction(self, key: Key, name: str) -> FloatArray:
        """z(key) for a trainable."""
        kept = self._kept.get(key)
        return self._applied(name, kept[name] if kept else self._draw_one(key, name))

    def draw(self, key: Key) -> dict[str, FloatArray]:
        """Every trainable's z, but for what depends on θ: small ones at once, others one by one."""
        small = sample_small(self.noise.kind, key, self._small)
        return {
            name: small[name].reshape(shape) if name in small else self._draw_one(key, name)
            for name, shape in self.shapes.items()
        }

    def _draw_one(self, key: Key, name: str) -> FloatArray:
        spec = self.noise.spec(name)
        return in_parts(partial(spec.draw, key, name), self.shapes[name])

    def _applied(self, name: str, z: FloatArray) -> FloatArray:
        spec = self.noise.spec(name)
        return spec.apply(z, self.values[name], self.values[spec.scale] if spec.scale else None)

    def move(self, rays: Sequence[Ray]) -> None:
        """θ ← θ + coefficient · z(key), ray by ray."""
        if not all(ray.key in self._kept for ray in rays):
            apply_rays(self.values, list(self.shapes), rays, self.noise)
            return
        for name in self.shapes:
            steps = [
                self._applied(name, self._kept[ray.key][name]) * np.float32(ray.coefficient)
                for ray in rays
            ]
            for step in steps:
                self.values[name] += step

    def refresh(self, key: Key) -> None:
        """Fold every low-rank trainable and give it the basis of a key."""
        low_rank_bases.refresh(self.values, self.noise, key)

    def read(self) -> dict[str, FloatArray]:
        """A copy of all that moves."""
        return {name: values.copy() for name, values in self.values.items()}

    def write(self, values: Mapping[str, FloatArray]) -> None:
        """Replace all that moves; the arrays stay where they are.

        Raises:
            UsageError: other names or shapes than the artifact's.
        """
        given = {name: np.shape(value) for name, value in values.items()}
        own = {name: value.shape for name, value in self.values.items()}
        if given != own:
            wrong = sorted(set(given.items()) ^ set(own.items()))[:3]
            raise UsageError(
                f"these values are not of this artifact's trainables: they differ in {wrong}"
            )
        for name, value in values.items():
            self.values[name][...] = value


def initial_theta(folder: Path, manifest: Manifest) -> HostTheta:
    """An artifact's, at their initial values."""
    return HostTheta(read_trainables(folder), manifest.trainables, manifest.noise)


def _stack(parts: Sequence[FloatArray]) -> FloatArray:
    """f32[Q, …]; a single one, which may be as large as the model, is not copied."""
    return parts[0][None] if len(parts) == 1 else np.stack(parts)


class HostThetaSession:
    """The half of a session that is the same for every engine: θ and what moves it."""

    def __init__(self, trainables: HostTheta) -> None:
        self._slices = trainables

    @property
    def trainables(self) -> Mapping[str, tuple[int, ...]]:
        """Name → shape."""
        return self._slices.shapes

    @property
    def noise(self) -> Noise:
        """The artifact's directions."""
        return self._slices.noise

    def move(self, rays: Sequence[Ray]) -> None:
        """θ ← θ + coefficient · z(key), ray by ray."""
        self._slices.move(rays)

    def direction(self, key: Key, name: str) -> FloatArray:
        """z(key) for a trainable."""
        return self._slices.direction(key, name)

    def refresh(self, key: Key) -> None:
        """Fold every low-rank trainable and give it the basis of a key."""
        self._slices.refresh(key)

    def read(self) -> dict[str, FloatArray]:
        """A copy of all that moves."""
        return self._slices.read()

    def write(self, values: Mapping[str, FloatArray]) -> None:
        """Replace all that moves."""
        self._slices.write(values)

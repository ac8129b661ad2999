"""A session with a closed-form loss, for testing the driver without an engine.

    loss of row n at θ  =  weight_n · ½ Σ_i curvature_i (θ_i − target_i)²,    score = −loss, C = 1

The weight of a row is its first token. Sums are float64; scores are rounded to float32, or to
multiples of `resolution`, as an engine of low precision would.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from zofx.runtime import Batch
from zofx.zo import FloatArray, Key, Kind, Noise, Ray, apply_rays, sample
from zofx.zo.bases import refresh

SHAPES: Mapping[str, tuple[int, ...]] = {"layer.weight": (3, 4), "layer.bias": (5,)}


class Bowl:
    """`calls` counts forwards; `probes` counts the rows of all probe matrices."""

    def __init__(self, kind: Kind = "gaussian", resolution: float = 0.0) -> None:
        self.kind: Kind = kind
        self.noise = Noise(kind)
        self.resolution = resolution
        self.calls = 0
        self.probes = 0
        self.theta: dict[str, FloatArray] = {}
        self.target: dict[str, FloatArray] = {}
        self.curvature: dict[str, FloatArray] = {}
        for name, shape in SHAPES.items():
            ramp = np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)
            self.theta[name] = ramp.copy()
            self.target[name] = np.cos(3 * ramp)
            self.curvature[name] = np.float32(1.0) + np.float32(0.5) * ramp

    @property
    def slices(self) -> Mapping[str, tuple[int, ...]]:
        return SHAPES

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        self.calls += 1
        self.probes += len(coefficients)
        directions = [self.direction(key) for key in keys]
        height = np.array([self._height(row, directions) for row in coefficients])
        scores: NDArray[np.float64] = -height[:, None, None] * batch.input_ids[None, :, :1]
        if self.resolution:
            scores = np.round(scores / self.resolution) * self.resolution
        return scores.astype(np.float32)

    def move(self, rays: Sequence[Ray]) -> None:
        apply_rays(self.theta, list(SHAPES), rays, self.noise)

    def refresh(self, key: Key) -> None:
        refresh(self.theta, self.noise, key)

    def direction(self, key: Key) -> dict[str, FloatArray]:
        return {name: sample(self.kind, key, name, shape) for name, shape in SHAPES.items()}

    def read(self) -> dict[str, FloatArray]:
        return {name: values.copy() for name, values in self.theta.items()}

    def write(self, values: Mapping[str, FloatArray]) -> None:
        assert values.keys() == SHAPES.keys()
        self.theta = {name: np.array(array) for name, array in values.items()}

    def close(self) -> None:
        self.theta.clear()

    def gradient(self, batch: Batch) -> dict[str, FloatArray]:
        """The true gradient of `mean_loss`."""
        weight = np.float32(batch.input_ids[:, 0].mean())
        return {
            name: weight * self.curvature[name] * (values - self.target[name])
            for name, values in self.theta.items()
        }

    def loss(self) -> float:
        """The height at θ."""
        return self._height(np.zeros(0, dtype=np.float32), [])

    def _height(self, row: FloatArray, directions: Sequence[Mapping[str, FloatArray]]) -> float:
        total = 0.0
        for name, values in self.theta.items():
            point = values.astype(np.float64)
            for coefficient, direction in zip(row, directions, strict=True):
                point += float(coefficient) * direction[name]
            total += float(np.sum(self.curvature[name] * (point - self.target[name]) ** 2)) / 2
        return total


def rows(*weights: int) -> Batch:
    """A batch of one-token rows."""
    tokens = np.array(weights, dtype=np.int64)[:, None]
    return Batch(
        tokens,
        np.ones_like(tokens),
        np.zeros_like(tokens),
        np.zeros((len(weights), 1, 1), np.int64),
    )


def mean_loss(scores: FloatArray) -> NDArray[np.float64]:
    """The mean of the rows' losses, f64[P]."""
    losses: NDArray[np.float64] = -scores[:, :, 0].mean(axis=1, dtype=np.float64)
    return losses

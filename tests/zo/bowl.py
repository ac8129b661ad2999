"""Sessions with a closed-form loss, for testing the driver without an engine.

    loss of row n at θ  =  weight_n · ½ Σ_i curvature_i (W(θ)_i − target_i)²,   score = −loss, C = 1

The weight of a row is its first token. Sums are float64; scores are rounded to float32, or to
multiples of `resolution`, as an engine of low precision would.

    Bowl      W(θ) = θ
    Scaled    the same; directions are scaled by tensors of the session
    LowRank   the matrix of W is base + A · right, and A trains
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from zofx.runtimes.host.theta import HostTheta, HostThetaSession
from zofx.session import Batch
from zofx.zo.random.direction_spec import Basis, DirectionSpec, Noise
from zofx.zo.random.noise import Kind
from zofx.zo.types import FloatArray, Key

SHAPES: Mapping[str, tuple[int, ...]] = {"layer.weight": (3, 4), "layer.bias": (5,)}
DoubleArray = NDArray[np.float64]


def start(shape: tuple[int, ...]) -> FloatArray:
    """Where a tensor begins: from −1 to 1."""
    return np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)


class Bowl(HostThetaSession):
    """`calls` counts forwards; `probes` counts the losses that were asked for."""

    def __init__(self, kind: Kind = "gaussian", resolution: float = 0.0) -> None:
        super().__init__(self.all_that_moves(kind))
        self.resolution = resolution
        self.calls = 0
        self.probes = 0
        ramps = {name: start(shape) for name, shape in SHAPES.items()}
        self.target = {name: np.cos(3 * ramp) for name, ramp in ramps.items()}
        self.curvature = {name: np.float32(1) + np.float32(0.5) * r for name, r in ramps.items()}

    def all_that_moves(self, kind: Kind) -> HostTheta:
        """θ where it begins, and how directions follow from keys."""
        return HostTheta({n: start(shape) for n, shape in SHAPES.items()}, SHAPES, Noise(kind))

    @property
    def theta(self) -> dict[str, FloatArray]:
        """All that moves, itself."""
        return self._slices.values

    def weights(self, point: Mapping[str, DoubleArray]) -> Mapping[str, DoubleArray]:
        """W(θ)."""
        return point

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        self.calls += 1
        self.probes += len(coefficients)
        directions = [self.directions(key) for key in keys]
        height = np.array([self._height(row, directions) for row in coefficients])
        scores: DoubleArray = -height[:, None, None] * batch.input_ids[None, :, :1]
        if self.resolution:
            scores = np.round(scores / self.resolution) * self.resolution
        return scores.astype(np.float32)

    def directions(self, key: Key) -> dict[str, FloatArray]:
        """z(key) for every trainable."""
        return {name: self.direction(key, name) for name in self.trainables}

    def slopes(self, batch: Batch, keys: Sequence[Key]) -> DoubleArray:
        """`mean_loss`, and its derivative along each direction, f64[1 + Q]; of a plain bowl."""
        self.calls += 1
        self.probes += 1 + len(keys)
        gradient, weight = self.gradient(batch), float(batch.input_ids[:, 0].mean())
        along = [
            sum(float(np.vdot(gradient[name].astype(np.float64), z)) for name, z in d.items())
            for d in map(self.directions, keys)
        ]
        return np.array([weight * self.loss(), *along])

    def close(self) -> None:
        self.theta.clear()

    def gradient(self, batch: Batch) -> dict[str, FloatArray]:
        """The true gradient of `mean_loss`, of a plain bowl."""
        weight = np.float32(batch.input_ids[:, 0].mean())
        return {
            name: weight * self.curvature[name] * (values - self.target[name])
            for name, values in self.theta.items()
        }

    def loss(self) -> float:
        """The height at θ."""
        return self._height(np.zeros(0, dtype=np.float32), [])

    def _height(self, row: FloatArray, directions: Sequence[Mapping[str, FloatArray]]) -> float:
        point = {name: values.astype(np.float64) for name, values in self.theta.items()}
        for coefficient, direction in zip(row, directions, strict=True):
            for name, z in direction.items():
                point[name] += float(coefficient) * z
        weights, total = self.weights(point), 0.0
        for name, target in self.target.items():
            total += float(np.sum(self.curvature[name] * (weights[name] - target) ** 2)) / 2
        return total


class Scaled(Bowl):
    """Directions are z · scale, and the scales are state."""

    def all_that_moves(self, kind: Kind) -> HostTheta:
        theta = {name: start(shape) for name, shape in SHAPES.items()}
        scales = {f"{name}.scale": np.ones(shape, np.float32) for name, shape in SHAPES.items()}
        specs = {name: DirectionSpec(kind, scale=f"{name}.scale") for name in SHAPES}
        return HostTheta(theta | scales, SHAPES, Noise(kind, specs))


class LowRank(Bowl):
    """The matrix is base + A · right: `layer.weight` is the base, `layer.weight.slice` is A."""

    RANK = 2

    def all_that_moves(self, kind: Kind) -> HostTheta:
        (rows, columns), bias = SHAPES["layer.weight"], SHAPES["layer.bias"]
        thin, right = "layer.weight.slice", "layer.weight.slice.right"
        values = {
            "layer.weight": start((rows, columns)),
            thin: np.zeros((rows, self.RANK), np.float32),
            right: np.zeros((self.RANK, columns), np.float32),
            "layer.bias": start(bias),
        }
        noise = Noise(kind, bases={thin: Basis(right, "layer.weight")})
        return HostTheta(values, {thin: (rows, self.RANK), "layer.bias": bias}, noise)

    def weights(self, point: Mapping[str, DoubleArray]) -> Mapping[str, DoubleArray]:
        product = point["layer.weight.slice"] @ point["layer.weight.slice.right"]
        return {"layer.weight": point["layer.weight"] + product, "layer.bias": point["layer.bias"]}


def rows(*weights: int) -> Batch:
    """A batch of one-token rows."""
    tokens = np.array(weights, dtype=np.int64)[:, None]
    return Batch(
        tokens,
        np.ones_like(tokens),
        np.zeros_like(tokens),
        np.zeros((len(weights), 1, 1), np.int64),
    )


def mean_loss(scores: FloatArray) -> DoubleArray:
    """The mean of the rows' losses, f64[P]."""
    losses: DoubleArray = -scores[:, :, 0].mean(axis=1, dtype=np.float64)
    return losses

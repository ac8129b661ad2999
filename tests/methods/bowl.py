"""A loss whose every derivative is known: f(θ) = ½·(θ − a)ᵀ·A·(θ − a) over all weights together.

A is symmetric and positive, and couples the weights: what a block's gradient is depends on the
others. Along any direction f is a parabola, so a two-point slope is exact.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.methods.reference import Tensors

SHAPES = {"first": (4, 6), "second": (5, 3), "bias": (4,)}


def random(seed: int, *shape: int) -> Tensor:
    """Normals f64 that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start() -> Tensors:
    """θ before the first step."""
    return {name: random(seed, *shape) for seed, (name, shape) in enumerate(SHAPES.items())}


def draw(t: int, query: int, name: str) -> Tensor:
    """Directions in the shape of the weights."""
    return random(1000 * t + 10 * query + list(SHAPES).index(name) + 100, *SHAPES[name])


class Bowl:
    """See the module; notes the weights it was asked at."""

    def __init__(self) -> None:
        size = sum(torch.Size(shape).numel() for shape in SHAPES.values())
        root = random(50, size, size)
        self.matrix = torch.eye(size, dtype=torch.float64) + root @ root.T / size
        self.bottom = random(51, size)
        self.asked: list[Tensors] = []

    def __call__(self, weights: Tensors) -> Tensor:
        self.asked.append({name: values.clone() for name, values in weights.items()})
        away = flat(weights) - self.bottom
        return away @ self.matrix @ away / 2

    def slope(self, weights: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        """The gradient's part along a direction."""
        whole = {name: along.get(name, torch.zeros_like(v)) for name, v in weights.items()}
        return self(weights), flat(whole) @ flat(self.gradient(weights))

    def gradient(self, weights: Tensors, names: Sequence[str] = tuple(SHAPES)) -> Tensors:
        """A·(θ − a), weight by weight."""
        parts = split(self.matrix @ (flat(weights) - self.bottom))
        return {name: parts[name] for name in names}

    def bend(self, along: Tensors) -> Tensor:
        """zᵀ·A·z."""
        z = flat(along)
        return z @ self.matrix @ z


def flat(weights: Tensors) -> Tensor:
    """All weights in one vector."""
    return torch.cat([weights[name].flatten() for name in SHAPES])


def split(vector: Tensor) -> Tensors:
    """The vector as weights."""
    sizes = [torch.Size(shape).numel() for shape in SHAPES.values()]
    parts = zip(SHAPES.items(), torch.split(vector, sizes), strict=True)
    return {name: part.view(shape) for (name, shape), part in parts}


def inner(a: Tensors, b: Tensors) -> Tensor:
    """Σ a·b over the names of a."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()

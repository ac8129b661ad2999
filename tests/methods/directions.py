"""Directions that are not dense Gaussians, made from given factors: Draw → Draw.

    on_index     z at some coordinates of a weight, 0 elsewhere              SensZOQ
    masked       mask ⊙ z                                                    gradient pruning
    low_rank     U·Vᵀ, V kept for ν steps; 1-D weights draw z                LOZO
    subspace     s·U·z₀·Vᵀ, U and V orthonormal; 1-D weights draw z           SubZero

Each is dense here, in the shape of the weight. Sources: Guo et al. 2025 (SensZOQ,
arXiv 2406.02913), Zhang et al. 2024 (ZO-Bench, arXiv 2402.11592), Yu et al. 2024 (SubZero, arXiv
2410.08989).
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from tests.methods.reference import Draw

Shapes: TypeAlias = Mapping[str, torch.Size]
Factor: TypeAlias = Callable[[int, str], Tensor]
"""(window, name) → what is kept for a window of steps, f64."""


def on_index(values: Draw, index: Mapping[str, Tensor], shapes: Shapes) -> Draw:
    """Values f64[k] at flat positions i64[k] of each weight."""

    @lru_cache(maxsize=64)
    def draw(t: int, query: int, name: str) -> Tensor:
        z = torch.zeros(shapes[name].numel(), dtype=torch.float64)
        z[index[name]] = values(t, query, name)
        return z.view(shapes[name])

    return draw


def masked(z: Draw, mask: Callable[[int, str], Tensor]) -> Draw:
    """mask(step, name) ⊙ z, with a mask of zeros and ones."""
    return lambda t, query, name: mask(t, name) * z(t, query, name)


def subspace(
    core: Draw, u: Factor, v: Factor, z: Draw, shapes: Shapes, window: int, scale: float = 0.0
) -> Draw:
    """s·U·z₀·Vᵀ: U f64[m, r] and V f64[n, r] orthonormal, kept for a window; z₀ f64[r, r] fresh.

    Of the matrices among `shapes`; all else draws z.

    The s of the paper, √(mn) / r, is taken for scale = 0: it gives the direction the expected
    squared norm of a dense Gaussian, m·n.
    """

    def draw(t: int, query: int, name: str) -> Tensor:
        if len(shapes.get(name, ())) < 2:
            return z(t, query, name)
        left, right = u(t // window, name), v(t // window, name)
        rank = left.shape[1]
        s = scale or math.sqrt(len(left) * len(right)) / rank
        return s * left @ core(t, query, name) @ right.T

    return draw

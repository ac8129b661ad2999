"""Zeroth-order methods as their papers write them: dense, float64, in place.

    perturb      θ ← θ + εz        l₊ = f(θ)
                 θ ← θ − 2εz       l₋ = f(θ)
                 θ ← θ + εz        c = (l₊ − l₋) / 2ε
    update       θ ← θ − η·rule(c·z)

Nothing of zofx is used here. A direction is a value that is given: z(step, query, name), in the
shape of the weight it is added to, so that what is judged is what a method does with it. Directions
that are not dense are made in `tests.methods.directions`; any rule goes with any of them.
Sources: Malladi et al. 2023 (arXiv 2305.17333) for the sweeps; Zhang et al. 2024 (arXiv 2402.11592)
and the code of ZO-Bench for sign, momentum, Adam, conservative, forward gradient and blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = dict[str, Tensor]
Draw: TypeAlias = Callable[[int, int, str], Tensor]
"""(step, query, name) → z, f64 in the shape of θ[name]."""


class Loss(Protocol):
    """f on the batch of a step: what a method may ask of it."""

    def __call__(self, weights: Tensors) -> Tensor:
        """f(weights), f64[]."""
        ...

    def slope(self, weights: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        """f and its exact derivative along a direction, f64[] each."""
        ...

    def gradient(self, weights: Tensors, names: Sequence[str]) -> Tensors:
        """∂f/∂weights[name], for these names."""
        ...


@dataclass
class Method:
    """θ, and the sweeps over it that all methods are made of.

    Attributes:
        theta: what trains, and what does not; changed in place.
        z: the directions.
        lr: η.
        eps: ε.
        queries: directions averaged per step.
        trained: the names that are perturbed and moved; empty means all.
        build: θ → the weights of the model, where they are not θ itself.
        terms: by name, Σ |what a step added to θ|: what its roundings are relative to.
    """

    theta: Tensors
    z: Draw
    lr: float
    eps: float
    queries: int = 1
    trained: Sequence[str] = ()
    build: Callable[[Tensors], Tensors] = lambda theta: theta
    terms: Tensors = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.trained = tuple(self.trained or self.theta)

    def step(self, t: int, loss: Loss) -> None:
        """One step on one batch."""
        self.terms = {name: torch.zeros_like(self.theta[name]) for name in self.trained}
        self.update(t, loss)

    def update(self, t: int, loss: Loss) -> None:
        """What distinguishes a method."""
        raise NotImplementedError

    def direction(self, t: int, query: int) -> Tensors:
        """z of every weight that trains."""
        return {name: self.z(t, query, name) for name in self.trained}

    def value(self, loss: Loss) -> Tensor:
        """f(θ)."""
        return loss(self.build(self.theta))

    def shift(self, along: Tensors, by: float | Tensor) -> None:
        """θ ← θ + by · along."""
        for name, values in along.items():
            self.theta[name] += by * values

    def move(self, along: Tensors, by: float | Tensor, size: Tensors | None = None) -> None:
        """A shift that stays; `size` is Σ|terms| of a direction that is itself a sum."""
        self.shift(along, by)
        for name, values in (size or along).items():
            self.terms[name] += (by * values).abs()

    def slope(self, loss: Loss, along: Tensors) -> Tensor:
        """c = (f(θ + εz) − f(θ − εz)) / 2ε, and θ is as it was."""
        self.shift(along, self.eps)
        plus = self.value(loss)
        self.shift(along, -2 * self.eps)
        minus = self.value(loss)
        self.shift(along, self.eps)
        return (plus - minus) / (2 * self.eps)

    def rays(self, t: int, loss: Loss) -> list[tuple[Tensor, Tensors]]:
        """(c_q, z_q) of every query."""
        directions = [self.direction(t, query) for query in range(self.queries)]
        return [(self.slope(loss, along), along) for along in directions]

    def estimate(self, t: int, loss: Loss) -> tuple[Tensors, Tensors]:
        """g = Σ c_q·z_q / Q, and Σ |c_q·z_q| / Q."""
        rays = self.rays(t, loss)
        parts = {n: torch.stack([c * along[n] for c, along in rays]) for n in self.trained}
        mean = {name: part.mean(0) for name, part in parts.items()}
        return mean, {name: part.abs().mean(0) for name, part in parts.items()}


class Mezo(Method):
    """ZO-SGD: θ ← θ − η·Σ c_q·z_q / Q."""

    def update(self, t: int, loss: Loss) -> None:
        """One move per query."""
        for c, along in self.rays(t, loss):
            self.move(along, -self.lr * c / self.queries)


class ScalarSign(Method):
    """ZO-SGD-Sign as ZO-Bench runs it: θ ← θ − η·sign(c)·z."""

    def update(self, t: int, loss: Loss) -> None:
        """One query."""
        ((c, along),) = self.rays(t, loss)
        self.move(along, -self.lr * c.sign())


class VectorSign(Method):
    """ZO-SGD-Sign as its paper writes it: θ ← θ − η·sign(g), coordinate by coordinate."""

    def update(self, t: int, loss: Loss) -> None:
        """The sign of the averaged estimate."""
        g, _ = self.estimate(t, loss)
        self.move({name: part.sign() for name, part in g.items()}, -self.lr)


@dataclass
class Momentum(Method):
    """Heavy ball without dampening: m ← βm + g;  θ ← θ − ηm."""

    beta: float = 0.9
    m: Tensors = field(default_factory=dict)
    m_size: Tensors = field(default_factory=dict)

    def update(self, t: int, loss: Loss) -> None:
        """M starts at zero, so the first step is SGD's."""
        g, size = self.estimate(t, loss)
        self.m = {n: self.beta * self.m.get(n, torch.zeros_like(v)) + v for n, v in g.items()}
        self.m_size = {
            n: self.beta * self.m_size.get(n, torch.zeros_like(v)) + v for n, v in size.items()
        }
        self.move(self.m, -self.lr, self.m_size)


@dataclass
class Adam(Method):
    """m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  θ ← θ − η·m̂ / (√v̂ + δ),  x̂ = x / (1 − βᵗ).

    Source: Kingma and Ba 2015, algorithm 1, with t from 1.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    delta: float = 1e-8
    count: int = 0
    m: Tensors = field(default_factory=dict)
    v: Tensors = field(default_factory=dict)
    m_size: Tensors = field(default_factory=dict)

    def update(self, t: int, loss: Loss) -> None:
        """Both moments, unbiased."""
        g, size = self.estimate(t, loss)
        b1, b2 = self.betas
        self.count += 1
        along, along_size = {}, {}
        for n, value in g.items():
            zero = torch.zeros_like(value)
            self.m[n] = b1 * self.m.get(n, zero) + (1 - b1) * value
            self.v[n] = b2 * self.v.get(n, zero) + (1 - b2) * value**2
            self.m_size[n] = b1 * self.m_size.get(n, zero) + (1 - b1) * size[n]
            root = (self.v[n] / (1 - b2**self.count)).sqrt() + self.delta
            along[n] = self.m[n] / (1 - b1**self.count) / root
            along_size[n] = self.m_size[n] / (1 - b1**self.count) / root
        self.move(along, -self.lr, along_size)


class Conservative(Method):
    """ZO-SGD-Cons: of θ − ηcz, θ and θ + ηcz the one with the least loss on the same batch.

    Evaluates l₊, l₋, then f(θ − ηcz), f(θ + ηcz), f(θ). Of equals: θ + ηcz before θ − ηcz before θ,
    as the comparisons of ZO-Bench's trainer fall.
    """

    def update(self, t: int, loss: Loss) -> None:
        """Try, then stay or go."""
        ((c, along),) = self.rays(t, loss)
        far = self.lr * c
        self.shift(along, -far)
        down = self.value(loss)
        self.shift(along, 2 * far)
        up = self.value(loss)
        self.shift(along, -far)
        here = self.value(loss)
        if here < down and here < up:
            return
        self.move(along, -far if down < up else far)


class ForwardGradient(Method):
    """θ ← θ − η·(∂f·z)·z with the exact derivative along z: no ε."""

    def update(self, t: int, loss: Loss) -> None:
        """One query."""
        along = self.direction(t, 0)
        _, c = loss.slope(self.theta, along)
        self.move(along, -self.lr * c)


@dataclass
class Blockwise(Method):
    """A projected gradient for each block of weights, which alone is perturbed for it.

    Attributes:
        blocks: names by block, in the order of evaluation; block b draws with query b.
        sequential: Gauss–Seidel, a block sees the blocks before it moved; else Jacobi, all at once.
    """

    blocks: Sequence[Sequence[str]] = ()
    sequential: bool = True

    def update(self, t: int, loss: Loss) -> None:
        """Two forwards per block."""
        waiting = []
        for query, block in enumerate(self.blocks):
            along = {name: self.z(t, query, name) for name in block if name in self.trained}
            c = self.slope(loss, along)
            if self.sequential:
                self.move(along, -self.lr * c)
            else:
                waiting.append((along, c))
        for along, c in waiting:
            self.move(along, -self.lr * c)

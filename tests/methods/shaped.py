"""Methods whose directions depend on what trains: dense, float64, in place.

    Lozo, LozoMomentum    θ ± ε·U·Vᵀ, V kept for ν steps            Chen et al. 2025, 2410.07698
    SparseMezo            the small weights of each tensor          Liu et al. 2024, 2402.15751
    Hizoo                 z / √H, H a diagonal of the Hessian       Zhao et al. 2025, 2402.15173
    Fzoo                  N one-sided signs over their spread       Dang et al. 2025, 2506.09034
    Clipped               QZO: scales train, c is bounded           Shang et al. 2025, 2505.13430
    lora, scaled          θ → weights: adapters, quantization scales

See `tests.methods.reference` for what they share.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.methods.directions import Factor
from tests.methods.reference import Loss, Method, Mezo, Tensors


@dataclass
class Lozo(Method):
    """X ← X − η·c·U·Vᵀ for a matrix; 1-D weights as MeZO.

    `z` draws U f64[m, r] for a matrix, the m rows being the outputs, and z for a vector.

    Attributes:
        v: (window, name) → V f64[n, r], of the window t // ν.
        window: ν.
        whole: matrices that move as vectors do.
        divided: by r, as the paper writes the update and the code does not.
    """

    v: Factor = field(kw_only=True)
    window: int = field(kw_only=True)
    whole: Collection[str] = ()
    divided: bool = False

    def direction(self, t: int, query: int) -> Tensors:
        """U·Vᵀ."""
        return {n: self.expand(t, n, self.z(t, query, n)) for n in self.trained}

    def expand(self, t: int, name: str, u: Tensor) -> Tensor:
        """U·Vᵀ of a matrix; a vector's values are its own."""
        return u @ self.v(t // self.window, name).T if self.matrix(name) else u

    def rank(self, name: str) -> int:
        """What the update of a weight is divided by."""
        return self.v(0, name).shape[1] if self.divided and self.matrix(name) else 1

    def matrix(self, name: str) -> bool:
        """Whether a weight has factors."""
        return self.theta[name].dim() > 1 and name not in self.whole

    def update(self, t: int, loss: Loss) -> None:
        """One move per query."""
        for c, along in self.rays(t, loss):
            for name, values in along.items():
                self.move({name: values}, -self.lr * c / self.queries / self.rank(name))


@dataclass
class LozoMomentum(Lozo):
    """N ← βN + (1−β)·c·U;  X ← X − η·N·Vᵀ;  the first N is c·U.

    When V is drawn anew, N is first expressed in it: N ← N·(V_oldᵀ·V_new) / n, because VᵀV ≈ n·I.
    A vector has the same average of c·z.
    """

    beta: float = 0.9
    n: Tensors = field(default_factory=dict)
    n_size: Tensors = field(default_factory=dict)

    def update(self, t: int, loss: Loss) -> None:
        """One query."""
        ((c, _),) = self.rays(t, loss)
        for name in self.trained:
            g = c * self.z(t, 0, name)
            if name in self.n:
                self._rebase(t, name)
                self.n[name] = self.beta * self.n[name] + (1 - self.beta) * g
                self.n_size[name] = self.beta * self.n_size[name] + (1 - self.beta) * g.abs()
            else:
                self.n[name], self.n_size[name] = g, g.abs()
            along = {name: self.expand(t, name, self.n[name])}
            self.move(along, -self.lr / self.rank(name), {name: self._size(t, name)})

    def _rebase(self, t: int, name: str) -> None:
        if t % self.window or not self.matrix(name):
            return
        old, new = self.v(t // self.window - 1, name), self.v(t // self.window, name)
        self.n[name] = self.n[name] @ (old.T @ new) / len(new)
        self.n_size[name] = self.n_size[name] @ (old.abs().T @ new.abs()) / len(new)

    def _size(self, t: int, name: str) -> Tensor:
        if not self.matrix(name):
            return self.n_size[name]
        return self.n_size[name] @ self.v(t // self.window, name).abs().T


@dataclass
class SparseMezo(Mezo):
    """MeZO on m ⊙ z, m = [|θ| ≤ h]: h of each tensor is fixed before training, m follows θ.

    Attributes:
        thresholds: h by name; a tensor that has none moves whole.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)

    def direction(self, t: int, query: int) -> Tensors:
        """Called before θ is perturbed: the mask is that of the step."""
        return {
            name: (self.theta[name].abs() <= self.thresholds.get(name, torch.inf))
            * self.z(t, query, name)
            for name in self.trained
        }


def thresholds(theta: Tensors, share: float) -> dict[str, float]:
    """h such that round(share · n) weights of each tensor are no greater, in absolute value."""
    sizes = {name: values.abs().flatten().sort().values for name, values in theta.items()}
    return {name: float(size[round(share * len(size)) - 1]) for name, size in sizes.items()}


@dataclass
class Hizoo(Method):
    """H ← (1−α)H + α·|l₊ + l₋ − 2l₀| / 2ε² · H⊙z²;  θ ← θ − η·c·z / √H.

    Evaluates l₀ = f(θ), then f(θ ± ε·z/√H) with the H of before; moves with the new one.

    Attributes:
        smooth: α.
        hessian: H by name, ones at the start.
    """

    smooth: float = 1e-8
    hessian: Tensors = field(default_factory=dict)

    def update(self, t: int, loss: Loss) -> None:
        """One query."""
        z = self.direction(t, 0)
        for name in self.trained:
            self.hessian.setdefault(name, torch.ones_like(z[name]))
        here = self.value(loss)
        scaled = {name: values / self.hessian[name].sqrt() for name, values in z.items()}
        self.shift(scaled, self.eps)
        plus = self.value(loss)
        self.shift(scaled, -2 * self.eps)
        minus = self.value(loss)
        self.shift(scaled, self.eps)
        bend = (plus + minus - 2 * here).abs() / (2 * self.eps**2)
        for name, h in self.hessian.items():
            self.hessian[name] = (1 - self.smooth) * h + self.smooth * bend * h * z[name] ** 2
        c = (plus - minus) / (2 * self.eps)
        self.move({n: values / self.hessian[n].sqrt() for n, values in z.items()}, -self.lr * c)


@dataclass
class Fzoo(Method):
    """θ ← θ − η/σ · Σ (l_i − l₀)·u_i / εN, σ the standard deviation of the l_i; u of signs.

    Attributes:
        correction: what N is lessened by in the deviation.
    """

    correction: int = 1

    def update(self, t: int, loss: Loss) -> None:
        """N + 1 forwards, f(θ) first."""
        directions = [self.direction(t, query) for query in range(self.queries)]
        here, probed = self.value(loss), []
        for along in directions:
            self.shift(along, self.eps)
            probed.append(self.value(loss))
            self.shift(along, -self.eps)
        sigma = torch.stack(probed).std(correction=self.correction)
        for along, there in zip(directions, probed, strict=True):
            self.move(along, -self.lr * (there - here) / (self.eps * self.queries * sigma))


@dataclass
class Clipped(Method):
    """θ ← max(θ − η·clip(c, ±limit)·z, floor): QZO, where θ are quantization scales."""

    limit: float = 100.0
    floor: float = -torch.inf

    def update(self, t: int, loss: Loss) -> None:
        """One move per query, each c bounded."""
        for c, along in self.rays(t, loss):
            self.move(along, -self.lr * c.clamp(-self.limit, self.limit) / self.queries)
        for name in self.trained:
            self.theta[name].clamp_(min=self.floor)


def lora(weights: Tensors, a: Tensors, scale: float) -> Callable[[Tensors], Tensors]:
    """W + scale · B·A, A f64[r, n] frozen and B f64[m, r] what trains: LoRA-FA."""
    return lambda b: {**weights, **{n: weights[n] + scale * b[n] @ a[n] for n in b}}


def scaled(weights: Tensors, codes: Tensors) -> Callable[[Tensors], Tensors]:
    """scale ⊙ code: codes f64[m, blocks, block] as numbers, scales f64[m, blocks] what trains."""

    def build(scales: Tensors) -> Tensors:
        wide = {n: (codes[n] * scales[n][..., None]).view_as(weights[n]) for n in scales}
        return {**weights, **wide}

    return build

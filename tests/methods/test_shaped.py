"""The textbooks of tests.methods.shaped on a parabola: closed forms, and what defines each."""

import math

import pytest
import torch
from torch import Tensor

from tests.methods.bowl import SHAPES, Bowl, draw, inner, random, start
from tests.methods.reference import Mezo, Tensors
from tests.methods.shaped import (
    Clipped,
    Fzoo,
    Hizoo,
    Lozo,
    LozoMomentum,
    SparseMezo,
    lora,
    scaled,
    thresholds,
)
from tests.methods.test_reference import EPS, LR, close, moved, z

MATRICES = ("first", "second")
RANK, WINDOW = 2, 3


def u(t: int, query: int, name: str) -> Tensor:
    """U f64[m, r] of a matrix, z of a vector."""
    if name not in MATRICES:
        return draw(t, query, name)
    return random(t + 500 * query + 7 * len(name), SHAPES[name][0], RANK)


def v(window: int, name: str) -> Tensor:
    """V f64[n, r]."""
    return random(900 + window + 7 * len(name), SHAPES[name][1], RANK)


def low_rank(t: int) -> Tensors:
    """What LOZO perturbs at a step."""
    return {n: u(t, 0, n) @ v(t // WINDOW, n).T if n in MATRICES else u(t, 0, n) for n in SHAPES}


@pytest.mark.parametrize("divided", [False, True], ids=["code", "paper"])
def test_lozo_goes_along_two_factors(divided: bool) -> None:
    """θ − η·c·U·Vᵀ, over r in the paper; a vector as in MeZO."""
    method = Lozo(start(), u, lr=LR, eps=EPS, v=v, window=WINDOW, divided=divided)
    method.step(0, Bowl())
    c = inner(low_rank(0), Bowl().gradient(start()))
    along = low_rank(0)
    if divided:
        along |= {name: along[name] / RANK for name in MATRICES}
    close(method.theta, moved(along, -LR * c))


def test_lozo_keeps_one_factor_for_its_window() -> None:
    """Within ν steps a matrix moves in the span of one V, then of the next."""
    method = Lozo(start(), u, lr=LR, eps=EPS, v=v, window=WINDOW)
    for window in (0, 1):
        before = {name: method.theta[name].clone() for name in MATRICES}
        for t in range(window * WINDOW, (window + 1) * WINDOW):
            method.step(t, Bowl())
        for name in MATRICES:
            change = method.theta[name] - before[name]
            within = change @ torch.linalg.pinv(v(window, name).T) @ v(window, name).T
            torch.testing.assert_close(within, change)
            other = v(1 - window, name)
            assert not torch.allclose(change @ torch.linalg.pinv(other.T) @ other.T, change)


def test_lozo_momentum_averages_coordinates() -> None:
    """N₀ = c₀U₀, then βN + (1 − β)cU, as long as V stays."""
    method = LozoMomentum(start(), u, lr=LR, eps=EPS, v=v, window=WINDOW, beta=0.7)
    wanted: Tensors = start()
    n: Tensors = {}
    for t in range(WINDOW):
        c = inner(low_rank(t), Bowl().gradient(wanted))
        for name in SHAPES:
            g = c * u(t, 0, name)
            n[name] = 0.7 * n[name] + 0.3 * g if t else g
            along = n[name] @ v(0, name).T if name in MATRICES else n[name]
            wanted[name] = wanted[name] - LR * along
        method.step(t, Bowl())
    close(method.theta, wanted)


def test_lozo_momentum_survives_a_change_of_basis() -> None:
    """N·Vᵀ is the same after V → V·R, R a rotation, when VᵀV = n·I: the matrix, not N, is kept."""
    rotation = torch.linalg.qr(random(4, RANK, RANK))[0]

    def basis(window: int, name: str) -> Tensor:
        n = SHAPES[name][1]
        first: Tensor = math.sqrt(n) * torch.linalg.qr(random(5, n, RANK))[0]
        return first @ rotation if window else first

    method = LozoMomentum(start(), u, LR, EPS, trained=MATRICES, v=basis, window=2, beta=0.999999)
    for t in range(2):
        method.step(t, Bowl())
    before = {name: method.theta[name].clone() for name in MATRICES}
    carried = {name: method.n[name] @ basis(0, name).T for name in MATRICES}
    method.step(2, Bowl())
    for name in MATRICES:
        change = method.theta[name] - before[name]
        torch.testing.assert_close(change, -LR * carried[name], rtol=1e-3, atol=1e-5)
        assert not torch.allclose(
            method.n[name], carried[name] @ basis(0, name) / len(basis(0, name))
        )


def test_thresholds_take_an_exact_share() -> None:
    """Of each tensor on its own, whatever its scale."""
    theta = {"small": 1e-6 * random(1, 10, 10), "large": 1e6 * random(2, 7)}
    for name, h in thresholds(theta, 0.3).items():
        values = theta[name].abs()
        assert (values <= h).sum() == round(0.3 * values.numel())


def test_sparse_mezo_trains_what_is_small_now() -> None:
    """The mask of a step is that of θ before it, not of θ ± εz, and follows θ."""
    limits = dict.fromkeys(SHAPES, 0.5)
    bowl, method = Bowl(), SparseMezo(start(), draw, lr=LR, eps=EPS, thresholds=limits)
    masks = []
    for t in range(9):
        before = {name: values.clone() for name, values in method.theta.items()}
        small = {name: (values.abs() <= 0.5).double() for name, values in before.items()}
        along = {name: small[name] * draw(t, 0, name) for name in SHAPES}
        c = inner(along, bowl.gradient(before))
        method.step(t, bowl)
        close(method.theta, {name: before[name] - LR * c * along[name] for name in SHAPES})
        masks.append(torch.cat([mask.flatten() for mask in small.values()]))
    assert not torch.equal(masks[0], masks[-1])


def test_hizoo_without_curvature_is_mezo() -> None:
    """α = 0 leaves H at one."""
    theta = []
    for kind in (Hizoo(start(), draw, LR, EPS, smooth=0.0), Mezo(start(), draw, LR, EPS)):
        kind.step(0, Bowl())
        theta.append(kind.theta)
    close(*theta)


def test_hizoo_probes_with_the_old_curvature_and_moves_with_the_new() -> None:
    """(l₊ + l₋ − 2l₀) / ε² is dᵀAd along d = z/√H, exactly, so H is known after every step."""
    alpha, bowl = 0.05, Bowl()
    method = Hizoo(start(), draw, LR, EPS, smooth=alpha)
    hessian = {name: torch.ones_like(values) for name, values in start().items()}
    wanted = start()
    for t in range(3):
        probe = {name: draw(t, 0, name) / hessian[name].sqrt() for name in SHAPES}
        c = inner(probe, bowl.gradient(wanted))
        for name in SHAPES:
            square = hessian[name] * draw(t, 0, name) ** 2
            hessian[name] = (1 - alpha) * hessian[name] + alpha * bowl.bend(probe) / 2 * square
            wanted[name] = wanted[name] - LR * c * draw(t, 0, name) / hessian[name].sqrt()
        method.step(t, bowl)
        close(method.hessian, hessian)
        close(method.theta, wanted)


def test_fzoo_divides_by_the_spread_of_its_losses() -> None:
    """l_i − l₀ = ε·u_i·∇f + ε²/2·u_iᵀAu_i, and N + 1 forwards, f(θ) first."""
    bowl, gradient = Bowl(), Bowl().gradient(start())
    method = Fzoo(start(), lambda *of: draw(*of).sign(), LR, EPS, queries=4)
    method.step(0, bowl)
    signs = [{name: part.sign() for name, part in z(0, q).items()} for q in range(4)]
    above = torch.stack([EPS * inner(s, gradient) + EPS**2 / 2 * bowl.bend(s) for s in signs])
    sigma = ((above - above.mean()) ** 2).sum().div(3).sqrt()
    wanted = start()
    for rise, along in zip(above, signs, strict=True):
        for name in SHAPES:
            wanted[name] = wanted[name] - LR / sigma * rise / (EPS * 4) * along[name]
    close(method.theta, wanted)
    close(bowl.asked[0], start())
    assert len(bowl.asked) == 5


def test_clipping_bounds_the_scalar_and_the_floor_theta() -> None:
    """Both queries at their limits, with their signs; nothing falls below the floor."""
    gradient = Bowl().gradient(start())
    method = Clipped(start(), draw, LR, EPS, queries=2, limit=1e-3, floor=-0.5)
    method.step(0, Bowl())
    wanted = start()
    for query in (0, 1):
        c = inner(z(0, query), gradient)
        assert abs(c) > 1e-3
        for name in SHAPES:
            wanted[name] = wanted[name] - LR / 2 * 1e-3 * c.sign() * draw(0, query, name)
    close(method.theta, {name: values.clamp(min=-0.5) for name, values in wanted.items()})
    assert min(values.min() for values in wanted.values()) < -0.5


def test_lora_trains_one_factor() -> None:
    """c = z·(s·∇f·Aᵀ): the chain rule through W + s·B·A, with W and A as they were."""
    a = {name: random(6, RANK, SHAPES[name][1]) for name in MATRICES}
    b = {name: random(7, SHAPES[name][0], RANK) for name in MATRICES}
    build = lora(start(), a, scale=0.5)
    method = Mezo({n: part.clone() for n, part in b.items()}, u, LR, EPS, build=build)
    method.step(0, Bowl())
    gradient = Bowl().gradient(build(b))
    along = {name: u(0, 0, name) for name in MATRICES}
    c = inner(along, {name: 0.5 * gradient[name] @ a[name].T for name in MATRICES})
    close(method.theta, {name: b[name] - LR * c * along[name] for name in MATRICES})
    assert torch.equal(build(b)["bias"], start()["bias"])


def test_scales_multiply_the_codes_of_their_block() -> None:
    """Row-major blocks along the input side; what has no scale is as it was."""
    codes = {"first": torch.arange(24.0, dtype=torch.float64).view(4, 2, 3)}
    scales = {"first": random(8, 4, 2)}
    built = scaled(start(), codes)(scales)
    for row in range(4):
        for column in range(6):
            wanted = (6 * row + column) * scales["first"][row, column // 3]
            assert built["first"][row, column] == wanted
    assert torch.equal(built["second"], start()["second"])

"""The textbooks themselves, on a parabola whose slopes, curvatures and minima are known.

c = z·∇f exactly, so every rule has a closed form; torch.optim has momentum and Adam, too
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.bounds import Forced
from tests.methods.bowl import SHAPES, Bowl, draw, inner, random, start
from tests.methods.directions import masked, on_index, subspace
from tests.methods.hybrid import Hybrid
from tests.methods.reference import (
    Adam,
    Blockwise,
    Conservative,
    ForwardGradient,
    Method,
    Mezo,
    Momentum,
    ScalarSign,
    Tensors,
    VectorSign,
)

LR, EPS = 0.01, 0.3
NAMES = tuple(SHAPES)


def close(actual: Tensors, wanted: Tensors) -> None:
    """Equal up to the rounding of float64."""
    assert actual.keys() == wanted.keys()
    for name, values in actual.items():
        torch.testing.assert_close(values, wanted[name], rtol=1e-11, atol=1e-12)


def z(t: int, query: int = 0) -> Tensors:
    return {name: draw(t, query, name) for name in NAMES}


def moved(along: Tensors, by: float | Tensor) -> Tensors:
    """Where a move from the start leads."""
    return {name: v + by * along[name] if name in along else v for name, v in start().items()}


def stepped(kind: Callable[..., Method], steps: int = 1, **given: Any) -> Tensors:
    """θ after some steps of a method on the bowl."""
    method = kind(start(), given.pop("z", draw), lr=LR, eps=EPS, **given)
    for t in range(steps):
        method.step(t, Bowl())
    return method.theta


def estimates(optimizer: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int) -> Tensors:
    """θ after steps of an optimizer of torch on g = (z·∇f)·z."""
    theta, bowl = start(), Bowl()
    rule = optimizer(list(theta.values()))
    for t in range(steps):
        c = inner(z(t), bowl.gradient(theta))
        for name, values in theta.items():
            values.grad = c * draw(t, 0, name)
        rule.step()
    return theta


def test_mezo_follows_the_exact_slope_of_every_query() -> None:
    """θ − η/Q·Σ (z_q·∇f)·z_q."""
    wanted, gradient = start(), Bowl().gradient(start())
    for query in range(3):
        along = z(0, query)
        for name in NAMES:
            wanted[name] -= LR / 3 * inner(along, gradient) * along[name]
    close(stepped(Mezo, queries=3), wanted)


def test_a_step_evaluates_plus_and_then_minus() -> None:
    """θ + εz, θ − εz, and θ is restored in between: queries do not see each other."""
    bowl = Bowl()
    Mezo(start(), draw, lr=LR, eps=EPS, queries=2).step(0, bowl)
    points = [(query, by) for query in (0, 1) for by in (EPS, -EPS)]
    for asked, (query, by) in zip(bowl.asked, points, strict=True):
        close(asked, moved(z(0, query), by))


def test_what_is_not_trained_is_not_touched() -> None:
    """Neither in a probe nor by the move."""
    bowl = Bowl()
    method = Mezo(start(), draw, lr=LR, eps=EPS, trained=("second",))
    method.step(0, bowl)
    for seen in (*bowl.asked, method.theta):
        assert torch.equal(seen["first"], start()["first"])
    along = {"second": draw(0, 0, "second")}
    close(method.theta, moved(along, -LR * inner(along, bowl.gradient(start()))))


def test_an_index_restricts_the_direction() -> None:
    """SensZOQ is MeZO on z that is zero elsewhere; the rest of the weight is frozen."""
    index = {"first": torch.tensor([1, 8, 23])}
    shapes = {"first": torch.Size(SHAPES["first"])}
    values = draw(0, 0, "bias")[:3]
    along = torch.zeros(24, dtype=torch.float64)
    along[index["first"]] = values
    actual = stepped(Mezo, z=on_index(lambda *_: values, index, shapes), trained=("first",))
    c = Bowl().gradient(start())["first"].flatten()[index["first"]] @ values
    close(actual, moved({"first": along.view(4, 6)}, -LR * c))


def test_a_mask_prunes_the_direction() -> None:
    """Both what is probed and what moves; the mask may change with the step."""
    mask = {name: (draw(7, 0, name) > 0).double() for name in NAMES}
    along = {name: mask[name] * draw(0, 0, name) for name in NAMES}
    actual = stepped(Mezo, z=masked(draw, lambda t, name: mask[name] if t == 0 else 0 * mask[name]))
    close(actual, moved(along, -LR * inner(along, Bowl().gradient(start()))))


def test_the_sign_of_the_scalar() -> None:
    """One step of length η·|z|, down."""
    c = inner(z(0), Bowl().gradient(start()))
    close(stepped(ScalarSign), moved(z(0), -LR * c.sign()))


def test_the_sign_of_every_coordinate() -> None:
    """Of the averaged estimate: every weight moves by η."""
    gradient = Bowl().gradient(start())
    rays = [(inner(z(0, q), gradient), z(0, q)) for q in range(3)]
    sums = {n: torch.stack([c * along[n] for c, along in rays]).sum(0) for n in NAMES}
    signs = {name: values.sign() for name, values in sums.items()}
    close(stepped(VectorSign, queries=3), moved(signs, -LR))


def test_momentum_is_that_of_torch() -> None:
    """Five steps of SGD with a heavy ball and no dampening."""
    wanted = estimates(lambda theta: torch.optim.SGD(theta, lr=LR, momentum=0.9), 5)
    close(stepped(Momentum, 5), wanted)


def test_adam_is_that_of_torch() -> None:
    """Five steps, both moments unbiased."""
    close(stepped(Adam, 5), estimates(lambda theta: torch.optim.Adam(theta, lr=LR), 5))


@pytest.mark.parametrize(
    ("down", "up", "here", "to"),
    [
        (1.0, 3.0, 2.0, -1), (3.0, 1.0, 2.0, 1), (2.0, 3.0, 1.0, 0),
        (1.0, 1.0, 1.0, 1), (1.0, 3.0, 1.0, -1), (3.0, 1.0, 1.0, 1), (1.0, 1.0, 3.0, 1),
    ],
)  # fmt: skip
def test_conservative_keeps_the_best_of_three(down: float, up: float, here: float, to: int) -> None:
    """Back along cz, on along it, or nowhere; of equals as the code of ZO-Bench has it."""
    losses = torch.tensor([0.6, 0.0, down, up, here], dtype=torch.float64)
    method = Conservative(start(), draw, lr=LR, eps=EPS)
    method.step(0, Forced(Bowl(), losses))
    close(method.theta, moved(z(0), to * LR * 0.6 / (2 * EPS)))


def test_conservative_tries_the_points_it_says() -> None:
    """θ − ηcz, θ + ηcz and θ, after the two probes."""
    bowl = Bowl()
    Conservative(start(), draw, lr=LR, eps=EPS).step(0, bowl)
    far = LR * inner(z(0), bowl.gradient(start()))
    points: list[float | Tensor] = [EPS, -EPS, -far, far, 0]
    for asked, by in zip(bowl.asked, points, strict=True):
        close(asked, moved(z(0), by))


def test_forward_gradient_needs_no_distance() -> None:
    """The derivative along z; ε takes no part."""
    c = inner(z(0), Bowl().gradient(start()))
    close(stepped(ForwardGradient), moved(z(0), -LR * c))


@pytest.mark.parametrize("sequential", [True, False], ids=["gauss-seidel", "jacobi"])
def test_blocks_have_slopes_of_their_own(sequential: bool) -> None:
    """StepSelector θ as the blocks before left it, or at θ as it was."""
    blocks = (("second",), ("first", "bias"))
    wanted, frozen = start(), start()
    for query, block in enumerate(blocks):
        gradient = Bowl().gradient(wanted if sequential else frozen)
        along = {name: draw(0, query, name) for name in block}
        c = inner(along, gradient)
        for name in block:
            wanted[name] = wanted[name] - LR * c * along[name]
    close(stepped(Blockwise, blocks=blocks, sequential=sequential), wanted)


def test_hybrid_takes_both_steps_from_the_same_theta() -> None:
    """The gradient is as it was before the move, and no probe touches what has one."""
    bowl, names = Bowl(), ("first", "bias")
    gradient = bowl.gradient(start())
    method = Hybrid(start(), draw, lr=LR, eps=EPS, trained=names, exact=("second",), exact_lr=0.5)
    method.step(0, bowl)
    along = {name: draw(0, 0, name) for name in names}
    c = inner(along, gradient)
    steps = {name: -LR * c * values for name, values in along.items()}
    close(method.theta, moved(steps | {"second": -0.5 * gradient["second"]}, 1))
    assert all(torch.equal(asked["second"], start()["second"]) for asked in bowl.asked)


def test_a_subspace_keeps_the_norm_of_a_dense_direction() -> None:
    """‖s·U·z₀·Vᵀ‖² = s²·‖z₀‖², and s² = mn / r² makes that m·n for z₀ of unit variance."""
    m, n, r = 5, 3, 2
    u, v = (torch.linalg.qr(random(seed, size, r))[0] for seed, size in ((1, m), (2, n)))
    core = random(3, r, r)
    given = subspace(
        lambda *_: core, lambda *_: u, lambda *_: v, draw,
        {"second": torch.Size((m, n)), "bias": torch.Size((4,))}, window=3,
    )  # fmt: skip
    direction = given(0, 0, "second")
    torch.testing.assert_close(direction.norm() ** 2, m * n / r**2 * core.norm() ** 2)
    torch.testing.assert_close(u @ (u.T @ direction @ v) @ v.T, direction)
    assert torch.equal(given(0, 0, "bias"), draw(0, 0, "bias"))


def test_a_subspace_holds_for_its_window() -> None:
    """Factors are asked for by window t // ν, and the core by step."""
    asked: list[tuple[str, int]] = []

    eye = torch.eye(3, dtype=torch.float64)

    def noted(what: str) -> Callable[..., Tensor]:
        def give(t: int, *_: Any) -> Tensor:
            asked.append((what, t))
            return eye

        return give

    given = subspace(
        noted("core"), noted("u"), noted("v"), draw,
        {"x": torch.Size((3, 3))}, window=4, scale=2.0,
    )  # fmt: skip
    torch.testing.assert_close(given(7, 0, "x"), 2 * eye)
    assert sorted(asked) == [("core", 7), ("u", 1), ("v", 1)]


@pytest.mark.parametrize("kind", [Mezo, ScalarSign, VectorSign, Momentum, Adam, Conservative])
def test_a_step_of_no_length_leaves_theta(kind: Callable[..., Method]) -> None:
    """All perturbations are undone."""
    method = kind(start(), draw, lr=0.0, eps=EPS)
    method.step(0, Bowl())
    close(method.theta, start())
    assert all((terms == 0).all() for terms in method.terms.values())

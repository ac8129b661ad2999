"""The bound of a backward pass: every op keeps to its own, and both passes bound the whole."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.methods.backward import FUSED, Noted, SmallScores, noted_gradient
from tests.methods.bowl import random
from tests.runtimes.reference import ARITHMETIC, UNIT, Rounding, layer_norm, linear, softmax

aten = torch.ops.aten
TIMES = 20
ROWS = torch.tensor([[0, 0], [0, 2]])
PLACES = (torch.tensor([0, 2, 0]), torch.tensor([1, 1, 1]))

OPS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "add": (aten.add, (random(0, 3, 4), random(1, 3, 4))),
    "sub": (aten.sub, (random(0, 3, 4), random(1, 4))),
    "mul": (aten.mul, (random(0, 3, 4), random(1, 4))),
    "div": (lambda x: aten.div(x, 7), (random(0, 3, 4),)),
    "mm": (aten.mm, (random(0, 3, 40), random(1, 40, 5))),
    "bmm": (aten.bmm, (random(0, 2, 3, 40), random(1, 2, 40, 5))),
    "sum": (lambda x: aten.sum(x, [0], True), (random(0, 30, 4),)),
    "pow": (lambda x: aten.pow(x, 3), (random(0, 3, 4),)),
    "exp": (aten.exp, (3 * random(0, 3, 4),)),
    "gelu": (aten.gelu_backward, (random(0, 50), 3 * random(1, 50))),
    "softmax": (
        lambda g, p: aten._softmax_backward_data(g, p, 1, p.dtype),
        (random(0, 3, 40), random(1, 3, 40).softmax(1)),
    ),
    "log-softmax": (
        lambda g, y: aten._log_softmax_backward_data(g, y, 1, y.dtype),
        (random(0, 3, 40), random(1, 3, 40).log_softmax(1)),
    ),
    "index-put": (
        lambda x, y: aten.index_put(x, PLACES, y, True), (random(0, 3, 4), random(1, 3)),
    ),
    "scatter": (
        lambda x, y: aten.scatter_add(x, 0, ROWS, y),
        (random(0, 3, 4), random(1, 2, 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_an_op_in_float32_is_within_what_is_noted(name: str) -> None:
    """Also without what is allowed for fused kernels."""
    function, given = OPS[name]
    narrow, rounding = [x.float() for x in given], Rounding()
    wide = [x.double() for x in narrow]
    with Noted(rounding):
        wanted = function(*wide)
    ((value, local),) = zip(rounding.values[-1:], rounding.local[-1:], strict=True)
    assert value is wanted
    error = (function(*narrow).double() - wanted).abs()
    assert error.max() > 0
    assert (error <= local / FUSED).all()


def test_a_gradient_in_float32_is_within_the_bound() -> None:
    """Of norm, product, activation and softmax, along any signs; the bound is thousandths of it."""
    sizes = ((6, 32), (32, 32), (4, 32))
    narrow = [random(seed, *size).float() for seed, size in enumerate(sizes)]
    gradient = torch.autograd.grad(
        _loss(lambda value, *_: value, *(x.requires_grad_() for x in narrow)), narrow
    )
    leaves = {str(k): x.detach().double().requires_grad_() for k, x in enumerate(narrow)}
    rounding = Rounding()
    wanted = noted_gradient(_loss(rounding, *leaves.values()), leaves, rounding)
    signs = [torch.stack([random(k, *g.shape).sign() for k in range(TIMES)]) for g in gradient]
    along = torch.stack(
        [(w * g).flatten(1).sum(1) for w, g in zip(signs, wanted.values(), strict=True)]
    )
    measured = torch.stack(
        [(w * g.double()).flatten(1).sum(1) for w, g in zip(signs, gradient, strict=True)]
    )
    allowed, error = rounding.bound(along), (measured - along).abs()
    assert (error <= allowed).all()
    assert (allowed.mean(1) < 5e-3 * along.abs().mean(1)).all()


def _loss(rounding: Callable[..., Tensor], x: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """A layer as `tests.runtimes.reference` spells it, and the mean of −p of one class."""
    hidden = linear(rounding, layer_norm(rounding, x, [32]), inner)
    hidden = rounding(torch.nn.functional.gelu(hidden), hidden.abs().clamp(min=1), 8)
    return -softmax(rounding, linear(rounding, hidden, outer), -1)[:, 1].mean()


def test_both_passes_are_counted() -> None:
    """d(x²)/dx: 2 times what x is off, and the roundings of 2·x and of its product with 1."""
    leaves = {"x": torch.tensor([3.0], dtype=torch.float64).requires_grad_()}
    rounding = Rounding()
    x = rounding(leaves["x"].clone(), leaves["x"].abs(), 1000)
    slope = noted_gradient((x**2).sum(), leaves, rounding)["x"]
    forwards, backwards = 1000 * 6 * UNIT, FUSED * ARITHMETIC * 6 * UNIT
    bound = float(rounding.bound(slope))
    assert forwards + backwards <= bound <= 1.001 * forwards + 4 * backwards


def test_an_op_without_a_rule_is_refused() -> None:
    """Nothing is taken for exact."""
    x = random(0, 3)
    with Noted(Rounding()), pytest.raises(NotImplementedError, match=r"say what aten\.tan"):
        x.tan()


def test_large_scores_are_refused() -> None:
    """What their probabilities are off in a backward pass was derived for small ones."""
    scores = torch.ones(1, 1, 2, 2)
    with pytest.raises(AssertionError, match="scores too large"):
        SmallScores()(scores, 2 * scores, 4)

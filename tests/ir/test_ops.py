"""The meanings of zofx:: ops that have more than one way to be computed."""

import numpy as np
import pytest
import torch
from torch.library import CustomOpDef

from zofx.ir import ops
from zofx.ir.ops import scoring, sparse

WIDTH, OUT = 512, 512
# One entry in every column is dearer as a block; 600 entries in two columns are cheaper. Rows may
# have several, but not many.
SCATTERED = torch.arange(WIDTH) * WIDTH + torch.arange(WIDTH).roll(7)
CLUSTERED = torch.cat([torch.arange(300) * WIDTH + 3, torch.arange(300) * WIDTH + 9]).sort().values
SHARED = torch.cat([SCATTERED, torch.arange(61) * 5 + 2, torch.arange(32) + 40 * WIDTH]).unique()
DEEP = torch.cat([SCATTERED, torch.arange(65) * 5 + 2]).unique()


def sizes(index: torch.Tensor) -> tuple[int, int]:
    """How many columns have entries, and the most entries in a row."""
    return (index % WIDTH).unique().numel(), int(torch.bincount(index // WIDTH).max())


@pytest.mark.parametrize(
    ("index", "block"), [(SCATTERED, False), (SHARED, False), (CLUSTERED, True), (DEEP, True)]
)
@pytest.mark.parametrize("probes", [(), (3,)])
def test_sparse_linear_is_the_dense_product_both_ways(
    index: torch.Tensor, block: bool, probes: tuple[int, ...]
) -> None:
    """The block over touched columns and the sparse product both mean x·Sᵀ, probe by probe."""
    columns, deepest = sizes(index)
    assert sparse.as_block(index.numel(), columns, deepest, OUT, WIDTH) is block
    rng = np.random.default_rng(0)
    # Small integers: every order of summation gives the same f32, so equality is exact.
    values = torch.from_numpy(rng.integers(-4, 5, (*probes, index.numel()))).float()
    x = torch.from_numpy(rng.integers(-4, 5, (6, 5, WIDTH))).float()
    actual = sparse.sparse_linear(x, values, index.int(), OUT, columns, deepest)
    dense = torch.zeros(*probes, OUT * WIDTH)
    dense[..., index] = values
    parts = x.reshape(*probes, -1, WIDTH)
    expected = (parts @ dense.reshape(*probes, OUT, WIDTH).mT).reshape(6, 5, OUT)
    assert torch.equal(actual, expected)


def test_score_targets_leaves_out_what_is_not_scored() -> None:
    """A target of −100 has no part in the mean, and an alternative scored nowhere gets 0."""
    logits = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]]])
    targets = torch.tensor([[[2, -100], [-100, -100]]])
    expected = torch.log_softmax(logits[0, 0].double(), -1)[2]
    scores = scoring.score_targets(logits, targets)
    assert scores.shape == (1, 2)
    assert abs(float(scores[0, 0]) - float(expected)) < 4 * 3 * 2**-24
    assert float(scores[0, 1]) == 0.0


def test_what_an_op_is_written_in_has_a_backward() -> None:
    """The same values; the slope of a mean log-probability is that of log_softmax."""
    logits = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)
    targets = torch.tensor([[[2]]])
    op = torch.ops.zofx.score_targets.default
    scores = ops.meaning(op)(logits, targets)
    assert torch.equal(scores.detach(), op(logits.detach(), targets))
    (gradient,) = torch.autograd.grad(scores.sum(), [logits])
    (expected,) = torch.autograd.grad(torch.log_softmax(logits, -1)[0, 0, 2], [logits])
    torch.testing.assert_close(gradient, expected)
    with pytest.raises(RuntimeError, match="backward"):
        op(logits, targets).sum().backward()


def test_every_op_has_a_meaning() -> None:
    """Found by the name in a graph."""
    defined = [item for module in ops.MODULES for item in vars(module).items()]
    names = [name for name, value in defined if isinstance(value, CustomOpDef)]
    assert len(names) == len(set(names)) >= 15
    for name in names:
        assert ops.meaning(getattr(torch.ops.zofx, name).default).__name__ == name

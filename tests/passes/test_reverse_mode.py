"""reverse-mode: the joint graph, its two halves, and what they compute."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden import Inputs, apply, assert_golden, batch, values
from tests.passes.probing import dense
from tests.passes.slopes import scorer
from tests.passes.toys import Blocks, OneLinear, Tied, Toy, TwoLinears
from zofx.errors import PipelineError, UnsupportedError
from zofx.ir.printer import show
from zofx.ir.program import Program, results_of
from zofx.ir.residuals import partition
from zofx.ir.schema import COTANGENT, RESIDUAL, Role

EXACT = "hybrid-first-order{layers=all}"
COTANGENTS = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 1.0, -1.0, 2.0], [3.0, 0.0, 0.0, -1.0]])
UNITS = 1e-5
"""A hundred roundings of float32, relative to the largest entry: the toys are that small."""


def results(program: Program, inputs: Inputs) -> list[Tensor]:
    """All of them."""
    found = values(program, inputs)
    return [found[node] for node in results_of(program.graph)]


def test_the_joint_graph_of_one_linear() -> None:
    """Scores come first; cotangents go from the logits to what trains, and no further."""
    before, _ = apply(EXACT, dense(OneLinear, "fc"))
    assert_golden(show(*apply("reverse-mode", before)), "")


@pytest.mark.parametrize("toy", [OneLinear, TwoLinears, Tied, Blocks])
def test_gradients_are_those_of_autograd(toy: type[Toy]) -> None:
    """Of every tensor, as torch has them in float64 for the program before."""
    before, _ = apply(EXACT, dense(toy, integers=False))
    joint, _ = apply("reverse-mode", before)
    inputs = {**batch(), COTANGENT: COTANGENTS}
    _, *found = results(joint, inputs)
    exact = [spec.name for spec in joint.tensors.values() if spec.role is Role.EXACT]
    theta = {name: before.load(name).double().requires_grad_() for name in exact}
    total = (scorer(before, inputs)(theta) * COTANGENTS).sum()
    for own, wanted in zip(found, torch.autograd.grad(total, list(theta.values())), strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(
            own.double(), wanted, rtol=0, atol=UNITS * float(wanted.abs().max())
        )


def test_both_halves_are_the_whole() -> None:
    """The same ops on the same values, so the same bits; norms and activations are not kept."""
    joint, _ = apply(f"{EXACT}, reverse-mode", dense(Blocks))
    inputs = {**batch(), COTANGENT: COTANGENTS}
    scores, *gradients = results(joint, inputs)
    forward, backward = partition(joint)
    again, *residuals = results(forward, inputs)
    assert torch.equal(again, scores)
    kept = {f"{RESIDUAL}.{number}": value for number, value in enumerate(residuals)}
    for own, whole in zip(results(backward, {**inputs, **kept}), gradients, strict=True):
        assert torch.equal(own, whole)
    made = {str(node.target) for node in results_of(forward.graph)[1:]}
    assert made <= {"aten.linear.default", "aten.add.Tensor"}


class Stepped(OneLinear):
    """A model with an op that torch has no derivative of."""

    def logits(self, x: Tensor) -> Any:
        """The logits, an ulp further up."""
        return torch.nextafter(self.fc(x), self.fc(x) + 1)


def test_an_op_without_derivative_is_named() -> None:
    """With what to do instead."""
    before, _ = apply(EXACT, dense(Stepped, "fc"))
    with pytest.raises(UnsupportedError, match="(?s)nextafter.*leave --exact-layers out"):
        apply("reverse-mode", before)


def test_something_has_to_be_exact() -> None:
    """A program of probes alone has no joint graph."""
    with pytest.raises(PipelineError, match="'exact'"):
        apply("reverse-mode", dense(OneLinear))

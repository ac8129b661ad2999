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
    values_of = values(program, inputs)
    return [values_of[node] for node in results_of(program.graph)]


def test_the_joint_graph_of_one_linear() -> None:
    """Scores come first; cotangents go from the logits to what trains, and no further."""
    before, _ = apply(EXACT, dense(OneLinear, "fc"))
    assert_golden(
        show(*apply("reverse-mode", before)),
        """\
program                                  facts: canonical, exact, sliced
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  input   cotangent       f32[N, C]
  frozen  embed.weight    f32[7, 4]
  exact   fc.weight       f32[7, 4]
  exact   fc.bias         f32[7]
body
  %0 = aten.sym_size.int(input_ids, 0)   : N
  %1 = aten.sym_size.int(input_ids, 1)   : T
  %2 = aten.sym_size.int(positions, 1)   : S
  %3 = aten.sym_size.int(targets, 2)   : C
  %4 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %5 = aten.linear(%4, fc.weight)   : f32[N, T, 7]
  %6 = aten.add.Tensor(%5, fc.bias)   : f32[N, T, 7]
  %7 = zofx.select_positions(%6, positions)   : f32[N, S, 7]
  %8 = zofx.score_targets(%7, targets)   : f32[N, C]
  %9 = aten.ge.Scalar(targets, 0)   : bool[N, S, C]
  %10 = aten._to_copy(%9, dtype=f32)   : f32[N, S, C]
  %11 = aten.clamp(targets, 0)   : i64[N, S, C]
  %12 = aten.logsumexp(%7, [-1], True)   : f32[N, S, 1]
  %13 = aten.sum.dim_IntList(%10, [1])   : f32[N, C]
  %14 = aten.clamp(%13, 1)   : f32[N, C]
  %15 = aten.div.Tensor(cotangent, %14)   : f32[N, C]
  %16 = aten.unsqueeze(%15, 1)   : f32[N, 1, C]
  %17 = aten.expand(%16, [%0, %2, %3])   : f32[N, S, C]
  %18 = aten.mul.Tensor(%17, %10)   : f32[N, S, C]
  %19 = aten.neg(%18)   : f32[N, S, C]
  %20 = aten.sum.dim_IntList(%19, [2], True)   : f32[N, S, 1]
  %21 = aten.sub.Tensor(%7, %12)   : f32[N, S, 7]
  %22 = aten.exp(%21)   : f32[N, S, 7]
  %23 = aten.mul.Tensor(%20, %22)   : f32[N, S, 7]
  %24 = aten.new_zeros(%18, [%0, %2, 7])   : f32[N, S, 7]
  %25 = aten.scatter_add(%24, -1, %11, %18)   : f32[N, S, 7]
  %26 = aten.add.Tensor(%23, %25)   : f32[N, S, 7]
  %27 = zofx.select_positions_transpose(%26, positions, %1)   : f32[N, T, 7]
  %28 = aten.sum.dim_IntList(%27, [0, 1], True)   : f32[1, 1, 7]
  %29 = aten.view(%28, [7])   : f32[7]
  %30 = aten.view(%27, [-1, 7])   : f32[N*T, 7]
  %31 = aten.view(%4, [-1, 4])   : f32[N*T, 4]
  %32 = zofx.product(%30, %31, True, False)   : f32[7, 4]
  return %8, %32, %29
remarks
  applied  joint graph   2 gradients, 32 more ops
""",
    )


@pytest.mark.parametrize("toy", [OneLinear, TwoLinears, Tied, Blocks])
def test_gradients_are_those_of_autograd(toy: type[Toy]) -> None:
    """Of every tensor, as torch has them in float64 for the program before."""
    before, _ = apply(EXACT, dense(toy, integers=False))
    joint, _ = apply("reverse-mode", before)
    inputs = {**batch(), COTANGENT: COTANGENTS}
    _, *gradients = results(joint, inputs)
    exact = [spec.name for spec in joint.tensors.values() if spec.role is Role.EXACT]
    theta = {name: before.load(name).double().requires_grad_() for name in exact}
    total = (scorer(before, inputs)(theta) * COTANGENTS).sum()
    for own, wanted in zip(
        gradients, torch.autograd.grad(total, list(theta.values())), strict=True
    ):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(
            own.double(), wanted, rtol=0, atol=UNITS * float(wanted.abs().max())
        )


def test_both_halves_are_the_whole() -> None:
    """The same ops on the same values, so the same bits; what is cheap to redo is not kept."""
    joint, _ = apply(f"{EXACT}, reverse-mode", dense(Blocks))
    inputs = {**batch(), COTANGENT: COTANGENTS}
    scores, *gradients = results(joint, inputs)
    forward, backward = partition(joint)
    again, *residuals = results(forward, inputs)
    assert torch.equal(again, scores)
    kept = {f"{RESIDUAL}.{number}": value for number, value in enumerate(residuals)}
    for own, whole in zip(results(backward, {**inputs, **kept}), gradients, strict=True):
        assert torch.equal(own, whole)
    assert 0 < len(residuals) < len(backward.graph.find_nodes(op="placeholder"))


class Stepped(OneLinear):
    """A model with an op that torch has no derivative of."""

    def logits(self, x: Tensor) -> Any:
        """The logits, an ulp further up."""
        return torch.nextafter(self.fc(x), self.fc(x) + 1)


def test_an_op_without_derivative_is_named() -> None:
    """With what to do instead."""
    before, _ = apply(EXACT, dense(Stepped, "fc"))
    with pytest.raises(UnsupportedError, match=r"(?s)nextafter.*leave --exact-layers out"):
        apply("reverse-mode", before)


def test_something_has_to_be_exact() -> None:
    """A program of probes alone has no joint graph."""
    with pytest.raises(PipelineError, match="'exact'"):
        apply("reverse-mode", dense(OneLinear))

"""expose-scales: the scales of quantized matrices train, their codes do not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.golden import apply, assert_golden, batch, captured, values
from tests.golden import summation_bound as summation
from tests.passes.probing import PERTURB, assert_a_probe_is_a_move
from tests.passes.toys import OneLinear, Tied
from zofx.errors import PipelineError
from zofx.ir.formats import FORMATS
from zofx.ir.ops import zofx_ops
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.schema import Role
from zofx.passes import PASSES

WIDTH = 32


def quantized(form: str = "int4", toy: type[OneLinear] = OneLinear) -> Program:
    """A matrix of one block per row, in 4 or 8 bits; with a bias."""
    text = f"canonicalize, quantize-frozen{{format={form}}}"
    after, _ = apply(text, captured(toy(WIDTH), integers=False))
    return after


def test_spells_the_matrix_out() -> None:
    """The scales become a trainable, the bias an addition."""
    after, remarks = apply("expose-scales", quantized())
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: block-scaled, canonical, quantized, sliced
  input      input_ids         i64[N, T]
  input      attention_mask    i64[N, T]
  input      positions         i64[N, S]
  input      targets           i64[N, S, C]
  frozen     embed.weight      f32[7, 32]
  frozen     fc.bias           f32[7]
  frozen     fc.weight.codes   u8[7, 1, 16]  int4 of fc.weight
  trainable  fc.weight.scales  f32[7, 1]     int4 of fc.weight
  frozen     fc.weight.zeros   u8[7, 1]      int4 of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 32]
  %1 = zofx.dequantize_int(fc.weight.codes, fc.weight.scales, fc.weight.zeros, 4)   : f32[7, 32]
  %2 = aten.linear(%0, %1)   : f32[N, T, 7]
  %3 = aten.add.Tensor(%2, fc.bias)   : f32[N, T, 7]
  %4 = zofx.select_positions(%3, positions)   : f32[N, S, 7]
  %5 = zofx.score_targets(%4, targets)   : f32[N, C]
  return %5
remarks
  applied  scales   1 tensors, 7 numbers
""",
    )


@pytest.mark.parametrize("form", ["int4", "int8"])
def test_means_the_same(form: str) -> None:
    """Within the bound of two orders of summation, and the bias in a step of its own."""
    before = quantized(form)
    after, _ = apply("expose-scales", before)
    parts = [before.load(f"fc.weight.{part}") for part in ("codes", "scales", "zeros")]
    weight = FORMATS[form].dequantize(tuple(parts), (7, WIDTH))
    x = values(before, batch())[_reader(before, zofx_ops.linear_int.default).args[0]]  # type: ignore[index]
    bound = summation(x, weight, before.load("fc.bias"))
    apart = _read(after) - _read(before)
    assert apart.shape == bound.shape
    assert (apart.abs().double() <= bound).all()


def _read(program: Program) -> torch.Tensor:
    """The logits at every position."""
    node = _reader(program, zofx_ops.select_positions.default).args[0]
    value: torch.Tensor = values(program, batch())[node]  # type: ignore[index]
    return value


def _reader(program: Program, target: Callable[..., Any]) -> torch.fx.Node:
    (reader,) = program.graph.find_nodes(op="call_function", target=target)
    node: torch.fx.Node = reader
    return node


def test_a_probe_is_a_move_of_the_scales() -> None:
    """θ + c·z in the graph is a move on the host, bit for bit."""
    sliced, _ = apply("expose-scales", quantized())
    perturbed, _ = apply(PERTURB, sliced)
    assert_a_probe_is_a_move(sliced, perturbed)
    assert [spec.name for spec in perturbed.trainables] == ["fc.weight.scales"]
    frozen = {s.name for s in perturbed.tensors.values() if s.role is Role.FROZEN}
    assert {"fc.weight.codes", "fc.weight.zeros", "fc.bias"} <= frozen


def test_probes_have_a_matrix_each() -> None:
    """Stacked probes are single ones: the matrix is made per probe."""
    sliced, _ = apply("expose-scales", quantized())
    single, _ = apply(PERTURB, sliced)
    stacked, _ = apply("stack-probes", single)
    probes = [[0.5], [-0.25], [0.0]]
    together = values(stacked, batch(coefficients=probes))
    (result,) = (n for n in together if n.target is zofx_ops.split_probes.default)
    for row, probe in zip(together[result], probes, strict=True):
        alone = values(single, batch(coefficients=probe))
        (scores,) = (n for n in alone if n.target is zofx_ops.score_targets.default)
        torch.testing.assert_close(row, alone[scores], rtol=2e-6, atol=2e-6)


def test_nothing_to_expose_is_an_error() -> None:
    """Normal floats have no scales beside their codes; a head of a tied model is not quantized."""
    floats = Pipeline.parse("canonicalize, quantize-frozen{format=nf4}, expose-scales", PASSES)
    with pytest.raises(PipelineError, match=r"'block-scaled', .* name --quant int4 or int8"):
        floats.check_order()
    text = "canonicalize, quantize-frozen{format=int4}"
    program, _ = apply(text, captured(Tied(), integers=False))
    with pytest.raises(PipelineError, match="finds no matrix of block-wise integers"):
        apply("expose-scales", program)

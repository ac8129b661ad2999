# ruff: noqa: E501  (lines of printed programs)
"""quantize-activations where a product becomes values of an attention: two terms, 254 times as near."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.golden import apply, assert_golden, batch, logits, run, summation_bound, values
from tests.passes.probing import IN_ROWS, dense, frozen_rows
from tests.passes.toys import VOCABULARY, OneLinear, Toy, canonical
from zofx.errors import PipelineError, UsageError
from zofx.ir.ops import zofx_ops
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.passes import PASSES
from zofx.passes.quantize_activations import QuantizeActivations, values_of

EPS = 1e-3
HEADS = 3


class Attends(Toy):
    """x attends to itself; three heads share the values, which a layer makes."""

    def __init__(self) -> None:
        super().__init__(4)
        self.fc = nn.Linear(4, VOCABULARY)

    def logits(self, x: Tensor) -> Any:
        turned = x[:, None].expand(-1, HEADS, -1, -1)
        made = self.fc(x)[:, None].expand(-1, HEADS, -1, -1)
        return functional.scaled_dot_product_attention(turned, turned, made).sum(1)


class Keys(Attends):
    """What a layer makes is turned into queries and keys, and only looked at."""

    def logits(self, x: Tensor) -> Any:
        made = self.fc(x)
        return functional.scaled_dot_product_attention(made, made, made.relu())


class Fused(Toy):
    """One layer for queries, keys and values, which are taken apart."""

    def __init__(self) -> None:
        super().__init__(4)
        self.fc = nn.Linear(4, 3 * VOCABULARY)

    def logits(self, x: Tensor) -> Any:
        query, key, made = self.fc(x).split(VOCABULARY, dim=-1)
        return functional.scaled_dot_product_attention(query, key, made + made)


def probed(toy: type[nn.Module]) -> Program:
    """Its embedding trains, its layer is in int8-row."""
    before, _ = apply(IN_ROWS, dense(toy, "embed", integers=False))
    return before


def activations(program: Program, inputs: dict[str, Tensor]) -> Tensor:
    """What the layer multiplies: f32[P, N, T, D]."""
    tables = program.graph.find_nodes(op="call_function", target=zofx_ops.probe_embedding.default)
    values_of = values(program, inputs)
    x = torch.cat([values_of[table] for table in tables])
    return x.view(len(inputs["coefficients"]), -1, *x.shape[1:])


def test_values_take_a_second_term() -> None:
    """What the first rounding left, in steps of 1/254 of the first ones: of the first probe, to which the others add."""
    after, remarks = apply("quantize-activations", probed(Attends))
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, parted, perturbed, quantized, rounded, row-scaled, sliced, stacked
  input      input_ids         i64[N, T]
  input      attention_mask    i64[N, T]
  input      positions         i64[N, S]
  input      targets           i64[N, S, C]
  input      keys              i64[Q, 2]
  input      coefficients      f32[P, Q]
  trainable  embed.weight      f32[7, 4]
  frozen     fc.bias           f32[7]
  frozen     fc.weight.codes   i8[4, 7]      int8-row of fc.weight
  frozen     fc.weight.scales  f32[7]        int8-row of fc.weight
body
  %0 = aten.slice.Tensor(coefficients, 0, 0, 1)   : f32[1, Q]
  %1 = aten.slice.Tensor(coefficients, 0, 1, 9223372036854775807)   : f32[P - 1, Q]
  %2 = zofx.direction(keys, None, embed.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %3 = zofx.perturb(embed.weight, %2, %0)   : f32[1, 7, 4]
  %4 = zofx.perturb(embed.weight, %2, %1)   : f32[P - 1, 7, 4]
  %5 = zofx.replicate(input_ids, %1)   : i64[N*(P - 1), T]
  %6 = zofx.probe_embedding(%3, input_ids)   : f32[N, T, 4]
  %7 = zofx.probe_embedding(%4, %5)   : f32[N*(P - 1), T, 4]
  %8 = aten.unsqueeze(%6, 1)   : f32[N, 1, T, 4]
  %9 = aten.unsqueeze(%7, 1)   : f32[N*(P - 1), 1, T, 4]
  %10 = aten.expand(%8, [-1, 3, -1, -1])   : f32[N, 3, T, 4]
  %11 = aten.expand(%9, [-1, 3, -1, -1])   : f32[N*(P - 1), 3, T, 4]
  %12 = zofx.row_scales(%6)   : f32[N, T, 1]
  %13 = zofx.round_rows(%6, %12)   : u8[N, T, 4]
  %14 = zofx.left_over(%6, %13, %12)   : f32[N, T, 4]
  %15 = aten.mul.Tensor(%12, 0.003937007874015748)   : f32[N, T, 1]
  %16 = zofx.round_rows(%14, %15)   : u8[N, T, 4]
  %17 = zofx.linear_rounded(%13, %12, fc.weight.codes, fc.weight.scales)   : f32[N, T, 7]
  %18 = zofx.linear_rounded(%16, %15, fc.weight.codes, fc.weight.scales)   : f32[N, T, 7]
  %19 = aten.add.Tensor(%17, %18)   : f32[N, T, 7]
  %20 = aten.add.Tensor(%19, fc.bias)   : f32[N, T, 7]
  %21 = zofx.minus_base(%7, %6)   : f32[N*(P - 1), T, 4]
  %22 = zofx.row_scales(%21)   : f32[N*(P - 1), T, 1]
  %23 = zofx.round_rows(%21, %22)   : u8[N*(P - 1), T, 4]
  %24 = zofx.linear_rounded(%23, %22, fc.weight.codes, fc.weight.scales)   : f32[N*(P - 1), T, 7]
  %25 = zofx.plus_base(%24, %20)   : f32[N*(P - 1), T, 7]
  %26 = aten.unsqueeze(%20, 1)   : f32[N, 1, T, 7]
  %27 = aten.unsqueeze(%25, 1)   : f32[N*(P - 1), 1, T, 7]
  %28 = aten.expand(%26, [-1, 3, -1, -1])   : f32[N, 3, T, 7]
  %29 = aten.expand(%27, [-1, 3, -1, -1])   : f32[N*(P - 1), 3, T, 7]
  %30 = aten.scaled_dot_product_attention(%10, %10, %28)   : f32[N, 3, T, 7]
  %31 = aten.scaled_dot_product_attention(%11, %11, %29)   : f32[N*(P - 1), 3, T, 7]
  %32 = aten.sum.dim_IntList(%30, [1])   : f32[N, T, 7]
  %33 = aten.sum.dim_IntList(%31, [1])   : f32[N*(P - 1), T, 7]
  %34 = zofx.replicate(positions, %1)   : i64[N*(P - 1), S]
  %35 = zofx.select_positions(%32, positions)   : f32[N, S, 7]
  %36 = zofx.select_positions(%33, %34)   : f32[N*(P - 1), S, 7]
  %37 = zofx.replicate(targets, %1)   : i64[N*(P - 1), S, C]
  %38 = zofx.score_targets(%35, targets)   : f32[N, C]
  %39 = zofx.score_targets(%36, %37)   : f32[N*(P - 1), C]
  %40 = aten.cat([%38, %39])   : f32[N*(P - 1) + N, C]
  %41 = zofx.split_probes(%40, coefficients)   : f32[P, ((N*(P - 1) + N)//P), C]
  return %41
remarks
  applied  linears   1 products of 1 rounded activations, 1 of them in two terms
""",
    )


@pytest.mark.parametrize("probes", [1, 2, 3])
def test_values_are_off_by_half_a_finer_step(probes: int) -> None:
    """Σ |Ŵ| · (max |x_0| / 254² + max |x_p − x_0| / 254), whatever attention weighs them by.

    Weights of an attention are positive and add up to one, so what its values are off by bounds
    what it makes. With one term the same bound does not hold.
    """
    before = probed(Attends)
    (after, _), (once, _) = (
        apply(f"quantize-activations{{values={terms}}}", before) for terms in (2, 1)
    )
    table = [[EPS], [-EPS], [2 * EPS]][:probes]
    inputs = batch(coefficients=table)
    x = activations(before, inputs)
    weight, bias = frozen_rows(before), before.load("fc.bias")
    off = x[0].abs().amax(-1).double() / 254**2 + (x - x[0]).abs().amax(-1).double() / 254
    rounding = 4 * summation_bound(x, weight, bias)
    reach = off[..., None] * weight.abs().double().sum(1) + rounding
    bound = HEADS * reach.amax(2, keepdim=True)
    exact = logits(before, inputs).double()
    for made, refined in ((after, True), (once, False)):
        error = (logits(made, inputs).double() - exact).abs().view(probes, *x.shape[1:2], -1, 7)
        assert bool((error <= bound).all()) is refined


def test_without_probes_rows_are_those_of_probe_0() -> None:
    """Inference in the precision of an artifact: bit for bit what it scores where ε is 0."""
    plain, _ = apply("quantize-frozen{format=int8-row}", canonical(Attends, integers=False))
    seen: list[object] = []
    alone = QuantizeActivations().run(plain, lambda *remark: seen.append(remark))
    after, remarks = apply("quantize-activations", probed(Attends))
    assert seen == [(one.subject, one.verdict, one.why) for one in remarks]
    inputs = batch(coefficients=[[0.0]])
    (scores,) = run(after, inputs)
    assert torch.equal(run(alone, inputs), scores)


@pytest.mark.parametrize(("toy", "count"), [(Attends, 1), (Fused, 1), (Keys, 0), (OneLinear, 0)])
def test_finds_what_is_added_up_to_values(toy: type[nn.Module], count: int) -> None:
    """Through moves and sums, and not past anything else."""
    before = probed(toy)
    assert len(values_of(before.graph)) == 2 * count  # of the first probe, of the others
    after, remarks = apply("quantize-activations", before)
    left = after.graph.find_nodes(op="call_function", target=zofx_ops.left_over.default)
    assert len(left) == count
    assert ("in two terms" in str(remarks[-1])) is bool(count)


def test_its_text_reads_back() -> None:
    """Two terms unless it says one; there is no third."""
    for text, terms in (("quantize-activations", 2), ("quantize-activations{values=1}", 1)):
        (made,) = Pipeline.parse(text, PASSES).passes
        assert made == QuantizeActivations(terms)
        assert str(made) == text
    with pytest.raises(UsageError, match="values of an attention has 1 or 2 terms"):
        Pipeline.parse("quantize-activations{values=3}", PASSES)
    with pytest.raises(PipelineError, match="quantize-activations has no option 'bits'"):
        Pipeline.parse("quantize-activations{bits=4}", PASSES)

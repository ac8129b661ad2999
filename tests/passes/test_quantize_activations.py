# ruff: noqa: E501  (lines of printed programs)
"""quantize-activations: products of integers within the bounds of their steps, slopes among them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.golden import (
    UNIT,
    apply,
    assert_golden,
    assert_same_meaning,
    batch,
    captured,
    logits,
    run,
    selected,
    summation_bound,
    values,
)
from tests.passes.probing import IN_ROWS, dense, frozen_rows, never
from tests.passes.toys import VOCABULARY, OneLinear, Toy, TwoLinears
from zofx.errors import PipelineError, UsageError
from zofx.ir.ops import zofx_ops
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.passes import PASSES

EPS = 1e-3


class Gated(Toy):
    """A layer with a bias, then two that read it, one with a bias, then a head of their product."""

    def __init__(self) -> None:
        super().__init__(6)
        self.fc = nn.Linear(6, 6)
        self.gate = nn.Linear(6, 6, bias=False)
        self.up = nn.Linear(6, 6)
        self.head = nn.Linear(6, VOCABULARY, bias=False)

    def logits(self, x: Tensor) -> Any:
        y = self.fc(x).relu()
        return self.head(self.gate(y) * self.up(y))


class Turned(TwoLinears):
    """A head that reads [T, N, D]."""

    def logits(self, x: Tensor) -> Any:
        return self.head(self.fc(x).transpose(0, 1)).transpose(0, 1)


@pytest.fixture(scope="module")
def embedded() -> Program:
    """x = θ + ε·z, then a linear [7, 4] with a bias, so that x is the same with and without."""
    before, _ = apply(IN_ROWS, dense(OneLinear, "embed", integers=False))
    return before


def probed(toy: Toy, **places: list[int]) -> Program:
    """Matrices in int8-row, and P probes of trainables chosen by hand."""
    chosen = selected(captured(toy, integers=False), **places)
    before, _ = apply(f"split-sparse, {IN_ROWS}", chosen)
    return before


def half_steps(values: Tensor) -> Tensor:
    """The docstring's bound on |Q(v) − v|: [..., k] → f64[..., 1]."""
    return values.abs().amax(-1, keepdim=True).double() / 254


def read(program: Program, inputs: dict[str, Tensor]) -> Tensor:
    """What the embedded program multiplies, at the scored positions: f32[P, N, S, D]."""
    tables = program.graph.find_nodes(op="call_function", target=zofx_ops.probe_embedding.default)
    values_of = values(program, inputs)
    x = torch.cat([values_of[table] for table in tables])
    places = inputs["positions"].repeat(len(inputs["coefficients"]), 1)
    picked: Tensor = zofx_ops.select_positions(x, places)
    return picked.view(-1, *inputs["positions"].shape, x.shape[-1])


def by_probe(program: Program, inputs: dict[str, Tensor]) -> Tensor:
    """The logits with probes as an axis: f64[P, N, S, V]."""
    scores = logits(program, inputs).double()
    return scores.view(-1, 3, *scores.shape[1:])


def test_products_above_and_below_a_slice() -> None:
    """One activation has no probes, one is read by two products, one by the head; biases stay."""
    before = probed(Gated(), fc_weight=[1, 6, 27], head_weight=[0, 9])
    after, remarks = apply("quantize-activations", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, parted, perturbed, quantized, rounded, row-scaled, sliced, stacked
  input      input_ids           i64[N, T]
  input      attention_mask      i64[N, T]
  input      positions           i64[N, S]
  input      targets             i64[N, S, C]
  input      keys                i64[Q, 2]
  input      coefficients        f32[P, Q]
  frozen     embed.weight        f32[7, 6]
  frozen     fc.bias             f32[6]
  frozen     up.bias             f32[6]
  index      fc.weight.index     i32[3]        index of fc.weight
  trainable  fc.weight.slice     f32[3]        slice of fc.weight
  index      head.weight.index   i32[2]        index of head.weight
  trainable  head.weight.slice   f32[2]        slice of head.weight
  frozen     fc.weight.codes     i8[6, 6]      int8-row of fc.weight
  frozen     fc.weight.scales    f32[6]        int8-row of fc.weight
  frozen     gate.weight.codes   i8[6, 6]      int8-row of gate.weight
  frozen     gate.weight.scales  f32[6]        int8-row of gate.weight
  frozen     up.weight.codes     i8[6, 6]      int8-row of up.weight
  frozen     up.weight.scales    f32[6]        int8-row of up.weight
  frozen     head.weight.codes   i8[6, 7]      int8-row of head.weight
  frozen     head.weight.scales  f32[7]        int8-row of head.weight
body
  %0 = aten.slice.Tensor(coefficients, 0, 0, 1)   : f32[1, Q]
  %1 = aten.slice.Tensor(coefficients, 0, 1, 9223372036854775807)   : f32[P - 1, Q]
  %2 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 6]
  %3 = zofx.row_scales(%2)   : f32[N, T, 1]
  %4 = zofx.round_rows(%2, %3)   : u8[N, T, 6]
  %5 = zofx.linear_rounded(%4, %3, fc.weight.codes, fc.weight.scales)   : f32[N, T, 6]
  %6 = aten.add.Tensor(%5, fc.bias)   : f32[N, T, 6]
  %7 = zofx.direction(keys, None, fc.weight.slice, [3], rademacher)   : f32[Q, 3]
  %8 = zofx.perturb(fc.weight.slice, %7, %0)   : f32[1, 3]
  %9 = zofx.perturb(fc.weight.slice, %7, %1)   : f32[P - 1, 3]
  %10 = zofx.replicate(%2, %1)   : f32[N*(P - 1), T, 6]
  %11 = zofx.sparse_linear(%2, %8, fc.weight.index, 6, 3, 1)   : f32[N, T, 6]
  %12 = zofx.sparse_linear(%10, %9, fc.weight.index, 6, 3, 1)   : f32[N*(P - 1), T, 6]
  %13 = zofx.replicate(%6, %1)   : f32[N*(P - 1), T, 6]
  %14 = aten.add.Tensor(%6, %11)   : f32[N, T, 6]
  %15 = aten.add.Tensor(%13, %12)   : f32[N*(P - 1), T, 6]
  %16 = aten.relu(%14)   : f32[N, T, 6]
  %17 = aten.relu(%15)   : f32[N*(P - 1), T, 6]
  %18 = zofx.row_scales(%16)   : f32[N, T, 1]
  %19 = zofx.round_rows(%16, %18)   : u8[N, T, 6]
  %20 = zofx.linear_rounded(%19, %18, gate.weight.codes, gate.weight.scales)   : f32[N, T, 6]
  %21 = zofx.minus_base(%17, %16)   : f32[N*(P - 1), T, 6]
  %22 = zofx.row_scales(%21)   : f32[N*(P - 1), T, 1]
  %23 = zofx.round_rows(%21, %22)   : u8[N*(P - 1), T, 6]
  %24 = zofx.linear_rounded(%23, %22, gate.weight.codes, gate.weight.scales)   : f32[N*(P - 1), T, 6]
  %25 = zofx.plus_base(%24, %20)   : f32[N*(P - 1), T, 6]
  %26 = zofx.linear_rounded(%19, %18, up.weight.codes, up.weight.scales)   : f32[N, T, 6]
  %27 = aten.add.Tensor(%26, up.bias)   : f32[N, T, 6]
  %28 = zofx.linear_rounded(%23, %22, up.weight.codes, up.weight.scales)   : f32[N*(P - 1), T, 6]
  %29 = zofx.plus_base(%28, %27)   : f32[N*(P - 1), T, 6]
  %30 = aten.mul.Tensor(%20, %27)   : f32[N, T, 6]
  %31 = aten.mul.Tensor(%25, %29)   : f32[N*(P - 1), T, 6]
  %32 = zofx.row_scales(%30)   : f32[N, T, 1]
  %33 = zofx.round_rows(%30, %32)   : u8[N, T, 6]
  %34 = zofx.linear_rounded(%33, %32, head.weight.codes, head.weight.scales)   : f32[N, T, 7]
  %35 = zofx.minus_base(%31, %30)   : f32[N*(P - 1), T, 6]
  %36 = zofx.row_scales(%35)   : f32[N*(P - 1), T, 1]
  %37 = zofx.round_rows(%35, %36)   : u8[N*(P - 1), T, 6]
  %38 = zofx.linear_rounded(%37, %36, head.weight.codes, head.weight.scales)   : f32[N*(P - 1), T, 7]
  %39 = zofx.plus_base(%38, %34)   : f32[N*(P - 1), T, 7]
  %40 = zofx.direction(keys, None, head.weight.slice, [2], rademacher)   : f32[Q, 2]
  %41 = zofx.perturb(head.weight.slice, %40, %0)   : f32[1, 2]
  %42 = zofx.perturb(head.weight.slice, %40, %1)   : f32[P - 1, 2]
  %43 = zofx.sparse_linear(%30, %41, head.weight.index, 7, 2, 1)   : f32[N, T, 7]
  %44 = zofx.sparse_linear(%31, %42, head.weight.index, 7, 2, 1)   : f32[N*(P - 1), T, 7]
  %45 = aten.add.Tensor(%34, %43)   : f32[N, T, 7]
  %46 = aten.add.Tensor(%39, %44)   : f32[N*(P - 1), T, 7]
  %47 = zofx.replicate(positions, %1)   : i64[N*(P - 1), S]
  %48 = zofx.select_positions(%45, positions)   : f32[N, S, 7]
  %49 = zofx.select_positions(%46, %47)   : f32[N*(P - 1), S, 7]
  %50 = zofx.replicate(targets, %1)   : i64[N*(P - 1), S, C]
  %51 = zofx.score_targets(%48, targets)   : f32[N, C]
  %52 = zofx.score_targets(%49, %50)   : f32[N*(P - 1), C]
  %53 = aten.cat([%51, %52])   : f32[N*(P - 1) + N, C]
  %54 = zofx.split_probes(%53, coefficients)   : f32[P, ((N*(P - 1) + N)//P), C]
  return %54
remarks
  applied  linears   4 products of 3 rounded activations
""",
    )
    inputs = batch(coefficients=[[0.5], [-0.5]])
    assert run(after, inputs).shape == run(before, inputs).shape == (2, 3, 4)
    assert not torch.equal(run(after, inputs), run(before, inputs))


def test_an_activation_above_the_slices_is_off_by_half_a_step() -> None:
    """Σ |Ŵ| times the half step of its row; one probe is enough, and the trainable adds what it did."""
    before = probed(OneLinear(16), fc_weight=[1, 6, 27])
    after, _ = apply("quantize-activations", before)
    inputs = batch()
    inputs["coefficients"] = torch.tensor([[0.25]])
    x = before.load("embed.weight")[inputs["input_ids"].gather(1, inputs["positions"])]
    weight, bias = frozen_rows(before), before.load("fc.bias")
    stated = half_steps(x) * weight.abs().double().sum(1)
    whole = weight.abs() + 1  # the trainable is beside it
    assert_same_meaning(before, after, inputs, stated + 2 * summation_bound(x, whole, bias))
    error = (logits(after, inputs) - logits(before, inputs)).abs()
    assert error.max() > 0.1 * stated.max()


@pytest.mark.parametrize("probes", [1, 2, 3])
def test_probes_are_off_by_the_steps_of_base_and_difference(embedded: Program, probes: int) -> None:
    """ŷ_0 by that of x_0, ŷ_p − ŷ_0 by that of x_p − x_0 alone."""
    after, _ = apply("quantize-activations", embedded)
    table = [[EPS], [-EPS], [2 * EPS]][:probes]
    inputs = batch(coefficients=table)
    x = read(embedded, inputs)
    weight, bias = frozen_rows(embedded), embedded.load("fc.bias")
    rounding = 2 * summation_bound(x, weight, bias)
    sums = weight.abs().double().sum(1)
    error = by_probe(after, inputs) - by_probe(embedded, inputs)
    assert (error[0].abs() <= half_steps(x[0]) * sums + rounding[0]).all()
    assert error[0].abs().max() > 0.1 * (half_steps(x[0]) * sums).max()
    stated = half_steps(x[1:] - x[:1]) * sums
    assert ((error[1:] - error[0]).abs() <= stated + rounding[1:] + rounding[0]).all()


@pytest.mark.parametrize("eps", [1e-1, 1e-2, 1e-3])
def test_differences_survive_where_rounding_each_probe_loses_them(
    embedded: Program, eps: float
) -> None:
    """Off by 1/254 of what the largest entry of x₊ − x₋ could make, whatever ε; the other is not."""
    after, _ = apply("quantize-activations", embedded)
    inputs = batch(coefficients=[[eps], [-eps]])
    x = read(embedded, inputs)
    weight, bias = frozen_rows(embedded), embedded.load("fc.bias")
    reach = (x[1] - x[0]).abs().amax(-1, keepdim=True).double() * weight.abs().double().sum(1)
    rounding = 4 * summation_bound(x, weight, bias).amax(0)
    (one, two), (plus, minus) = by_probe(embedded, inputs), by_probe(after, inputs)
    error = (minus - plus) - (two - one)
    assert (error.abs() <= reach / 254 + rounding).all()

    steps = zofx_ops.row_scales(x)
    alone = (zofx_ops.round_rows(x, steps).double() - 128) * steps
    naive = (alone[1] - alone[0]) @ weight.double().t() - (two - one)
    assert (naive.abs() > reach / 254 + rounding).any()
    if eps == EPS:  # the difference is far below a step of x: nothing of it is left
        assert naive.norm() > 0.5 * (two - one).norm()
        assert error.norm() < 0.02 * (two - one).norm()


def test_equal_probes_are_equal_in_every_bit(embedded: Program) -> None:
    """A difference of zeros is rounded to zeros, and adds nothing."""
    after, _ = apply("quantize-activations", embedded)
    first, *others = run(after, batch(coefficients=[[0.5], [0.5], [0.5]]))
    assert all(torch.equal(other, first) for other in others)


def test_a_row_of_zeros_is_one(embedded: Program) -> None:
    """Its product is zero, and the logits are the bias."""
    zeros = torch.zeros_like(embedded.load("embed.weight")).clone
    before = embedded.with_(data={**embedded.data, "embed.weight": zeros})
    after, _ = apply("quantize-activations", before)
    actual = logits(after, batch(coefficients=[[0.0], [0.0]]))
    assert torch.equal(actual, before.load("fc.bias").expand_as(actual))


def test_integers_up_to_127_are_exact() -> None:
    """Rows whose largest entry is 127 have steps of one: every bit of the result is kept."""
    before, _ = apply(IN_ROWS, dense(OneLinear, "embed"))
    table = before.load("embed.weight").clone()
    table[:, 0] = 127
    before = before.with_(data={**before.data, "embed.weight": table.clone})
    after, _ = apply("quantize-activations", before)
    inputs = batch(coefficients=[[0.0], [0.0]])
    x, weight = table[inputs["input_ids"]], frozen_rows(before)
    bound = 2 * UNIT * (x.abs() @ weight.abs().t()).max() * weight.shape[1]
    assert (logits(after, inputs) - logits(before, inputs)).abs().max() <= bound


def test_skips_an_input_whose_rows_are_not_first() -> None:
    """Probes in the second axis of [T, P·N, D]: that product stays as it is, with a remark."""
    before = probed(Turned(), fc_weight=[1, 6, 12])
    after, remarks = apply("quantize-activations", before)
    assert list(map(str, remarks)) == [
        "skipped  head.weight   its input has probes in another axis than its first: it stays in f32",
        "applied  linears   1 products of 1 rounded activations",
    ]
    inputs = batch(coefficients=[[EPS], [-EPS]])
    (plus, minus), (one, two) = run(after, inputs), run(before, inputs)
    assert ((plus - minus) - (one - two)).norm() < 0.05 * (one - two).norm()


def test_leaves_the_program_it_started_from_alone(embedded: Program) -> None:
    """It prints as before, and no tensor is read or made."""
    text = show(embedded)
    unread = embedded.with_(data=dict.fromkeys(embedded.data, never))
    after, _ = apply("quantize-activations", unread)
    assert show(embedded) == text
    assert after.tensors == embedded.tensors


@pytest.mark.parametrize("form", ["int4", "int8", "nf4", "codebook"])
def test_needs_a_format_with_a_scale_per_row(form: str) -> None:
    """Anything else has no product of integers; the error says what to set."""
    text = f"canonicalize, select-sensitive, split-sparse, {IN_ROWS}".replace("int8-row", form)
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(f"{text}, quantize-activations", PASSES).check_order()
    assert str(caught.value) == (
        "pass 7 (quantize-activations) needs a program that is 'row-scaled', and nothing before it "
        "makes it so; products are of integers where a matrix has one scale per row: "
        "--set quantize-frozen.format=int8-row, or --activations none"
    )


def test_matrices_that_were_all_skipped_are_an_error() -> None:
    """In no format there is no product of integers either; the error says where to look."""
    chosen = selected(captured(OneLinear(64), integers=False), fc_weight=[1])
    text = "split-sparse, insert-perturbation, stack-probes, split-base-probe"
    before, _ = apply(text, chosen)
    stored = before.with_(facts=before.facts | {"quantized", "row-scaled"})
    with pytest.raises(UsageError) as caught:
        apply("quantize-activations", stored)
    assert str(caught.value) == (
        "quantize-activations finds no matrix in int8-row; quantize-frozen skipped them all "
        "(`zofx compile --verbose` says why): --activations none"
    )


def test_comes_after_the_matrices() -> None:
    """A pipeline in another order is refused before anything runs."""
    message = r"\(quantize-activations\) needs a program that is 'quantized'"
    with pytest.raises(PipelineError, match=message):
        Pipeline.parse("canonicalize, quantize-activations", PASSES).check_order()


def test_comes_after_the_base_probe() -> None:
    """Stacked probes have to be apart; a program without probes has nothing to take apart."""
    chosen = selected(captured(OneLinear(64), integers=False), fc_weight=[1])
    plain, _ = apply("split-sparse, quantize-frozen{format=int8-row}", chosen)
    rounded, _ = apply("quantize-activations", plain)
    assert rounded.graph.find_nodes(
        op="call_function", target=torch.ops.zofx.linear_rounded.default
    )
    stacked, _ = apply("insert-perturbation, stack-probes", plain)
    with pytest.raises(PipelineError, match="put split-base-probe before it"):
        apply("quantize-activations", stacked)

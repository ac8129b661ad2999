# ruff: noqa: E501  (lines of printed programs)
"""stack-probes: P probes in one forward are P forwards."""

from dataclasses import replace

import pytest
import torch

from tests.golden import apply, assert_golden, batch, captured, run, selected
from tests.passes.probing import PERTURB, dense
from tests.passes.test_insert_low_rank import whole_numbers
from tests.passes.toys import (
    Affine,
    Blocks,
    Broadcasts,
    Doubled,
    OneLinear,
    Prompted,
    Rescaled,
    ReversedRows,
    Shared,
    SharedByRows,
    Tied,
    TokensFirst,
    Toy,
    TwoLinears,
    WithSizes,
    canonical,
)
from zofx.errors import PipelineError, UnsupportedError
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.schema import Role

# Powers of two on integers: every sum is exact, so one row at a time has to give the same bits.
PROBES = [[0.5, 0.0], [-0.5, 0.0], [0.25, 2.0], [0.0, 0.0]]


def perturbed(toy: Toy, **places: list[int]) -> Program:
    text = "split-sparse, insert-perturbation{noise=rademacher}"
    after, _ = apply(text, selected(captured(toy), **places))
    return after


def assert_equals_single_probes(single: Program, stacked: Program, rows: int = 3) -> None:
    """Row p of the stacked result is the program before, evaluated with row p of the matrix."""
    together = run(stacked, batch(rows=rows, coefficients=PROBES))
    assert together.shape == (len(PROBES), rows, 4)
    alone = [run(single, batch(rows=rows, coefficients=probe)) for probe in PROBES]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=0)
    assert not torch.equal(alone[0], alone[1])


def test_replicates_where_the_first_slice_is_read() -> None:
    """The embedding runs once; from the sparse product on there are P·N rows."""
    before = perturbed(OneLinear(), fc_weight=[1, 6, 27])
    after, remarks = apply("stack-probes", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, perturbed, sliced, stacked
  input      input_ids        i64[N, T]
  input      attention_mask   i64[N, T]
  input      positions        i64[N, S]
  input      targets          i64[N, S, C]
  input      keys             i64[Q, 2]
  input      coefficients     f32[P, Q]
  frozen     embed.weight     f32[7, 4]
  frozen     fc.weight        f32[7, 4]
  frozen     fc.bias          f32[7]
  index      fc.weight.index  i32[3]        index of fc.weight
  trainable  fc.weight.slice  f32[3]        slice of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.linear(%0, fc.weight, fc.bias)   : f32[N, T, 7]
  %2 = zofx.direction(keys, None, fc.weight.slice, [3], rademacher)   : f32[Q, 3]
  %3 = zofx.perturb(fc.weight.slice, %2, coefficients)   : f32[P, 3]
  %4 = zofx.replicate(%0, coefficients)   : f32[P*N, T, 4]
  %5 = zofx.sparse_linear(%4, %3, fc.weight.index, 7, 3, 1)   : f32[P*N, T, 7]
  %6 = zofx.replicate(%1, coefficients)   : f32[P*N, T, 7]
  %7 = aten.add.Tensor(%6, %5)   : f32[P*N, T, 7]
  %8 = zofx.replicate(positions, coefficients)   : i64[P*N, S]
  %9 = zofx.select_positions(%7, %8)   : f32[P*N, S, 7]
  %10 = zofx.replicate(targets, coefficients)   : i64[P*N, S, C]
  %11 = zofx.score_targets(%9, %10)   : f32[P*N, C]
  %12 = zofx.split_probes(%11, coefficients)   : f32[P, N, C]
  return %12
remarks
  applied  trainables   4 values replicated on the way
""",
    )
    assert_equals_single_probes(before, after)


def test_a_later_slice_leaves_earlier_layers_alone() -> None:
    """Only the head trains: the layer before it runs on N rows."""
    before = perturbed(TwoLinears(), head_weight=[0, 9, 13])
    after, remarks = apply("stack-probes", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, perturbed, sliced, stacked
  input      input_ids          i64[N, T]
  input      attention_mask     i64[N, T]
  input      positions          i64[N, S]
  input      targets            i64[N, S, C]
  input      keys               i64[Q, 2]
  input      coefficients       f32[P, Q]
  frozen     embed.weight       f32[7, 4]
  frozen     fc.weight          f32[4, 4]
  frozen     head.weight        f32[7, 4]
  index      head.weight.index  i32[3]        index of head.weight
  trainable  head.weight.slice  f32[3]        slice of head.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.linear(%0, fc.weight)   : f32[N, T, 4]
  %2 = aten.relu(%1)   : f32[N, T, 4]
  %3 = aten.linear(%2, head.weight)   : f32[N, T, 7]
  %4 = zofx.direction(keys, None, head.weight.slice, [3], rademacher)   : f32[Q, 3]
  %5 = zofx.perturb(head.weight.slice, %4, coefficients)   : f32[P, 3]
  %6 = zofx.replicate(%2, coefficients)   : f32[P*N, T, 4]
  %7 = zofx.sparse_linear(%6, %5, head.weight.index, 7, 2, 1)   : f32[P*N, T, 7]
  %8 = zofx.replicate(%3, coefficients)   : f32[P*N, T, 7]
  %9 = aten.add.Tensor(%8, %7)   : f32[P*N, T, 7]
  %10 = zofx.replicate(positions, coefficients)   : i64[P*N, S]
  %11 = zofx.select_positions(%9, %10)   : f32[P*N, S, 7]
  %12 = zofx.replicate(targets, coefficients)   : i64[P*N, S, C]
  %13 = zofx.score_targets(%11, %12)   : f32[P*N, C]
  %14 = zofx.split_probes(%13, coefficients)   : f32[P, N, C]
  return %14
remarks
  applied  trainables   4 values replicated on the way
""",
    )
    assert_equals_single_probes(before, after)


def test_replicates_the_input_when_asked() -> None:
    """at=input: the same numbers, everything on P·N rows."""
    before = perturbed(OneLinear(), fc_weight=[1, 6, 27])
    after, remarks = apply("stack-probes{at=input}", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, perturbed, sliced, stacked
  input      input_ids        i64[N, T]
  input      attention_mask   i64[N, T]
  input      positions        i64[N, S]
  input      targets          i64[N, S, C]
  input      keys             i64[Q, 2]
  input      coefficients     f32[P, Q]
  frozen     embed.weight     f32[7, 4]
  frozen     fc.weight        f32[7, 4]
  frozen     fc.bias          f32[7]
  index      fc.weight.index  i32[3]        index of fc.weight
  trainable  fc.weight.slice  f32[3]        slice of fc.weight
body
  %0 = zofx.replicate(input_ids, coefficients)   : i64[P*N, T]
  %1 = zofx.replicate(positions, coefficients)   : i64[P*N, S]
  %2 = zofx.replicate(targets, coefficients)   : i64[P*N, S, C]
  %3 = aten.embedding(embed.weight, %0)   : f32[P*N, T, 4]
  %4 = aten.linear(%3, fc.weight, fc.bias)   : f32[P*N, T, 7]
  %5 = zofx.direction(keys, None, fc.weight.slice, [3], rademacher)   : f32[Q, 3]
  %6 = zofx.perturb(fc.weight.slice, %5, coefficients)   : f32[P, 3]
  %7 = zofx.sparse_linear(%3, %6, fc.weight.index, 7, 3, 1)   : f32[P*N, T, 7]
  %8 = aten.add.Tensor(%4, %7)   : f32[P*N, T, 7]
  %9 = zofx.select_positions(%8, %1)   : f32[P*N, S, 7]
  %10 = zofx.score_targets(%9, %2)   : f32[P*N, C]
  %11 = zofx.split_probes(%10, coefficients)   : f32[P, N, C]
  return %11
remarks
  applied  input   replicated at the input
""",
    )
    assert_equals_single_probes(before, after)


def test_sizes_that_count_rows_grow_with_them() -> None:
    """Views by N and N·T below a trainable, and a mask with rows of its own."""
    before = perturbed(WithSizes(), fc_weight=[1, 6, 12], head_weight=[0, 9])
    after, _ = apply("stack-probes", before)
    assert_equals_single_probes(before, after)
    assert_equals_single_probes(before, after, rows=1)


@pytest.mark.parametrize(("toy", "op"), [(ReversedRows, "index"), (TokensFirst, "transpose")])
def test_falls_back_to_the_input(toy: type[Toy], op: str) -> None:
    """Rows addressed by number, or not on the first axis, below a trainable: copies at the input."""
    before = perturbed(toy(), fc_weight=[1, 6, 12])
    after, (remark,) = apply("stack-probes", before)
    assert remark.subject == "input"
    assert op in remark.why
    assert_equals_single_probes(before, after)


def test_weights_that_train_whole() -> None:
    """A table, a matrix and a bias have one copy per probe; each row meets its probe's."""
    before, _ = apply(PERTURB, dense(OneLinear))
    after, remarks = apply("stack-probes", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: all-train, canonical, perturbed, sliced, stacked
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  input      keys            i64[Q, 2]
  input      coefficients    f32[P, Q]
  trainable  embed.weight    f32[7, 4]
  trainable  fc.weight       f32[7, 4]
  trainable  fc.bias         f32[7]
body
  %0 = zofx.direction(keys, None, embed.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %1 = zofx.perturb(embed.weight, %0, coefficients)   : f32[P, 7, 4]
  %2 = zofx.replicate(input_ids, coefficients)   : i64[P*N, T]
  %3 = zofx.probe_embedding(%1, %2)   : f32[P*N, T, 4]
  %4 = zofx.direction(keys, None, fc.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %5 = zofx.perturb(fc.weight, %4, coefficients)   : f32[P, 7, 4]
  %6 = zofx.probe_linear(%3, %5)   : f32[P*N, T, 7]
  %7 = zofx.direction(keys, None, fc.bias, [7], rademacher)   : f32[Q, 7]
  %8 = zofx.perturb(fc.bias, %7, coefficients)   : f32[P, 7]
  %9 = aten.sym_size.int(input_ids, 0)   : N
  %10 = zofx.probe_rows(%8, %9, 3)   : f32[P*N, 1, 7]
  %11 = aten.add.Tensor(%6, %10)   : f32[P*N, T, 7]
  %12 = zofx.replicate(positions, coefficients)   : i64[P*N, S]
  %13 = zofx.select_positions(%11, %12)   : f32[P*N, S, 7]
  %14 = zofx.replicate(targets, coefficients)   : i64[P*N, S, C]
  %15 = zofx.score_targets(%13, %14)   : f32[P*N, C]
  %16 = zofx.split_probes(%15, coefficients)   : f32[P, N, C]
  return %16
remarks
  applied  trainables   3 values replicated on the way
""",
    )
    assert_equals_single_probes(before, after)


def test_weights_made_of_weights() -> None:
    """The product of two trainables is made once per probe, on axes that meet; its reader has rows."""
    before, _ = apply(PERTURB, dense(Rescaled, "fc.w|scale"))
    after, remarks = apply("stack-probes", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, perturbed, sliced, stacked
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  input      keys            i64[Q, 2]
  input      coefficients    f32[P, Q]
  trainable  scale           f32[4]
  frozen     embed.weight    f32[7, 4]
  trainable  fc.weight       f32[7, 4]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = zofx.direction(keys, None, scale, [4], rademacher)   : f32[Q, 4]
  %2 = zofx.perturb(scale, %1, coefficients)   : f32[P, 4]
  %3 = zofx.direction(keys, None, fc.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %4 = zofx.perturb(fc.weight, %3, coefficients)   : f32[P, 7, 4]
  %5 = aten.unsqueeze(%2, 1)   : f32[P, 1, 4]
  %6 = aten.mul.Tensor(%4, %5)   : f32[P, 7, 4]
  %7 = zofx.replicate(%0, coefficients)   : f32[P*N, T, 4]
  %8 = zofx.probe_linear(%7, %6)   : f32[P*N, T, 7]
  %9 = zofx.replicate(positions, coefficients)   : i64[P*N, S]
  %10 = zofx.select_positions(%8, %9)   : f32[P*N, S, 7]
  %11 = zofx.replicate(targets, coefficients)   : i64[P*N, S, C]
  %12 = zofx.score_targets(%10, %11)   : f32[P*N, C]
  %13 = zofx.split_probes(%12, coefficients)   : f32[P, N, C]
  return %13
remarks
  applied  trainables   3 values replicated on the way
""",
    )
    assert_equals_single_probes(before, after)


def test_values_that_are_expanded_over_the_rows() -> None:
    """What stands before the text: each row gets its probe's."""
    before, _ = apply(PERTURB, dense(Prompted, "prompt"))
    after, remarks = apply("stack-probes", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, perturbed, sliced, stacked
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  input      keys            i64[Q, 2]
  input      coefficients    f32[P, Q]
  trainable  prompt          f32[2, 4]
  frozen     embed.weight    f32[7, 4]
  frozen     fc.weight       f32[7, 4]
  frozen     fc.bias         f32[7]
body
  %0 = aten.sym_size.int(targets, 0)   : N
  %1 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %2 = zofx.direction(keys, None, prompt, [2, 4], rademacher)   : f32[Q, 2, 4]
  %3 = zofx.perturb(prompt, %2, coefficients)   : f32[P, 2, 4]
  %4 = aten.sym_size.int(input_ids, 0)   : N
  %5 = zofx.probe_rows(%3, %4, 3)   : f32[P*N, 2, 4]
  %6 = aten.sym_size.int(coefficients, 0)   : P
  %7 = _operator.mul(%6, %0)   : P*N
  %8 = aten.expand(%5, [%7, -1, -1])   : f32[P*N, 2, 4]
  %9 = zofx.replicate(%1, coefficients)   : f32[P*N, T, 4]
  %10 = aten.cat([%8, %9], 1)   : f32[P*N, T + 2, 4]
  %11 = aten.cumsum(%10, 1)   : f32[P*N, T + 2, 4]
  %12 = aten.linear(%11, fc.weight, fc.bias)   : f32[P*N, T + 2, 7]
  %13 = aten.slice.Tensor(%12, 1, 2, 9223372036854775807)   : f32[P*N, T, 7]
  %14 = zofx.replicate(positions, coefficients)   : i64[P*N, S]
  %15 = zofx.select_positions(%13, %14)   : f32[P*N, S, 7]
  %16 = zofx.replicate(targets, coefficients)   : i64[P*N, S, C]
  %17 = zofx.score_targets(%15, %16)   : f32[P*N, C]
  %18 = zofx.split_probes(%17, coefficients)   : f32[P, N, C]
  return %18
remarks
  applied  trainables   3 values replicated on the way
""",
    )
    assert_equals_single_probes(before, after)


@pytest.mark.parametrize("at", ["trainable", "input"])
@pytest.mark.parametrize(
    ("toy", "match"),
    [
        (OneLinear, "."), (Tied, "."), (TwoLinears, "."), (Shared, "."), (Blocks, "."),
        (Affine, "."), (Affine, "gain|shift"), (Affine, "bias"), (Broadcasts, "shift|fc|head"),
        (Prompted, "prompt"), (Prompted, "."), (Doubled, "."), (Rescaled, "."), (Rescaled, "scale"),
    ],
)  # fmt: skip
def test_dense_slices_at_either_place(toy: type[Toy], match: str, at: str) -> None:
    """Linears, lookups, gains, shifts, biases, adapters: P probes at once are P programs."""
    before, _ = apply(PERTURB, dense(toy, match))
    after, _ = apply(f"stack-probes{{at={at}}}", before)
    assert_equals_single_probes(before, after)
    assert_equals_single_probes(before, after, rows=1)


@pytest.mark.parametrize("at", ["trainable", "input"])
@pytest.mark.parametrize("options", ["sides=one", "sides=two", "sides=two basis=fixed gain=1/r"])
def test_low_rank_slices_at_either_place(options: str, at: str) -> None:
    """Between and beside factors, in linears and in lookups; W's own product runs on what it had."""
    text = f"select-parameters, insert-low-rank{{{options}}}, {PERTURB}"
    inserted, _ = apply(text, canonical(Tied))
    before = whole_numbers(inserted)
    after, _ = apply(f"stack-probes{{at={at}}}", before)
    assert_equals_single_probes(before, after)


@pytest.mark.parametrize("at", ["trainable", "input"])
@pytest.mark.parametrize(
    ("toy", "weight"), [(SharedByRows, "fc_weight"), (TokensFirst, "head_weight")]
)
def test_refuses_a_product_that_rows_do_not_lead(toy: type[Toy], weight: str, at: str) -> None:
    """Position embeddings [T, D], or [T, N, D]: P trainables times these are no P·N rows."""
    before = perturbed(toy(), **{weight: [1, 6, 12]})
    with pytest.raises(UnsupportedError) as caught:
        apply(f"stack-probes{{at={at}}}", before)
    assert str(caught.value) == (
        "these trainables cannot be evaluated under several probes at once\n"
        "  - zofx.sparse_linear.default reads a value whose first axis is not its rows"
    )


@pytest.mark.parametrize("at", ["trainable", "input"])
def test_refuses_a_lookup_that_rows_do_not_lead(at: str) -> None:
    """Positions 0 … T−1 are the same for every row: P tables of them are no P·N rows."""
    before, _ = apply(PERTURB, dense(Broadcasts, "place"))
    with pytest.raises(UnsupportedError) as caught:
        apply(f"stack-probes{{at={at}}}", before)
    assert str(caught.value) == (
        "these trainables cannot be evaluated under several probes at once\n"
        "  - aten.embedding.default reads a value whose first axis is not its rows"
    )


def test_refuses_a_bias_in_the_product() -> None:
    """A program that skipped split-dense: the op for probes has no place for a bias."""
    sliced = canonical(OneLinear)
    rows = {
        **sliced.tensors,
        "fc.weight": replace(sliced.tensors["fc.weight"], role=Role.TRAINABLE),
    }
    facts = sliced.facts | {"sliced"}
    before, _ = apply(PERTURB, sliced.with_(tensors=rows, facts=facts))
    with pytest.raises(UnsupportedError, match="has a bias; split-dense adds it apart"):
        apply("stack-probes", before)


def test_refuses_an_op_that_knows_no_probes() -> None:
    """The reason names the op; nothing is computed from half-stacked values."""
    before = perturbed(OneLinear(), fc_weight=[1, 6, 27])
    from zofx.ir.rewrite import Editor

    edit = Editor(before)
    (read,) = edit.graph.find_nodes(op="call_function", target=torch.ops.zofx.sparse_linear.default)
    edit.set_args(read, read.args[0], edit.call(read, torch.neg, read.args[1]), *read.args[2:])
    with pytest.raises(UnsupportedError, match="stack-probes knows no form of it with probes"):
        apply("stack-probes", edit.done())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stack-probes{at=head}", "stack-probes{at=head}: must be one of trainable, input"),
        (
            "stack-probes, insert-perturbation",
            "pass 0 (stack-probes) needs a program that is 'perturbed', and nothing before it makes "
            "it so; move insert-perturbation before it",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    """Options and order, before anything runs."""
    with pytest.raises(PipelineError) as caught:
        apply(text, captured(OneLinear()))
    assert str(caught.value) == message

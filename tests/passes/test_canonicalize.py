# ruff: noqa: E501  (lines of printed programs)
"""canonicalize: one spelling for products with a weight, nothing that does nothing."""

import torch

from tests.golden import (
    UNIT,
    apply,
    assert_golden,
    assert_same_meaning,
    batch,
    captured,
    logits,
    run,
    summation_bound,
)
from tests.passes.toys import (
    Block,
    Cluttered,
    FlatBlock,
    Gpt2Linear,
    Masked,
    MatrixBias,
    MixedRows,
    MultiQuery,
    OneLinear,
    Products,
    Tied,
)
from zofx.ir.printer import show

WIDTH = 2
"""Of a head of `MultiQuery`."""


def test_drops_what_does_nothing() -> None:
    """Dropout, contiguous, a cast to the own type, + 0, detach and a view of the own shape go."""
    before = captured(Cluttered())
    after, remarks = apply("canonicalize", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  embed.weight    f32[7, 4]
  frozen  fc.weight       f32[7, 4]
  frozen  fc.bias         f32[7]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.linear(%0, fc.weight, fc.bias)   : f32[N, T, 7]
  %2 = zofx.select_positions(%1, positions)   : f32[N, S, 7]
  %3 = zofx.score_targets(%2, targets)   : f32[N, C]
  return %3
""",
    )
    assert_same_meaning(before, after, batch())


def test_turns_a_transposed_weight_over() -> None:
    """GPT-2 stores [in, out]: addmm becomes a linear with a frozen NAME.T that is made on demand."""
    before = captured(Gpt2Linear(width=3))
    after, remarks = apply("canonicalize", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  embed.weight    f32[7, 3]
  frozen  fc.bias         f32[7]
  frozen  fc.weight.T     f32[7, 3]     transposed of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 3]
  %1 = aten.linear(%0, fc.weight.T, fc.bias)   : f32[N, T, 7]
  %2 = zofx.select_positions(%1, positions)   : f32[N, S, 7]
  %3 = zofx.score_targets(%2, targets)   : f32[N, C]
  return %3
remarks
  applied  fc.weight   stored [in, out], kept as [out, in]
""",
    )
    assert torch.equal(after.load("fc.weight.T"), before.load("fc.weight").t())
    assert_same_meaning(before, after, batch())


def test_a_turned_weight_stays_within_round_off() -> None:
    """The same product, in whatever order an engine sums it."""
    before = captured(Gpt2Linear(width=48), integers=False)
    after, _ = apply("canonicalize", before)
    x = before.load("embed.weight")[batch()["input_ids"].gather(1, batch()["positions"])]
    bound = summation_bound(x, after.load("fc.weight.T"), before.load("fc.bias"))
    assert_same_meaning(before, after, batch(), bound)


def test_turns_a_weight_over_once() -> None:
    """A layer used twice reads one transpose; one remark."""
    after, remarks = apply("canonicalize", captured(Gpt2Linear(width=7, times=2)))
    assert list(map(str, remarks)) == ["applied  fc.weight   stored [in, out], kept as [out, in]"]
    assert sorted(after.tensors) == ["embed.weight", "fc.bias", "fc.weight.T"]


def test_tells_weights_from_activations() -> None:
    """x·Wᵀ becomes a linear with W as stored; addmm of activations a product and a sum."""
    before = captured(Products())
    after, remarks = apply("canonicalize", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  weight          f32[7, 4]
  frozen  embed.weight    f32[7, 4]
body
  %0 = aten.sym_size.int(attention_mask, 1)   : T
  %1 = aten.sym_size.int(targets, 0)   : N
  %2 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %3 = aten.flatten.using_ints(%2, 0, 1)   : f32[N*T, 4]
  %4 = aten.t(%3)   : f32[4, N*T]
  %5 = aten.matmul(%3, %4)   : f32[N*T, N*T]
  %6 = aten.matmul(%5, %3)   : f32[N*T, 4]
  %7 = aten.add.Tensor(%3, %6)   : f32[N*T, 4]
  %8 = aten.view(%7, [%1, %0, 4])   : f32[N, T, 4]
  %9 = aten.linear(%8, weight, None)   : f32[N, T, 7]
  %10 = zofx.select_positions(%9, positions)   : f32[N, S, 7]
  %11 = zofx.score_targets(%10, targets)   : f32[N, C]
  return %11
""",
    )
    assert_same_meaning(before, after, batch())


def test_every_head_has_keys_and_values() -> None:
    """One head of them for all of the queries' is given to each; W.T is a transpose, too."""
    before = captured(MultiQuery(), integers=False)
    after, remarks = apply("canonicalize", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  weight          f32[7, 4]
  frozen  embed.weight    f32[7, 4]
body
  %0 = aten.sym_size.int(attention_mask, 1)   : T
  %1 = aten.sym_size.int(targets, 0)   : N
  %2 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %3 = aten.view(%2, [%1, %0, 2, 2])   : f32[N, T, 2, 2]
  %4 = aten.transpose.int(%3, 1, 2)   : f32[N, 2, T, 2]
  %5 = aten.slice.Tensor(%4, 1, 0, 1)   : f32[N, 1, T, 2]
  %6 = aten.slice.Tensor(%4, 1, 1, 9223372036854775807)   : f32[N, 1, T, 2]
  %7 = aten.expand(%5, [-1, 2, -1, -1])   : f32[N, 2, T, 2]
  %8 = aten.expand(%6, [-1, 2, -1, -1])   : f32[N, 2, T, 2]
  %9 = aten.scaled_dot_product_attention(%4, %7, %8)   : f32[N, 2, T, 2]
  %10 = aten.transpose.int(%9, 1, 2)   : f32[N, T, 2, 2]
  %11 = aten.reshape(%10, [%1, %0, 4])   : f32[N, T, 4]
  %12 = aten.linear(%11, weight, None)   : f32[N, T, 7]
  %13 = zofx.select_positions(%12, positions)   : f32[N, S, 7]
  %14 = zofx.score_targets(%13, targets)   : f32[N, C]
  return %14
""",
    )
    weight, largest = before.load("weight"), before.load("embed.weight").abs().max().double()
    score = WIDTH * largest**2
    # Of a weight of the attention: its score, the sum over positions, exp and division.
    relative = 2 * ((WIDTH + 2) * score + batch()["input_ids"].shape[1] + 8) * UNIT
    product = summation_bound(largest.expand(1, weight.shape[1]), weight)
    bound = product + 2 * relative * largest * weight.abs().double().sum(1)
    assert_same_meaning(before, after, batch(), bound.expand_as(logits(before, batch())))


def test_a_matrix_is_not_a_bias() -> None:
    """addmm with a weight and a 2-D addend: no linear takes that."""
    before = captured(MatrixBias())
    after, remarks = apply("canonicalize", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  weight          f32[4, 7]
  frozen  embed.weight    f32[7, 4]
body
  %0 = aten.sym_size.int(attention_mask, 1)   : T
  %1 = aten.sym_size.int(targets, 0)   : N
  %2 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %3 = aten.flatten.using_ints(%2, 0, 1)   : f32[N*T, 4]
  %4 = aten.slice.Tensor(%3, 1, 1, 9223372036854775807)   : f32[N*T, 3]
  %5 = aten.cat([%3, %4], 1)   : f32[N*T, 7]
  %6 = aten.matmul(%3, weight)   : f32[N*T, 7]
  %7 = aten.add.Tensor(%5, %6)   : f32[N*T, 7]
  %8 = aten.view(%7, [%1, %0, 7])   : f32[N, T, 7]
  %9 = zofx.select_positions(%8, positions)   : f32[N, S, 7]
  %10 = zofx.score_targets(%9, targets)   : f32[N, C]
  return %10
""",
    )
    assert_same_meaning(before, after, batch())


def test_masks_and_casts_have_one_spelling() -> None:
    """& and | are aten's bitwise ops; a cast that changes the type is _to_copy."""
    before = captured(Masked())
    after, remarks = apply("canonicalize", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  embed.weight    f32[7, 4]
  frozen  fc.weight       f32[7, 4]
  frozen  fc.bias         f32[7]
body
  %0 = aten.gt.Scalar(attention_mask, 0)   : bool[N, T]
  %1 = aten.gt.Scalar(input_ids, 1)   : bool[N, T]
  %2 = aten.bitwise_and.Tensor(%0, %1)   : bool[N, T]
  %3 = aten.eq.Scalar(input_ids, 0)   : bool[N, T]
  %4 = aten.bitwise_or.Tensor(%2, %3)   : bool[N, T]
  %5 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %6 = aten._to_copy(%4, dtype=f32)   : f32[N, T]
  %7 = aten.unsqueeze(%6, 2)   : f32[N, T, 1]
  %8 = aten.mul.Tensor(%5, %7)   : f32[N, T, 4]
  %9 = aten.linear(%8, fc.weight, fc.bias)   : f32[N, T, 7]
  %10 = zofx.select_positions(%9, positions)   : f32[N, S, 7]
  %11 = zofx.score_targets(%10, targets)   : f32[N, C]
  return %11
""",
    )
    assert_same_meaning(before, after, batch())


def test_undoes_flattening() -> None:
    """An MLP on N·T rows is the MLP on [N, T, D]: the text of the model that never flattened."""
    before = captured(FlatBlock())
    after, _ = apply("canonicalize", before)
    assert show(after) == show(apply("canonicalize", captured(Block()))[0])
    assert_same_meaning(before, after, batch())


def test_what_mixes_rows_still_reads_rows() -> None:
    """The layer runs once, on [N, T, D]; the sum over all rows gets a view of its result."""
    before = captured(MixedRows())
    after, remarks = apply("canonicalize", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  embed.weight    f32[7, 4]
  frozen  fc.weight       f32[4, 4]
  frozen  head.weight     f32[7, 4]
body
  %0 = aten.sym_size.int(attention_mask, 1)   : T
  %1 = aten.sym_size.int(targets, 0)   : N
  %2 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %3 = aten.linear(%2, fc.weight)   : f32[N, T, 4]
  %4 = aten.reshape(%3, [-1, 4])   : f32[N*T, 4]
  %5 = aten.cumsum(%4, 0)   : f32[N*T, 4]
  %6 = aten.view(%5, [%1, %0, 4])   : f32[N, T, 4]
  %7 = aten.add.Tensor(%3, %6)   : f32[N, T, 4]
  %8 = aten.linear(%7, head.weight)   : f32[N, T, 7]
  %9 = zofx.select_positions(%8, positions)   : f32[N, S, 7]
  %10 = zofx.score_targets(%9, targets)   : f32[N, C]
  return %10
""",
    )
    assert_same_meaning(before, after, batch())


def test_leaves_canonical_programs_alone() -> None:
    """Linears as transformers' newer models write them: the same text, one fact more."""
    for toy in (OneLinear(), Tied()):
        before = captured(toy)
        after, remarks = apply("canonicalize", before)
        assert show(after, remarks) == show(before).replace("none", "canonical")
        assert torch.equal(run(after, batch()), run(before, batch()))


def test_running_it_twice_changes_nothing() -> None:
    """What it made is in its own canonical form."""
    for toy in (Products(), MixedRows()):
        once, _ = apply("canonicalize", captured(toy))
        twice, remarks = apply("canonicalize", once)
        assert show(twice) == show(once)
        assert not remarks
        assert torch.equal(logits(twice, batch()), logits(once, batch()))

"""split-sparse: chosen coordinates become a trainable, and the sum stays what it was."""

import pytest
import torch

from tests.golden import (
    apply,
    assert_golden,
    assert_same_meaning,
    batch,
    captured,
    decided,
    selected,
    summation_bound,
    with_scores,
)
from tests.passes.toys import Gpt2Linear, OneLinear, Shared, TwoLinears
from zofx.errors import PipelineError
from zofx.ir.printer import show
from zofx.ir.schema import Form


def test_cuts_a_slice_out_of_a_linear_with_bias() -> None:
    """W keeps zeros where the trainable was; the bias stays with the frozen half."""
    before = selected(captured(OneLinear()), fc_weight=[1, 6, 27])
    after, remarks = apply("split-sparse", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, sliced
  input      input_ids        i64[N, T]
  input      attention_mask   i64[N, T]
  input      positions        i64[N, S]
  input      targets          i64[N, S, C]
  frozen     embed.weight     f32[7, 4]
  frozen     fc.weight        f32[7, 4]
  frozen     fc.bias          f32[7]
  index      fc.weight.index  i32[3]        index of fc.weight
  trainable  fc.weight.slice  f32[3]        slice of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.linear(%0, fc.weight, fc.bias)   : f32[N, T, 7]
  %2 = zofx.sparse_linear(%0, fc.weight.slice, fc.weight.index, 7, 3, 1)   : f32[N, T, 7]
  %3 = aten.add.Tensor(%1, %2)   : f32[N, T, 7]
  %4 = zofx.select_positions(%3, positions)   : f32[N, S, 7]
  %5 = zofx.score_targets(%4, targets)   : f32[N, C]
  return %5
remarks
  applied  fc.weight   slice of 3
""",
    )
    assert_same_meaning(before, after, batch())


def test_slice_and_rest_make_the_weight() -> None:
    """The trainable is W at the index in f32, the rest is W with zeros there; together they are
    W."""
    before = selected(captured(OneLinear(), integers=False), fc_weight=[0, 5, 6, 27])
    after, _ = apply("split-sparse", before)
    weight, rest = before.load("fc.weight"), after.load("fc.weight")
    index, values = after.load("fc.weight.index").long(), after.load("fc.weight.slice")
    assert torch.equal(values, weight.flatten()[index])
    assert torch.equal(rest.flatten()[index], torch.zeros(4))
    assert torch.equal(rest.flatten().scatter(0, index, values).view(7, 4), weight)
    assert torch.equal(before.load("fc.weight"), weight)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_stays_within_the_stated_bound(share: float) -> None:
    """Sums in another order, two additions more: 2·γ·(|x|·|W|ᵀ + |b|)."""
    before, _ = apply("canonicalize", captured(OneLinear(width=96), integers=False))
    chosen, _ = apply(f"select-sensitive{{fraction={share}}}", with_scores(before, "fc.weight"))
    after, _ = apply("split-sparse", chosen)
    inputs = batch()
    x = before.load("embed.weight")[inputs["input_ids"].gather(1, inputs["positions"])]
    bound = summation_bound(x, before.load("fc.weight"), before.load("fc.bias"))
    assert_same_meaning(before, after, inputs, bound)


def test_a_layer_used_twice_has_one_slice() -> None:
    """Both uses read the same slice: training moves both."""
    before = selected(captured(Shared()), fc_weight=[3, 40])
    after, remarks = apply("split-sparse", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, sliced
  input      input_ids        i64[N, T]
  input      attention_mask   i64[N, T]
  input      positions        i64[N, S]
  input      targets          i64[N, S, C]
  frozen     embed.weight     f32[7, 7]
  frozen     fc.weight        f32[7, 7]
  index      fc.weight.index  i32[2]        index of fc.weight
  trainable  fc.weight.slice  f32[2]        slice of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 7]
  %1 = aten.linear(%0, fc.weight)   : f32[N, T, 7]
  %2 = zofx.sparse_linear(%0, fc.weight.slice, fc.weight.index, 7, 2, 1)   : f32[N, T, 7]
  %3 = aten.add.Tensor(%1, %2)   : f32[N, T, 7]
  %4 = aten.linear(%3, fc.weight)   : f32[N, T, 7]
  %5 = zofx.sparse_linear(%3, fc.weight.slice, fc.weight.index, 7, 2, 1)   : f32[N, T, 7]
  %6 = aten.add.Tensor(%4, %5)   : f32[N, T, 7]
  %7 = zofx.select_positions(%6, positions)   : f32[N, S, 7]
  %8 = zofx.score_targets(%7, targets)   : f32[N, C]
  return %8
remarks
  applied  fc.weight   slice of 2
""",
    )
    assert_same_meaning(before, after, batch())


def test_a_part_is_asked_for_by_its_form() -> None:
    """What was derived from a weight, and nothing where it was not."""
    after, _ = apply("split-sparse", selected(captured(Shared()), fc_weight=[3, 40]))
    index = after.derived("fc.weight", Form.INDEX)
    assert index is not None
    assert after.load(index.name).tolist() == [3, 40]
    assert after.derived("fc.weight", Form.LOW_RANK) is None
    assert after.derived("embed.weight", Form.INDEX) is None


def test_a_turned_weight_is_cut_in_its_new_layout() -> None:
    """Positions of NAME.T count along [out, in]."""
    turned, _ = apply("canonicalize", captured(Gpt2Linear()))
    after, _ = apply("split-sparse", selected(turned, fc_weight_T=[5]))
    weight = turned.load("fc.weight.T")
    assert after.load("fc.weight.T.slice").tolist() == [weight[1, 1]]
    assert after.load("fc.weight.T")[1, 1] == 0
    assert after.tensors["fc.weight.T.slice"].origin == "fc.weight.T"
    assert_same_meaning(turned, after, batch())


def test_other_weights_are_not_touched() -> None:
    """Only what is selected is cut; the selection is used up."""
    before = selected(captured(TwoLinears()), head_weight=[2])
    after, remarks = apply("split-sparse", before)
    assert list(map(str, remarks)) == ["applied  head.weight   slice of 1"]
    assert [spec.name for spec in after.trainables] == ["head.weight.slice"]
    assert not decided(after, "entries")
    assert "selected" not in after.facts
    assert torch.equal(after.load("fc.weight"), before.load("fc.weight"))
    assert_same_meaning(before, after, batch())


def test_needs_a_selection() -> None:
    """Nothing runs, and the message says what is missing and where."""
    with pytest.raises(PipelineError) as caught:
        apply("canonicalize, split-sparse", captured(OneLinear()))
    assert str(caught.value) == (
        "pass 1 (split-sparse) needs a program that is 'selected', and nothing before it makes it "
        "so; add a pass that makes it so"
    )

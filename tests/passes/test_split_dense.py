"""split-dense: chosen tensors train whole; what is added to them stands apart."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden import (
    UNIT,
    apply,
    assert_golden,
    assert_same_meaning,
    batch,
    captured,
    summation_bound,
    values,
)
from tests.passes.toys import Normed, OneLinear, Shared, Tied, Toy, TwoLinears, canonical
from zofx.errors import PipelineError
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.schema import Role

aten = torch.ops.aten


def chosen(toy: type[Toy], match: str = ".", *, integers: bool = True) -> Program:
    after, _ = apply(f"select-parameters{{match={match}}}", canonical(toy, integers=integers))
    return after


def test_parts_what_trains() -> None:
    """A bias becomes an addition; a norm, a product and an addition; the rest is read as it was."""
    before = chosen(Normed)
    after, remarks = apply("split-dense", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: all-train, canonical, sliced
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  trainable  gain            f32[4]
  trainable  embed.weight    f32[7, 4]
  trainable  norm.weight     f32[4]
  trainable  norm.bias       f32[4]
  trainable  fc.weight       f32[4, 4]
  trainable  fc.bias         f32[4]
  trainable  head.weight     f32[7, 4]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.layer_norm(%0, [4], None, None, 1e-05, False)   : f32[N, T, 4]
  %2 = aten.mul.Tensor(%1, norm.weight)   : f32[N, T, 4]
  %3 = aten.add.Tensor(%2, norm.bias)   : f32[N, T, 4]
  %4 = aten.linear(%3, fc.weight)   : f32[N, T, 4]
  %5 = aten.add.Tensor(%4, fc.bias)   : f32[N, T, 4]
  %6 = aten.mul.Tensor(%5, gain)   : f32[N, T, 4]
  %7 = aten.linear(%6, head.weight)   : f32[N, T, 7]
  %8 = zofx.select_positions(%7, positions)   : f32[N, S, 7]
  %9 = zofx.score_targets(%8, targets)   : f32[N, C]
  return %9
remarks
  applied  trainables   7 tensors train whole
""",
    )


def value(program: Program, target: Any) -> Tensor:
    """The result of the first call of an op."""
    node = program.graph.find_nodes(op="call_function", target=target)[0]
    result: Tensor = values(program, batch())[node]
    return result


@pytest.mark.parametrize("match", ["norm", r"norm\.weight", r"norm\.bias"])
def test_a_norm_is_parted_within_the_stated_bound(match: str) -> None:
    """Scaled and shifted in steps of their own, whichever trains: 2·u·(|y| + |y − b|)."""
    before = chosen(Normed, match, integers=False)
    after, _ = apply("split-dense", before)
    y, bias = value(before, aten.layer_norm.default), before.load("norm.bias")
    parted = value(after, aten.add.Tensor)
    bound = 2 * UNIT * (y.abs() + (y - bias).abs()).double()
    assert (parted - y).abs().max() > 0
    assert ((parted - y).abs() <= bound).all()


@pytest.mark.parametrize("match", ["fc", r"fc\.weight", r"fc\.bias"])
def test_a_bias_is_parted_within_the_stated_bound(match: str) -> None:
    """Added after the sum, whether the matrix trains or it does: 2·γ·(|x|·|W|ᵀ + |b|)."""
    before = chosen(OneLinear, match, integers=False)
    after, _ = apply("split-dense", before)
    inputs = batch()
    x = before.load("embed.weight")[inputs["input_ids"].gather(1, inputs["positions"])]
    bound = summation_bound(x, before.load("fc.weight"), before.load("fc.bias"))
    assert_same_meaning(before, after, inputs, bound)
    (linear,) = after.graph.find_nodes(op="call_function", target=aten.linear.default)
    assert len(linear.args) == 2


def test_whole_numbers_stay_bit_equal() -> None:
    """A bias and a weight that train, in sums that are exact."""
    before = chosen(OneLinear)
    after, _ = apply("split-dense", before)
    assert_same_meaning(before, after, batch())


@pytest.mark.parametrize(
    ("toy", "match"),
    [(TwoLinears, "head"), (Tied, "embed"), (Shared, "fc"), (Normed, "gain")],
)
def test_only_the_role_changes_where_nothing_is_added(toy: type[Toy], match: str) -> None:
    """A matrix, a tied one, one used twice and a gain are read as they were."""
    before = chosen(toy, match)
    after, remarks = apply("split-dense", before)
    assert list(map(str, remarks)) == ["applied  trainables   1 tensors train whole"]
    (name,) = before.chosen
    frozen = show(before).replace("canonical, chosen", "canonical, sliced")
    printed = "\n".join(" ".join(line.split()) for line in frozen.splitlines())
    printed = printed.replace(f"frozen {name}", f"trainable {name}")
    assert "\n".join(" ".join(line.split()) for line in show(after).splitlines()) == printed
    assert torch.equal(after.load(name), before.load(name))
    assert_same_meaning(before, after, batch())


def test_slices_are_f32_and_the_choice_is_used_up() -> None:
    """The table says so; no recipe runs for it, and what was given is as it was."""
    before = chosen(Normed, "fc|norm")
    text = show(before)

    def never() -> Tensor:
        raise AssertionError("a pass makes no data")

    lazy = before.with_(data=dict.fromkeys(before.data, never))
    after, _ = apply("split-dense", lazy)
    assert {s.name for s in after.trainables} == {
        "fc.weight",
        "fc.bias",
        "norm.weight",
        "norm.bias",
    }
    assert {spec.dtype for spec in after.trainables} == {torch.float32}
    assert not after.chosen
    assert after.tensors["gain"].role is Role.FROZEN
    assert show(before) == text


def test_needs_a_choice() -> None:
    """The message says what is missing."""
    with pytest.raises(PipelineError) as caught:
        apply("canonicalize, split-dense", captured(OneLinear()))
    assert str(caught.value) == (
        "pass 1 (split-dense) needs a program that is 'chosen', and nothing before it makes it so; "
        "add a pass that makes it so"
    )

"""narrow-positions: the choice of positions sinks to where positions are mixed."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from tests.golden import apply, assert_golden, assert_same_meaning, batch, captured
from tests.passes.toys import Block, Broadcasts, MixedLogits, Norms, OneLinear, ReadTwice
from zofx.ir.printer import show


def test_sinks_to_the_last_op_that_mixes_positions() -> None:
    """Head, MLP, norm and residual run at scored positions; the running sum keeps all of them."""
    before, _ = apply("canonicalize", captured(Block()))
    after, remarks = apply("narrow-positions", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, narrowed
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  embed.weight    f32[7, 4]
  frozen  up.weight       f32[6, 4]
  frozen  up.bias         f32[6]
  frozen  down.weight     f32[4, 6]
  frozen  head.weight     f32[7, 4]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.cumsum(%0, 1)   : f32[N, T, 4]
  %2 = zofx.select_positions(%1, positions)   : f32[N, S, 4]
  %3 = aten.linear(%2, up.weight, up.bias)   : f32[N, S, 6]
  %4 = aten.relu(%3)   : f32[N, S, 6]
  %5 = aten.linear(%4, down.weight)   : f32[N, S, 4]
  %6 = aten.add.Tensor(%2, %5)   : f32[N, S, 4]
  %7 = aten.linear(%6, head.weight)   : f32[N, S, 7]
  %8 = zofx.score_targets(%7, targets)   : f32[N, C]
  return %8
remarks
  applied  logits   5 ops run at scored positions only
""",
    )
    assert_same_meaning(before, after, batch())


def test_norms_act_on_each_position() -> None:
    """LayerNorm and RMSNorm reduce over features, so they narrow."""
    before, _ = apply("canonicalize", captured(Norms(), integers=False))
    after, remarks = apply("narrow-positions", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, narrowed
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  gain            f32[7]
  frozen  embed.weight    f32[7, 7]
  frozen  norm.weight     f32[7]
  frozen  norm.bias       f32[7]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 7]
  %1 = aten.cumsum(%0, 1)   : f32[N, T, 7]
  %2 = zofx.select_positions(%1, positions)   : f32[N, S, 7]
  %3 = aten.layer_norm(%2, [7], norm.weight, norm.bias, 1e-05, False)   : f32[N, S, 7]
  %4 = aten.pow.Tensor_Scalar(%3, 2)   : f32[N, S, 7]
  %5 = aten.mean.dim(%4, [-1], True)   : f32[N, S, 1]
  %6 = aten.add.Tensor(%5, 0.5)   : f32[N, S, 1]
  %7 = aten.rsqrt(%6)   : f32[N, S, 1]
  %8 = aten.mul.Tensor(%3, %7)   : f32[N, S, 7]
  %9 = aten.mul.Tensor(%8, gain)   : f32[N, S, 7]
  %10 = zofx.score_targets(%9, targets)   : f32[N, C]
  return %10
remarks
  applied  logits   7 ops run at scored positions only
""",
    )
    assert_same_meaning(before, after, batch())


def test_selects_the_embedding_itself() -> None:
    """Where nothing mixes positions, unscored tokens are looked up and dropped."""
    before, _ = apply("canonicalize", captured(OneLinear()))
    after, remarks = apply("narrow-positions", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, narrowed
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  embed.weight    f32[7, 4]
  frozen  fc.weight       f32[7, 4]
  frozen  fc.bias         f32[7]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = zofx.select_positions(%0, positions)   : f32[N, S, 4]
  %2 = aten.linear(%1, fc.weight, fc.bias)   : f32[N, S, 7]
  %3 = zofx.score_targets(%2, targets)   : f32[N, C]
  return %3
remarks
  applied  logits   1 ops run at scored positions only
""",
    )
    assert_same_meaning(before, after, batch())


def test_keeps_all_positions_of_what_another_op_needs() -> None:
    """The layer feeds a sum over positions too: it stays whole, its result is selected from."""
    before, _ = apply("canonicalize", captured(ReadTwice()))
    after, remarks = apply("narrow-positions", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, narrowed
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  embed.weight    f32[7, 4]
  frozen  fc.weight       f32[4, 4]
  frozen  head.weight     f32[7, 4]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.linear(%0, fc.weight)   : f32[N, T, 4]
  %2 = aten.relu(%1)   : f32[N, T, 4]
  %3 = aten.cumsum(%2, 1)   : f32[N, T, 4]
  %4 = zofx.select_positions(%2, positions)   : f32[N, S, 4]
  %5 = zofx.select_positions(%3, positions)   : f32[N, S, 4]
  %6 = aten.add.Tensor(%4, %5)   : f32[N, S, 4]
  %7 = aten.linear(%6, head.weight)   : f32[N, S, 7]
  %8 = zofx.score_targets(%7, targets)   : f32[N, C]
  return %8
remarks
  applied  logits   2 ops run at scored positions only
""",
    )
    assert_same_meaning(before, after, batch())


def test_stops_where_an_operand_has_positions_in_another_layout() -> None:
    """[T, D] and [N, 1, D] cannot be selected from; a vector of features is the same everywhere."""
    before, _ = apply("canonicalize", captured(Broadcasts()))
    after, remarks = apply("narrow-positions", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, narrowed
  input   input_ids       i64[N, T]
  input   attention_mask  i64[N, T]
  input   positions       i64[N, S]
  input   targets         i64[N, S, C]
  frozen  shift           f32[4]
  frozen  embed.weight    f32[7, 4]
  frozen  fc.weight       f32[4, 4]
  frozen  head.weight     f32[7, 4]
  frozen  place.weight    f32[16, 4]
body
  %0 = aten.sym_size.int(attention_mask, 1)   : T
  %1 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %2 = aten.linear(%1, fc.weight)   : f32[N, T, 4]
  %3 = aten.arange(%0)   : i64[T]
  %4 = aten.embedding(place.weight, %3)   : f32[T, 4]
  %5 = aten.add.Tensor(%2, %4)   : f32[N, T, 4]
  %6 = aten.amax(%1, [1], True)   : f32[N, 1, 4]
  %7 = aten.add.Tensor(%5, %6)   : f32[N, T, 4]
  %8 = zofx.select_positions(%7, positions)   : f32[N, S, 4]
  %9 = aten.sub.Tensor(%8, shift)   : f32[N, S, 4]
  %10 = aten.linear(%9, head.weight)   : f32[N, S, 7]
  %11 = zofx.score_targets(%10, targets)   : f32[N, C]
  return %11
remarks
  applied  logits   2 ops run at scored positions only
""",
    )
    assert_same_meaning(before, after, batch())


def test_stays_where_the_logits_mix_positions() -> None:
    """Nothing can move, so nothing does, and the remark says which op is in the way."""
    before, _ = apply("canonicalize", captured(MixedLogits()))
    after, remarks = apply("narrow-positions", before)
    remark = "skipped  logits   aten.cumsum.default is not known to act on each position alone"
    assert show(after, remarks) == show(before, [remark]).replace(
        "canonical", "canonical, narrowed"
    )
    assert_same_meaning(before, after, batch())


def test_one_position_and_many() -> None:
    """A scored position may repeat, and be the only one."""
    before, _ = apply("canonicalize", captured(Block()))
    after, _ = apply("narrow-positions", before)
    inputs = batch()
    for positions in ([[4], [4], [0]], [[1, 1, 1, 0], [2, 3, 2, 3], [4, 4, 4, 4]]):
        width = len(positions[0])
        targets = torch.zeros(3, width, 2, dtype=torch.int64)
        some = {**inputs, "positions": torch.tensor(positions), "targets": targets}
        assert_same_meaning(before, after, some)


def opt() -> nn.Module:
    """One layer; its MLP runs on N·T rows."""
    model: nn.Module = OPTForCausalLM(
        OPTConfig(
            vocab_size=7,
            hidden_size=4,
            word_embed_proj_dim=4,
            ffn_dim=6,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
        )
    )
    return model


def gpt2() -> nn.Module:
    """One layer; every product runs on N·T rows."""
    model: nn.Module = GPT2LMHeadModel(
        GPT2Config(vocab_size=7, n_embd=4, n_inner=6, n_layer=1, n_head=2, n_positions=8)
    )
    return model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (opt, ["out_proj.weight", "fc1.weight", "fc2.weight", "embed_tokens.weight"]),
        (gpt2, ["c_proj.weight.T", "c_fc.weight.T", "c_proj.weight.T", "wte.weight"]),
    ],
)
def test_models_that_flatten_narrow_to_the_last_attention(
    model: Callable[[], nn.Module], expected: list[str]
) -> None:
    """From the output projection on, every product runs at scored positions only."""
    after, _ = apply("canonicalize, narrow-positions", captured(model()))
    selects = torch.ops.zofx.select_positions.default
    first = after.graph.find_nodes(op="call_function", target=selects)[0]
    linears = after.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    below = [str(node.args[1].target) for node in linears if node > first]
    assert all(map(str.endswith, below, expected))
    assert len(below) == len(expected)

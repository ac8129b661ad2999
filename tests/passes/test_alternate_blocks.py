"""alternate-blocks: one group of trainables moves at a time."""

import numpy as np
import pytest

from tests.golden import apply, assert_golden, assert_same_meaning, batch
from tests.passes.probing import PERTURB, assert_a_probe_is_a_move, dense, directions, never
from tests.passes.toys import Blocks, OneLinear, canonical
from zofx.errors import PipelineError
from zofx.ir.directions import noise_of
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.passes import PASSES
from zofx.passes.alternate_blocks import group_of
from zofx.zo.random.direction_spec import Turn
from zofx.zo.types import Key

GROUPS = {
    "embed.weight": 0,
    "blocks.0.0.weight": 1,
    "blocks.0.0.bias": 1,
    "blocks.0.2.weight": 1,
    "blocks.1.0.weight": 2,
    "blocks.1.0.bias": 2,
    "blocks.1.2.weight": 2,
    "head.weight": 3,
}


def test_every_draw_waits_for_its_turn() -> None:
    """Weight and bias of a module are one group."""
    before, _ = apply(PERTURB, dense(OneLinear))
    after, remarks = apply("alternate-blocks", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: all-train, canonical, perturbed, sliced
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  input      keys            i64[Q, 2]
  input      coefficients    f32[Q]
  trainable  embed.weight    f32[7, 4]
  trainable  fc.weight       f32[7, 4]
  trainable  fc.bias         f32[7]
body
  %0 = zofx.direction(keys, None, embed.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %1 = zofx.mask_turn(%0, keys, 0, 2, step)   : f32[Q, 7, 4]
  %2 = zofx.perturb(embed.weight, %1, coefficients)   : f32[7, 4]
  %3 = aten.embedding(%2, input_ids)   : f32[N, T, 4]
  %4 = zofx.direction(keys, None, fc.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %5 = zofx.mask_turn(%4, keys, 1, 2, step)   : f32[Q, 7, 4]
  %6 = zofx.perturb(fc.weight, %5, coefficients)   : f32[7, 4]
  %7 = aten.linear(%3, %6)   : f32[N, T, 7]
  %8 = zofx.direction(keys, None, fc.bias, [7], rademacher)   : f32[Q, 7]
  %9 = zofx.mask_turn(%8, keys, 1, 2, step)   : f32[Q, 7]
  %10 = zofx.perturb(fc.bias, %9, coefficients)   : f32[7]
  %11 = aten.add.Tensor(%7, %10)   : f32[N, T, 7]
  %12 = zofx.select_positions(%11, positions)   : f32[N, S, 7]
  %13 = zofx.score_targets(%12, targets)   : f32[N, C]
  return %13
remarks
  applied  trainables   3 trainables in 2 groups, by step
""",
    )
    assert_same_meaning(before, after, batch(coefficients=[0.0]))


@pytest.mark.parametrize("by", ["step", "query"])
def test_one_group_moves_at_a_time(by: str) -> None:
    """In a round each group has its own z once, and every other slice none."""
    sliced = dense(Blocks)
    before, _ = apply(PERTURB, sliced)
    after, _ = apply(f"alternate-blocks{{by={by}}}", before)
    keys = [Key(3, n, 0) if by == "step" else Key(3, 9, n) for n in range(8)]
    plain, masked = directions(before, *keys), directions(after, *keys)
    assert masked.keys() == GROUPS.keys()
    for name, z in plain.items():
        for n in range(8):
            wanted = z[n] if n % 4 == GROUPS[name] else np.zeros_like(z[n])
            np.testing.assert_array_equal(masked[name][n], wanted)
    assert noise_of(after).turns == Turn(0, 4, by)  # type: ignore[arg-type]  # a parameter is a string


def test_a_probe_moves_its_group() -> None:
    """Step 7 is the turn of the head."""
    sliced = dense(Blocks)
    after, _ = apply(f"{PERTURB}, alternate-blocks", sliced)
    assert_a_probe_is_a_move(sliced, after)


def test_modules_take_turns_for_themselves() -> None:
    """level=module: a weight and its bias are a group, a block is several."""
    after, (_, remark) = apply(f"{PERTURB}, alternate-blocks{{level=module}}", dense(Blocks))
    assert remark.why == "8 trainables in 6 groups, by step"
    groups = {name: spec.turn.group for name, spec in noise_of(after).specs.items() if spec.turn}
    assert groups["blocks.1.0.weight"] == groups["blocks.1.0.bias"] != groups["blocks.1.2.weight"]


def test_adapters_belong_to_the_block_of_their_matrix() -> None:
    """By the name of the tensor that they stand beside."""
    text = f"insert-lora{{match=. rank=1}}, {PERTURB}, alternate-blocks"
    after, (*_, remark) = apply(text, canonical(Blocks))
    assert remark.why == "10 trainables in 3 groups, by step"
    groups = {name: spec.turn.group for name, spec in noise_of(after).specs.items() if spec.turn}
    assert groups["blocks.1.0.weight.lora_A"] == groups["blocks.1.2.weight.lora_B"]


@pytest.mark.parametrize(
    ("name", "layer", "module"),
    [
        ("model.layers.3.mlp.up.weight", "model.layers.3", "model.layers.3.mlp.up"),
        ("model.layers.3.norm.bias", "model.layers.3", "model.layers.3.norm"),
        ("h.11.attn.c_attn.weight.T", "h.11", "h.11.attn.c_attn"),
        ("experts.2.layers.5.fc.weight", "experts.2", "experts.2.layers.5.fc"),
        ("model.embed.weight", "model.embed", "model.embed"),
        ("lm_head.bias", "lm_head", "lm_head"),
        ("prompt", "prompt", "prompt"),
    ],
)
def test_groups_go_by_name(name: str, layer: str, module: str) -> None:
    """The first number ends a layer's name; without one its module is the group."""
    assert (group_of(name, "layer"), group_of(name, "module")) == (layer, module)


def test_is_lazy_and_pure() -> None:
    """No data is made for it, the options read back, and what was given prints as before."""
    text = "alternate-blocks{by=query level=module}"
    assert str(Pipeline.parse(text, PASSES)) == text
    before, _ = apply(PERTURB, dense(Blocks))
    printed = show(before)
    apply(text, before.with_(data=dict.fromkeys(before.data, never)))
    assert show(before) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alternate-blocks{by=layer}", "alternate-blocks{by=layer}: must be one of step, query"),
        (
            "alternate-blocks{level=block}",
            "alternate-blocks{level=block}: must be one of layer, module",
        ),
        (
            "alternate-blocks",
            "pass 0 (alternate-blocks) needs a program that is 'perturbed', and nothing before it "
            "makes "
            "it so; add a pass that makes it so",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    """Options, and the order."""
    with pytest.raises(PipelineError) as caught:
        apply(text, canonical(OneLinear))
    assert str(caught.value) == message

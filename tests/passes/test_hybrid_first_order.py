"""hybrid-first-order: the last blocks, and what follows them, are left to exact gradients."""

import pytest

from tests.golden import apply, assert_golden, assert_same_meaning, batch
from tests.passes.probing import PERTURB, assert_a_probe_is_a_move, dense
from tests.passes.toys import Blocks, OneLinear
from zofx.errors import PipelineError
from zofx.ir.printer import show
from zofx.ir.schema import Role
from zofx.passes.hybrid_first_order import HybridFirstOrder


def test_from_the_last_block_on() -> None:
    """The last block and the head are read as they are; what comes before has directions."""
    after, remarks = apply(f"hybrid-first-order, {PERTURB}", dense(Blocks))
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: all-train, canonical, exact, perturbed, sliced
  input      input_ids          i64[N, T]
  input      attention_mask     i64[N, T]
  input      positions          i64[N, S]
  input      targets            i64[N, S, C]
  input      keys               i64[Q, 2]
  input      coefficients       f32[Q]
  trainable  embed.weight       f32[7, 4]
  trainable  blocks.0.0.weight  f32[3, 4]
  trainable  blocks.0.0.bias    f32[3]
  trainable  blocks.0.2.weight  f32[4, 3]
  exact      blocks.1.0.weight  f32[3, 4]
  exact      blocks.1.0.bias    f32[3]
  exact      blocks.1.2.weight  f32[4, 3]
  exact      head.weight        f32[7, 4]
body
  %0 = zofx.direction(keys, None, embed.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %1 = zofx.perturb(embed.weight, %0, coefficients)   : f32[7, 4]
  %2 = aten.embedding(%1, input_ids)   : f32[N, T, 4]
  %3 = zofx.direction(keys, None, blocks.0.0.weight, [3, 4], rademacher)   : f32[Q, 3, 4]
  %4 = zofx.perturb(blocks.0.0.weight, %3, coefficients)   : f32[3, 4]
  %5 = aten.linear(%2, %4)   : f32[N, T, 3]
  %6 = zofx.direction(keys, None, blocks.0.0.bias, [3], rademacher)   : f32[Q, 3]
  %7 = zofx.perturb(blocks.0.0.bias, %6, coefficients)   : f32[3]
  %8 = aten.add.Tensor(%5, %7)   : f32[N, T, 3]
  %9 = aten.relu(%8)   : f32[N, T, 3]
  %10 = zofx.direction(keys, None, blocks.0.2.weight, [4, 3], rademacher)   : f32[Q, 4, 3]
  %11 = zofx.perturb(blocks.0.2.weight, %10, coefficients)   : f32[4, 3]
  %12 = aten.linear(%9, %11)   : f32[N, T, 4]
  %13 = aten.add.Tensor(%2, %12)   : f32[N, T, 4]
  %14 = aten.linear(%13, blocks.1.0.weight)   : f32[N, T, 3]
  %15 = aten.add.Tensor(%14, blocks.1.0.bias)   : f32[N, T, 3]
  %16 = aten.relu(%15)   : f32[N, T, 3]
  %17 = aten.linear(%16, blocks.1.2.weight)   : f32[N, T, 4]
  %18 = aten.add.Tensor(%13, %17)   : f32[N, T, 4]
  %19 = aten.linear(%18, head.weight)   : f32[N, T, 7]
  %20 = zofx.select_positions(%19, positions)   : f32[N, S, 7]
  %21 = zofx.score_targets(%20, targets)   : f32[N, C]
  return %21
remarks
  applied  trainables   4 of 8 tensors, 55 weights
  applied  trainables   rademacher, 4 trainables
""",
    )


def test_only_the_others_move() -> None:
    """A probe is a move of the trainables that are left; without one it is the program before."""
    before, _ = apply("hybrid-first-order", dense(Blocks))
    after, _ = apply(PERTURB, before)
    assert_a_probe_is_a_move(before, after)
    assert_same_meaning(dense(Blocks), after, batch(coefficients=[0.0]))
    exact = {s.name for s in after.tensors.values() if s.role is Role.EXACT}
    last = {name for name in before.tensors if name.startswith("blocks.1.")}
    assert exact == {*last, "head.weight"}
    assert len(last) > 1


@pytest.mark.parametrize(("toy", "layers"), [(Blocks, 2), (OneLinear, 1)])
def test_some_blocks_are_left_for_probes(toy: type[OneLinear], layers: int) -> None:
    """As many as there are, or blocks where there are none: refused, with what to say instead."""
    blocks = 2 if toy is Blocks else 0
    with pytest.raises(PipelineError, match=f"{blocks} numbered blocks train.* say layers=all"):
        apply(f"hybrid-first-order{{layers={layers}}}", dense(toy))


@pytest.mark.parametrize("layers", ["0", "-1", "some"])
def test_layers_are_counted_from_one(layers: str) -> None:
    """Anything else is refused before anything runs."""
    with pytest.raises(PipelineError, match="a number of blocks, from 1, or all"):
        HybridFirstOrder(layers)


def test_all_leaves_nothing_for_probes() -> None:
    """Every trainable is exact, and the graph is the one before."""
    before = dense(Blocks)
    after, _ = apply("hybrid-first-order{layers=all}", before)
    assert not after.trainables
    exact = {s.name for s in after.tensors.values() if s.role is Role.EXACT}
    assert exact == {spec.name for spec in before.trainables}
    assert_same_meaning(before, after, batch())

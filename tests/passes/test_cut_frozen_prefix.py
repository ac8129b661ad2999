"""cut-frozen-prefix: the graph is marked where activations stop being a function of the tokens
alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.golden import apply, assert_golden, assert_same_meaning, batch, run
from tests.passes.probing import PERTURB
from tests.passes.toys import Blocks, OneLinear, canonical
from zofx.errors import PipelineError, UnsupportedError
from zofx.ir.facts import CUT
from zofx.ir.ops import zofx_ops
from zofx.ir.partition import split
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.passes import PASSES

aten = torch.ops.aten


class MaskedBlocks(Blocks):
    """Every block is given the mask, and the logits a size that no token says."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        x, seen = self.embed(input_ids), attention_mask.unsqueeze(-1) * 2.0
        for block in self.blocks:
            x = x + block(x) * seen
        return SimpleNamespace(logits=self.head(x))


class SizedBlocks(Blocks):
    """A number of rows is read in every block."""

    def logits(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = x + block(x) * x.new_ones(x.shape[0], 1, 1)
        return self.head(x)


class Skips(Blocks):
    """The second block sees the embedding too, beside the first one's result."""

    def logits(self, x: Tensor) -> Any:
        return self.head(self.blocks[1](x + self.blocks[0](x)) * x)


def trained(toy: type[nn.Module], match: str = "blocks.1|head", passes: str = PERTURB) -> Program:
    """The last block and the head train whole."""
    text = f"select-parameters{{match={match}}}, split-dense, {passes}"
    after, _ = apply(text, canonical(toy))
    return after


def cut(program: Program) -> Program:
    after, _ = apply("cut-frozen-prefix", program)
    return after


def test_between_the_blocks() -> None:
    """One op on the residual stream; the prefix is a program of the tokens."""
    after, remarks = apply("cut-frozen-prefix", trained(MaskedBlocks))
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, cut, perturbed, sliced
  input      input_ids          i64[N, T]
  input      attention_mask     i64[N, T]
  input      positions          i64[N, S]
  input      targets            i64[N, S, C]
  input      keys               i64[Q, 2]
  input      coefficients       f32[Q]
  frozen     embed.weight       f32[7, 4]
  frozen     blocks.0.0.weight  f32[3, 4]
  frozen     blocks.0.0.bias    f32[3]
  frozen     blocks.0.2.weight  f32[4, 3]
  trainable  blocks.1.0.weight  f32[3, 4]
  trainable  blocks.1.0.bias    f32[3]
  trainable  blocks.1.2.weight  f32[4, 3]
  trainable  head.weight        f32[7, 4]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.unsqueeze(attention_mask, -1)   : i64[N, T, 1]
  %2 = aten.mul.Tensor(%1, 2.0)   : f32[N, T, 1]
  %3 = aten.linear(%0, blocks.0.0.weight, blocks.0.0.bias)   : f32[N, T, 3]
  %4 = aten.relu(%3)   : f32[N, T, 3]
  %5 = aten.linear(%4, blocks.0.2.weight)   : f32[N, T, 4]
  %6 = aten.mul.Tensor(%5, %2)   : f32[N, T, 4]
  %7 = aten.add.Tensor(%0, %6)   : f32[N, T, 4]
  %8 = zofx.cut(%7)   : f32[N, T, 4]
  %9 = zofx.direction(keys, None, blocks.1.0.weight, [3, 4], rademacher)   : f32[Q, 3, 4]
  %10 = zofx.perturb(blocks.1.0.weight, %9, coefficients)   : f32[3, 4]
  %11 = aten.linear(%8, %10)   : f32[N, T, 3]
  %12 = zofx.direction(keys, None, blocks.1.0.bias, [3], rademacher)   : f32[Q, 3]
  %13 = zofx.perturb(blocks.1.0.bias, %12, coefficients)   : f32[3]
  %14 = aten.add.Tensor(%11, %13)   : f32[N, T, 3]
  %15 = aten.relu(%14)   : f32[N, T, 3]
  %16 = zofx.direction(keys, None, blocks.1.2.weight, [4, 3], rademacher)   : f32[Q, 4, 3]
  %17 = zofx.perturb(blocks.1.2.weight, %16, coefficients)   : f32[4, 3]
  %18 = aten.linear(%15, %17)   : f32[N, T, 4]
  %19 = aten.mul.Tensor(%18, %2)   : f32[N, T, 4]
  %20 = aten.add.Tensor(%8, %19)   : f32[N, T, 4]
  %21 = zofx.direction(keys, None, head.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %22 = zofx.perturb(head.weight, %21, coefficients)   : f32[7, 4]
  %23 = aten.linear(%20, %22)   : f32[N, T, 7]
  %24 = zofx.select_positions(%23, positions)   : f32[N, S, 7]
  %25 = zofx.score_targets(%24, targets)   : f32[N, C]
  return %25
remarks
  applied  add   the frozen prefix is a function of the tokens alone
""",
    )
    prefix, remainder = split(after)
    assert prefix is not None
    assert_golden(
        show(prefix) + show(remainder),
        """\
program                                  facts: canonical, cut, perturbed, sliced
  input   input_ids          i64[N, T]
  input   attention_mask     i64[N, T]
  frozen  embed.weight       f32[7, 4]
  frozen  blocks.0.0.weight  f32[3, 4]
  frozen  blocks.0.0.bias    f32[3]
  frozen  blocks.0.2.weight  f32[4, 3]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.unsqueeze(attention_mask, -1)   : i64[N, T, 1]
  %2 = aten.mul.Tensor(%1, 2.0)   : f32[N, T, 1]
  %3 = aten.linear(%0, blocks.0.0.weight, blocks.0.0.bias)   : f32[N, T, 3]
  %4 = aten.relu(%3)   : f32[N, T, 3]
  %5 = aten.linear(%4, blocks.0.2.weight)   : f32[N, T, 4]
  %6 = aten.mul.Tensor(%5, %2)   : f32[N, T, 4]
  %7 = aten.add.Tensor(%0, %6)   : f32[N, T, 4]
  return %7
program                                  facts: canonical, cut, perturbed, sliced
  input      input_ids          i64[N, T]
  input      attention_mask     i64[N, T]
  input      positions          i64[N, S]
  input      targets            i64[N, S, C]
  input      keys               i64[Q, 2]
  input      coefficients       f32[Q]
  input      hidden             f32[N, T, 4]
  trainable  blocks.1.0.weight  f32[3, 4]
  trainable  blocks.1.0.bias    f32[3]
  trainable  blocks.1.2.weight  f32[4, 3]
  trainable  head.weight        f32[7, 4]
body
  %0 = aten.unsqueeze(attention_mask, -1)   : i64[N, T, 1]
  %1 = aten.mul.Tensor(%0, 2.0)   : f32[N, T, 1]
  %2 = zofx.direction(keys, None, blocks.1.0.weight, [3, 4], rademacher)   : f32[Q, 3, 4]
  %3 = zofx.perturb(blocks.1.0.weight, %2, coefficients)   : f32[3, 4]
  %4 = aten.linear(hidden, %3)   : f32[N, T, 3]
  %5 = zofx.direction(keys, None, blocks.1.0.bias, [3], rademacher)   : f32[Q, 3]
  %6 = zofx.perturb(blocks.1.0.bias, %5, coefficients)   : f32[3]
  %7 = aten.add.Tensor(%4, %6)   : f32[N, T, 3]
  %8 = aten.relu(%7)   : f32[N, T, 3]
  %9 = zofx.direction(keys, None, blocks.1.2.weight, [4, 3], rademacher)   : f32[Q, 4, 3]
  %10 = zofx.perturb(blocks.1.2.weight, %9, coefficients)   : f32[4, 3]
  %11 = aten.linear(%8, %10)   : f32[N, T, 4]
  %12 = aten.mul.Tensor(%11, %1)   : f32[N, T, 4]
  %13 = aten.add.Tensor(hidden, %12)   : f32[N, T, 4]
  %14 = zofx.direction(keys, None, head.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %15 = zofx.perturb(head.weight, %14, coefficients)   : f32[7, 4]
  %16 = aten.linear(%13, %15)   : f32[N, T, 7]
  %17 = zofx.select_positions(%16, positions)   : f32[N, S, 7]
  %18 = zofx.score_targets(%17, targets)   : f32[N, C]
  return %18
""",
    )


@pytest.mark.parametrize("passes", [PERTURB, f"{PERTURB}, stack-probes"])
def test_the_parts_are_the_whole(passes: str) -> None:
    """Bit for bit, marked or in two, with the probes' axis and without."""
    before = trained(MaskedBlocks, passes=passes)
    coefficients = [[0.25], [-0.25]] if "stack" in passes else [0.25]
    inputs = batch(coefficients=coefficients)
    after = cut(before)
    assert_same_meaning(before, after, inputs)
    prefix, remainder = split(after)
    assert prefix is not None
    hidden = run(prefix, inputs)
    torch.testing.assert_close(
        run(remainder, {**inputs, "hidden": hidden}), run(before, inputs), rtol=0, atol=0
    )
    assert hidden.shape == (3, 5, 4)
    assert prefix.inputs == ("input_ids", "attention_mask")
    assert not prefix.trainables
    assert not {name for name in remainder.tensors if name in prefix.tensors}


def test_as_late_as_the_slices_allow() -> None:
    """Where only the head trains all blocks are below, norms and masks or not."""
    after = cut(trained(MaskedBlocks, "head"))
    (node,) = after.graph.find_nodes(op="call_function", target=zofx_ops.cut.default)
    assert sum(n.target is aten.linear.default for n in node.graph.nodes) == 5
    prefix, remainder = split(after)
    assert prefix is not None
    assert sum(n.target is aten.linear.default for n in prefix.graph.nodes) == 4
    assert [n for n in remainder.tensors if "blocks" in n] == []


def test_sizes_are_asked_of_the_tokens() -> None:
    """N read off the targets is the same number, and does not make a layer depend on them."""
    program = trained(SizedBlocks)
    edit = Editor(program)
    sizes = edit.graph.find_nodes(op="call_function", target=aten.sym_size.int)
    assert sizes
    for size in sizes:
        edit.set_args(size, edit.placeholder("targets"), 0)
    other = edit.done()
    prefix, _ = split(cut(other))
    assert prefix is not None
    assert prefix.inputs == ("input_ids", "attention_mask")
    assert_same_meaning(program, cut(other), batch())


def test_a_program_without_a_cut_stays_whole() -> None:
    """There is nothing below, and the program is the one given."""
    program = trained(Blocks)
    assert split(program) == (None, program)


def test_is_pure() -> None:
    """The program it was given prints the same afterwards."""
    before = trained(MaskedBlocks)
    printed = show(before)
    cut(before)
    assert show(before) == printed


@pytest.mark.parametrize(
    ("toy", "match", "message"),
    [
        (OneLinear, ".", "no matrix is multiplied by before the first trainable"),
        (Blocks, "blocks.0", "no matrix is multiplied by before the first trainable"),
        (Skips, "blocks.1|head", "more than one value per token"),
    ],
)
def test_refusals(toy: type[nn.Module], match: str, message: str) -> None:
    """Nothing below, or two values that cross."""
    with pytest.raises(UnsupportedError, match=message):
        cut(trained(toy, match))


def test_probes_at_the_input_leave_nothing_below() -> None:
    """A batch that is replicated from the start depends on the probes from the start."""
    program = trained(Blocks, passes=f"{PERTURB}, stack-probes{{at=input}}")
    with pytest.raises(UnsupportedError, match="nothing to keep"):
        cut(program)


def test_the_fact_is_checked() -> None:
    """No cut, and one that has something below it that moves; without a trainable there is no
    order."""
    program = trained(Blocks)
    assert CUT.check(program) == "there are 0 cuts"
    edit = Editor(program)
    logits = next(n for n in reversed(edit.nodes) if n.target is aten.linear.default)
    edit.replace(logits, edit.call(logits.next, zofx_ops.cut.default, logits))
    assert "the frozen prefix reads a tensor that moves" in (CUT.check(edit.done()) or "")
    with pytest.raises(PipelineError, match="needs a program that is 'sliced'"):
        Pipeline.parse("cut-frozen-prefix", PASSES).check_order()

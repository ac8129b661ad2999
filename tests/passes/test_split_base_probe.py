"""split-base-probe: the first probe and the others as values of their own, to the same bits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.golden import apply, assert_golden, assert_same_meaning, batch, captured, run, selected
from tests.passes.probing import PERTURB, dense, never
from tests.passes.toys import OneLinear, Toy, TwoLinears, canonical
from zofx.errors import PipelineError
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.passes import PASSES
from zofx.passes.split_base_probe import SplitBaseProbe

PROBES = ([[0.25]], [[0.5], [-0.5]], [[0.5], [-0.25], [0.0], [0.5]])


class Headed(Toy):
    """Heads split off by a size that follows, and rows flattened with the tokens."""

    def __init__(self) -> None:
        super().__init__(6)
        self.fc = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 7, bias=False)

    def logits(self, x: Tensor) -> Any:
        rows, tokens, width = x.shape
        heads = self.fc(x).view(rows, tokens, -1, 2).transpose(1, 2)
        flat = heads.transpose(1, 2).reshape(-1, width)
        return self.head(flat).view(rows, tokens, 7)


def stacked(toy: type[nn.Module] = TwoLinears, **places: list[int]) -> Program:
    """P probes of trainables chosen by hand."""
    chosen = selected(captured(toy()), **places)
    before, _ = apply(f"split-sparse, {PERTURB}, stack-probes", chosen)
    return before


def test_what_reads_probes_is_done_twice() -> None:
    """Above the trainable nothing changes, and the first probe reads it without a copy."""
    before = stacked(fc_weight=[1, 6])
    after, remarks = apply("split-base-probe", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, parted, perturbed, sliced, stacked
  input      input_ids        i64[N, T]
  input      attention_mask   i64[N, T]
  input      positions        i64[N, S]
  input      targets          i64[N, S, C]
  input      keys             i64[Q, 2]
  input      coefficients     f32[P, Q]
  frozen     embed.weight     f32[7, 4]
  frozen     fc.weight        f32[4, 4]
  frozen     head.weight      f32[7, 4]
  index      fc.weight.index  i32[2]        index of fc.weight
  trainable  fc.weight.slice  f32[2]        slice of fc.weight
body
  %0 = aten.slice.Tensor(coefficients, 0, 0, 1)   : f32[1, Q]
  %1 = aten.slice.Tensor(coefficients, 0, 1, 9223372036854775807)   : f32[P - 1, Q]
  %2 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %3 = aten.linear(%2, fc.weight)   : f32[N, T, 4]
  %4 = zofx.direction(keys, None, fc.weight.slice, [2], rademacher)   : f32[Q, 2]
  %5 = zofx.perturb(fc.weight.slice, %4, %0)   : f32[1, 2]
  %6 = zofx.perturb(fc.weight.slice, %4, %1)   : f32[P - 1, 2]
  %7 = zofx.replicate(%2, %1)   : f32[N*(P - 1), T, 4]
  %8 = zofx.sparse_linear(%2, %5, fc.weight.index, 4, 2, 1)   : f32[N, T, 4]
  %9 = zofx.sparse_linear(%7, %6, fc.weight.index, 4, 2, 1)   : f32[N*(P - 1), T, 4]
  %10 = zofx.replicate(%3, %1)   : f32[N*(P - 1), T, 4]
  %11 = aten.add.Tensor(%3, %8)   : f32[N, T, 4]
  %12 = aten.add.Tensor(%10, %9)   : f32[N*(P - 1), T, 4]
  %13 = aten.relu(%11)   : f32[N, T, 4]
  %14 = aten.relu(%12)   : f32[N*(P - 1), T, 4]
  %15 = aten.linear(%13, head.weight)   : f32[N, T, 7]
  %16 = aten.linear(%14, head.weight)   : f32[N*(P - 1), T, 7]
  %17 = zofx.replicate(positions, %1)   : i64[N*(P - 1), S]
  %18 = zofx.select_positions(%15, positions)   : f32[N, S, 7]
  %19 = zofx.select_positions(%16, %17)   : f32[N*(P - 1), S, 7]
  %20 = zofx.replicate(targets, %1)   : i64[N*(P - 1), S, C]
  %21 = zofx.score_targets(%18, targets)   : f32[N, C]
  %22 = zofx.score_targets(%19, %20)   : f32[N*(P - 1), C]
  %23 = aten.cat([%21, %22])   : f32[N*(P - 1) + N, C]
  %24 = zofx.split_probes(%23, coefficients)   : f32[P, ((N*(P - 1) + N)//P), C]
  return %24
remarks
  applied  probes   13 values in two parts
""",
    )
    for table in PROBES:
        assert_same_meaning(before, after, batch(coefficients=table))


@pytest.mark.parametrize("table", PROBES, ids=len)
@pytest.mark.parametrize("toy", [OneLinear, TwoLinears, Headed])
@pytest.mark.parametrize("match", [".", "embed", "bias|head|fc"])
def test_weights_have_parts_too(toy: type[nn.Module], match: str, table: list[list[float]]) -> None:
    """Whole tensors that train, in every place: bit for bit what it was, of one probe as well."""
    before, _ = apply(f"{PERTURB}, stack-probes", dense(toy, match))
    after, _ = apply("split-base-probe", before)
    inputs = batch(coefficients=table)
    assert_same_meaning(before, after, inputs)
    assert len(run(after, inputs)) == len(table)


def test_a_size_that_follows_is_written_out() -> None:
    """Of no rows, none would follow."""
    before = stacked(Headed, fc_weight=[1, 6])
    after, _ = apply("split-base-probe", before)
    counts = [show(program).count("-1, 2]") for program in (before, after)]
    assert counts == [1, 0]


def test_leaves_the_program_it_started_from_alone() -> None:
    """It prints as before, and no tensor is read or made."""
    before = stacked(fc_weight=[1, 6])
    text = show(before)
    after, _ = apply("split-base-probe", before.with_(data=dict.fromkeys(before.data, never)))
    assert show(before) == text
    assert after.tensors == before.tensors


def test_its_text_reads_back_and_it_comes_after_the_probes() -> None:
    """It has no options, and is refused where nothing is stacked."""
    (made,) = Pipeline.parse("split-base-probe", PASSES).passes
    assert (made, str(made)) == (SplitBaseProbe(), "split-base-probe")
    with pytest.raises(
        PipelineError, match=r"\(split-base-probe\) needs a program that is 'stacked'"
    ):
        Pipeline.parse("canonicalize, split-base-probe", PASSES).check_order()
    with pytest.raises(PipelineError, match="split-base-probe has no option 'at'"):
        Pipeline.parse("split-base-probe{at=trainable}", PASSES)


def test_a_result_in_one_part_is_not_parted() -> None:
    """The fact is checked, not believed."""
    before = stacked(fc_weight=[1, 6])
    why = SplitBaseProbe().establishes[0].check(before)
    assert why == "the result is not put together of parts"
    after, _ = apply("split-base-probe", before)
    assert SplitBaseProbe().establishes[0].check(after) is None
    assert SplitBaseProbe().establishes[0].check(canonical(TwoLinears)) == why
    assert torch.equal(*(run(p, batch(coefficients=PROBES[1])) for p in (before, after)))

# ruff: noqa: E501  (lines of printed programs)
"""quantize-frozen: every format within the bound it states, and exact where a trainable was cut."""

from functools import partial
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
    logits,
    run,
    selected,
    summation_bound,
    with_scores,
)
from tests.passes.toys import Gpt2Linear, OneLinear, Tied, TwoLinears
from zofx.errors import PipelineError, UsageError
from zofx.ir.facts import QUANTIZED
from zofx.ir.formats import FORMATS
from zofx.ir.printer import show
from zofx.ir.program import Program

FC = "fc.weight"
WIDTH = 128


@pytest.fixture(scope="module")
def dense() -> Program:
    """One linear [7, 128] with bias, normal weights, scores."""
    program, _ = apply("canonicalize", captured(OneLinear(WIDTH), integers=False))
    return with_scores(program, FC)


@pytest.fixture(scope="module")
def sliced(dense: Program) -> Program:
    """The same with a trainable of 20."""
    after, _ = apply("select-sensitive{fraction=0.0224}, split-sparse", dense)
    return after


def dequantized(program: Program, name: str = FC) -> Tensor:
    """Ŵ from a quantized program's tensors."""
    parts = [s for s in program.tensors.values() if s.origin == name and s.form in FORMATS]
    out, width = parts[0].origin_shape or ()
    data = tuple(program.load(spec.name) for spec in parts)
    return FORMATS[parts[0].form].dequantize(data, (out, width))


def spelled_out(before: Program, after: Program) -> Program:
    """The program before, with the weights and trainables that the one after stands for."""
    quantized = {name.removesuffix(".codes") for name in after.tensors if name.endswith(".codes")}
    data = dict(before.data) | {s.name: after.data[s.name] for s in after.trainables}
    for name in quantized:
        weight = dequantized(after, name)
        data[name] = partial(torch.clone, weight)
    return before.with_(data=data)


def stated_bound(program: Program, weight: Tensor, form: str, block: int) -> Tensor:
    """The docstring's bound on |W − Ŵ|, elementwise."""
    if form == "codebook":
        centroids = program.load(f"{FC}.centroids").double()
        below = torch.searchsorted(centroids, weight.double().contiguous())
        low = centroids.gather(1, (below - 1).clamp(min=0))
        high = centroids.gather(1, below.clamp(max=15))
        outside = torch.maximum((weight - high).abs(), (weight - low).abs())
        return torch.where((below > 0) & (below < 16), (high - low) / 2, outside)
    if form == "int8-row":
        return (weight.abs().amax(1, keepdim=True) / 127 / 2).expand(7, WIDTH).double()
    blocks = weight.view(7, WIDTH // block, block)
    if form == "nf4":
        size = blocks.abs().amax(-1, keepdim=True) * 0.152
    else:
        top = blocks.amax(-1, keepdim=True).clamp(min=0)
        size = (top - blocks.amin(-1, keepdim=True).clamp(max=0)) / (2 ** int(form[3:]) - 1) / 2
    return size.expand_as(blocks).reshape(7, WIDTH).double()


@pytest.mark.parametrize(
    ("form", "block"),
    [
        ("nf4", 64),
        ("nf4", 128),
        ("nf4", 32),
        ("int4", 32),
        ("int4", 16),
        ("int8", 32),
        ("int8-row", 0),
        ("codebook", 0),
    ],
)
def test_stays_within_the_stated_bound(dense: Program, form: str, block: int) -> None:
    """Elementwise on the weight (up to rounding of Ŵ), and through the product."""
    after, _ = apply(f"quantize-frozen{{format={form} block={block}}}", dense)
    weight, bias = dense.load(FC), dense.load("fc.bias")
    approximate = dequantized(after)
    error = (weight.double() - approximate.double()).abs()
    stated = stated_bound(after, weight, form, block)
    rounding = 4 * UNIT * (weight.abs() + approximate.abs())
    assert (error <= stated + rounding).all()
    assert error.max() > 0
    inputs = batch()
    x = dense.load("embed.weight")[inputs["input_ids"].gather(1, inputs["positions"])]
    through = x.abs().double() @ error.t()
    bound = through + summation_bound(x, weight, bias) + summation_bound(x, approximate, bias)
    assert_same_meaning(dense, after, inputs, bound)


@pytest.mark.parametrize("form", tuple(FORMATS))
def test_is_exact_where_a_slice_was_cut(sliced: Program, form: str) -> None:
    """Ŵ + slice gives W back at every trained coordinate; int and nf4 hold a zero there."""
    after, _ = apply(f"quantize-frozen{{format={form}}}", sliced)
    index = sliced.load(f"{FC}.index").long()
    whole = sliced.load(f"{FC}.slice")
    rest = dequantized(after).flatten()[index]
    values = after.load(f"{FC}.slice")
    if form == "codebook":
        assert rest.count_nonzero() > 0
        bound = 2 * UNIT * (whole.abs() + rest.abs())
        assert ((rest.double() + values.double() - whole.double()).abs() <= bound).all()
    else:
        assert torch.equal(rest, torch.zeros(20))
        assert torch.equal(values, whole)


@pytest.mark.parametrize("form", tuple(FORMATS))
def test_the_slice_still_adds_what_was_cut(sliced: Program, form: str) -> None:
    """With a trainable beside it, the product stays within the error of the frozen half."""
    after, _ = apply(f"quantize-frozen{{format={form}}}", sliced)
    inputs = batch()
    x = sliced.load("embed.weight")[inputs["input_ids"].gather(1, inputs["positions"])]
    approximate = dequantized(after)
    index = sliced.load(f"{FC}.index").long()
    whole = sliced.load(FC).flatten().scatter(0, index, sliced.load(f"{FC}.slice")).view(7, WIDTH)
    mine = approximate.flatten().scatter_add(0, index, after.load(f"{FC}.slice")).view(7, WIDTH)
    through = x.abs().double() @ (whole.double() - mine.double()).abs().t()
    bias = sliced.load("fc.bias")
    rounding = 2 * summation_bound(x, whole.abs() + approximate.abs(), bias)
    error = (logits(after, inputs) - logits(sliced, inputs)).abs()
    assert (error <= through + rounding).all()


def test_int4_with_bias_and_slice() -> None:
    """Codes, scales and zero points replace the weight; slice, bias and embedding stay."""
    chosen = selected(captured(OneLinear(32)), fc_weight=[1, 6, 27])
    before, _ = apply("split-sparse", chosen)
    after, remarks = apply("quantize-frozen{format=int4}", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: block-scaled, canonical, quantized, sliced
  input      input_ids         i64[N, T]
  input      attention_mask    i64[N, T]
  input      positions         i64[N, S]
  input      targets           i64[N, S, C]
  frozen     embed.weight      f32[7, 32]
  frozen     fc.bias           f32[7]
  index      fc.weight.index   i32[3]        index of fc.weight
  trainable  fc.weight.slice   f32[3]        slice of fc.weight
  frozen     fc.weight.codes   u8[7, 1, 16]  int4 of fc.weight
  frozen     fc.weight.scales  f32[7, 1]     int4 of fc.weight
  frozen     fc.weight.zeros   u8[7, 1]      int4 of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 32]
  %1 = zofx.linear_int(%0, fc.weight.codes, fc.weight.scales, fc.weight.zeros, fc.bias, 4)   : f32[N, T, 7]
  %2 = zofx.sparse_linear(%0, fc.weight.slice, fc.weight.index, 7, 3, 3)   : f32[N, T, 7]
  %3 = aten.add.Tensor(%1, %2)   : f32[N, T, 7]
  %4 = zofx.select_positions(%3, positions)   : f32[N, S, 7]
  %5 = zofx.score_targets(%4, targets)   : f32[N, C]
  return %5
remarks
  applied  fc.weight   int4, 5.25 bits per weight
""",
    )
    assert_same_meaning(spelled_out(before, after), after, batch())


def test_nf4_of_two_layers_without_bias() -> None:
    """Codes run along the flattened matrix, one absmax per block."""
    before, _ = apply("canonicalize", captured(TwoLinears(64)))
    after, remarks = apply("quantize-frozen", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, quantized
  input   input_ids           i64[N, T]
  input   attention_mask      i64[N, T]
  input   positions           i64[N, S]
  input   targets             i64[N, S, C]
  frozen  embed.weight        f32[7, 64]
  frozen  fc.weight.codes     u8[2048]      nf4 of fc.weight
  frozen  fc.weight.absmax    f32[64]       nf4 of fc.weight
  frozen  head.weight.codes   u8[224]       nf4 of head.weight
  frozen  head.weight.absmax  f32[7]        nf4 of head.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 64]
  %1 = zofx.linear_nf4(%0, fc.weight.codes, fc.weight.absmax, None, 64, 64)   : f32[N, T, 64]
  %2 = aten.relu(%1)   : f32[N, T, 64]
  %3 = zofx.linear_nf4(%2, head.weight.codes, head.weight.absmax, None, 7, 64)   : f32[N, T, 7]
  %4 = zofx.select_positions(%3, positions)   : f32[N, S, 7]
  %5 = zofx.score_targets(%4, targets)   : f32[N, C]
  return %5
remarks
  applied  fc.weight   nf4, 4.50 bits per weight
  applied  head.weight   nf4, 4.50 bits per weight
""",
    )
    assert_same_meaning(spelled_out(before, after), after, batch())


def test_codebook_with_slice() -> None:
    """Sixteen centroids a row."""
    chosen = with_scores(selected(captured(OneLinear()), fc_weight=[1, 6]), FC)
    before, _ = apply("split-sparse", chosen)
    after, remarks = apply("quantize-frozen{format=codebook}", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, quantized, sliced
  input      input_ids            i64[N, T]
  input      attention_mask       i64[N, T]
  input      positions            i64[N, S]
  input      targets              i64[N, S, C]
  frozen     embed.weight         f32[7, 4]
  frozen     fc.bias              f32[7]
  index      fc.weight.index      i32[2]        index of fc.weight
  trainable  fc.weight.slice      f32[2]        slice of fc.weight
  frozen     fc.weight.codes      u8[7, 2]      codebook of fc.weight
  frozen     fc.weight.centroids  f32[7, 16]    codebook of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = zofx.linear_codebook(%0, fc.weight.codes, fc.weight.centroids, fc.bias)   : f32[N, T, 7]
  %2 = zofx.sparse_linear(%0, fc.weight.slice, fc.weight.index, 7, 2, 1)   : f32[N, T, 7]
  %3 = aten.add.Tensor(%1, %2)   : f32[N, T, 7]
  %4 = zofx.select_positions(%3, positions)   : f32[N, S, 7]
  %5 = zofx.score_targets(%4, targets)   : f32[N, C]
  return %5
remarks
  applied  fc.weight   codebook, 132.00 bits per weight
""",
    )
    assert_same_meaning(spelled_out(before, after), after, batch())


def test_int8_row_with_bias_and_slice() -> None:
    """Codes are [in, out], with a scale for each row; the product takes no other number."""
    chosen = selected(captured(OneLinear(6)), fc_weight=[1, 6, 27])
    before, _ = apply("split-sparse", chosen)
    after, remarks = apply("quantize-frozen{format=int8-row}", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, quantized, row-scaled, sliced
  input      input_ids         i64[N, T]
  input      attention_mask    i64[N, T]
  input      positions         i64[N, S]
  input      targets           i64[N, S, C]
  frozen     embed.weight      f32[7, 6]
  frozen     fc.bias           f32[7]
  index      fc.weight.index   i32[3]        index of fc.weight
  trainable  fc.weight.slice   f32[3]        slice of fc.weight
  frozen     fc.weight.codes   i8[6, 7]      int8-row of fc.weight
  frozen     fc.weight.scales  f32[7]        int8-row of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 6]
  %1 = zofx.linear_int8(%0, fc.weight.codes, fc.weight.scales, fc.bias)   : f32[N, T, 7]
  %2 = zofx.sparse_linear(%0, fc.weight.slice, fc.weight.index, 7, 3, 1)   : f32[N, T, 7]
  %3 = aten.add.Tensor(%1, %2)   : f32[N, T, 7]
  %4 = zofx.select_positions(%3, positions)   : f32[N, S, 7]
  %5 = zofx.score_targets(%4, targets)   : f32[N, C]
  return %5
remarks
  applied  fc.weight   int8-row, 13.33 bits per weight
""",
    )
    assert_same_meaning(spelled_out(before, after), after, batch())


def test_a_turned_weight_is_quantized_as_out_in() -> None:
    """GPT-2's NAME.T: blocks run along its inputs; remarked under that name."""
    turned, _ = apply("canonicalize", captured(Gpt2Linear(width=32), integers=False))
    after, remarks = apply("quantize-frozen{format=int8}", turned)
    assert list(map(str, remarks)) == ["applied  fc.weight.T   int8, 9.25 bits per weight"]
    assert after.tensors["fc.weight.T.codes"].shape == (7, 1, 32)
    assert after.tensors["fc.weight.T.codes"].origin == "fc.weight.T"


def test_skips_a_tied_weight() -> None:
    """Quantizing the head would quantize the embedding; the layer before it is quantized."""
    before, _ = apply("canonicalize", captured(Tied(32)))
    after, remarks = apply("quantize-frozen{format=int4}", before)
    assert list(map(str, remarks)) == [
        "skipped  embed.weight   also used by aten.embedding.default: it stays whole",
        "applied  fc.weight   int4, 5.25 bits per weight",
    ]
    assert torch.equal(after.load("embed.weight"), before.load("embed.weight"))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_table_keeps_its_16_bits(stored: torch.dtype) -> None:
    """The matrix next to it is quantized from what was stored."""
    before, _ = apply("canonicalize", captured(OneLinear(32), integers=False, stored=stored))
    after, remarks = apply("quantize-frozen{format=int4}", before)
    short = {torch.float16: "f16", torch.bfloat16: "bf16"}[stored]
    assert_golden(
        show(after, remarks).replace(str(stored)[6:], "HALF").replace(short, "HALF"),
        """\
program                                  facts: block-scaled, canonical, quantized
  input   input_ids         i64[N, T]
  input   attention_mask    i64[N, T]
  input   positions         i64[N, S]
  input   targets           i64[N, S, C]
  frozen  embed.weight      HALF[7, 32]
  frozen  fc.bias           f32[7]
  frozen  fc.weight.codes   u8[7, 1, 16]  int4 of fc.weight
  frozen  fc.weight.scales  f32[7, 1]     int4 of fc.weight
  frozen  fc.weight.zeros   u8[7, 1]      int4 of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : HALF[N, T, 32]
  %1 = aten._to_copy(%0, dtype=f32)   : f32[N, T, 32]
  %2 = zofx.linear_int(%1, fc.weight.codes, fc.weight.scales, fc.weight.zeros, fc.bias, 4)   : f32[N, T, 7]
  %3 = zofx.select_positions(%2, positions)   : f32[N, S, 7]
  %4 = zofx.score_targets(%3, targets)   : f32[N, C]
  return %4
remarks
  applied  fc.weight   int4, 5.25 bits per weight
  applied  embed.weight   HALF, as in the checkpoint
""",
    )
    assert before.tensors["embed.weight"].dtype is torch.float32
    assert torch.equal(after.load("embed.weight").float(), before.load("embed.weight"))
    assert_same_meaning(spelled_out(before, after), after, batch())


@pytest.mark.parametrize(
    ("toy", "text"),
    [
        (Tied, "canonicalize"),
        (OneLinear, "canonicalize, select-parameters{match=embed}, split-dense"),
    ],
)
def test_other_tables_stay_whole(toy: Any, text: str) -> None:
    """One that is the head too is multiplied in f32, and one that trains moves in f32."""
    before, _ = apply(text, captured(toy(32), stored=torch.bfloat16))
    after, _ = apply("quantize-frozen{format=int4}", before)
    tables = {name: s.dtype for name, s in after.tensors.items() if name.startswith("embed")}
    assert set(tables.values()) == {torch.float32}


def test_skips_rows_that_blocks_do_not_divide() -> None:
    """The whole program is as it was, and the remark says why."""
    before, _ = apply("canonicalize", captured(OneLinear(24)))
    after, remarks = apply("quantize-frozen{format=int4}", before)
    assert list(map(str, remarks)) == ["skipped  fc.weight   in=24 is not a multiple of block=32"]
    assert show(after) == show(before).replace("canonical", "block-scaled, canonical, quantized")
    assert torch.equal(run(after, batch()), run(before, batch()))


def test_leaves_the_program_it_started_from_alone(sliced: Program) -> None:
    """The corrected slice of a codebook belongs to the new program only."""
    text, values = show(sliced), sliced.load(f"{FC}.slice")
    after, _ = apply("quantize-frozen{format=codebook}", sliced)
    assert show(sliced) == text
    assert torch.equal(sliced.load(f"{FC}.slice"), values)
    assert not torch.equal(after.load(f"{FC}.slice"), values)


@pytest.mark.parametrize("form", tuple(FORMATS))
def test_parts_can_be_read_in_any_order_and_again(sliced: Program, form: str) -> None:
    """Codes and scales come from one computation, yet each recipe stands alone."""
    after, _ = apply(f"quantize-frozen{{format={form}}}", sliced)
    names = [name for name in after.tensors if name.startswith(FC)]
    forwards = {name: after.load(name) for name in names}
    backwards = {name: after.load(name) for name in reversed(names)}
    assert all(torch.equal(forwards[name], backwards[name]) for name in names)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("block=24", "quantize-frozen{block=24}: block must be a power of two, 32 to 4096"),
        ("block=8", "quantize-frozen{block=8}: block must be a power of two, 32 to 4096"),
        ("block=-32", "quantize-frozen{block=-32}: block must be a power of two, 32 to 4096"),
        (
            "format=int4 block=8",
            "quantize-frozen{format=int4 block=8}: block must be a power of two, 16 to 4096",
        ),
        (
            "block=8192",
            "quantize-frozen{block=8192}: block must be a power of two, 32 to 4096",
        ),
        (
            "format=codebook block=32",
            "quantize-frozen{format=codebook block=32}: codebook has no blocks, its numbers "
            "belong to rows; drop block",
        ),
        (
            "format=int8-row block=32",
            "quantize-frozen{format=int8-row block=32}: int8-row has no blocks, its numbers "
            "belong to rows; drop block",
        ),
        (
            "format=fp8",
            "quantize-frozen{format=fp8}: must be one of nf4, int4, int8, int8-row, codebook, q8_0, q4_0",
        ),
        ("block=big", "quantize-frozen{block=big}: must be of type int"),
    ],
)
def test_options_out_of_range(dense: Program, option: str, message: str) -> None:
    """A wrong option stops before anything runs."""
    with pytest.raises(PipelineError) as caught:
        apply(f"quantize-frozen{{{option}}}", dense)
    assert str(caught.value) == message


def test_a_codebook_needs_scores(dense: Program) -> None:
    """Its k-means is weighted by them."""
    after, _ = apply("quantize-frozen{format=codebook}", dense.with_(scores={}))
    with pytest.raises(
        UsageError, match=r"there are no scores for 'fc.weight'; give --calibration"
    ):
        after.load(f"{FC}.codes")


def test_a_weight_is_not_stored_twice() -> None:
    """The fact this pass establishes: codes instead of the weight, not beside it."""
    before, _ = apply("canonicalize", captured(TwoLinears(64)))
    after, _ = apply("quantize-frozen", before)
    assert QUANTIZED.check(after) is None
    beside = after.with_(tensors={**after.tensors, FC: before.tensors[FC]})
    assert QUANTIZED.check(beside) == "fc.weight is there both quantized and whole"

"""narrow-vocabulary: any injection of tokens into rows, and which programs know no better."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.golden import (
    UNIT,
    Inputs,
    apply,
    assert_golden,
    assert_same_meaning,
    batch,
    captured,
    logits,
    run,
)
from tests.passes.probing import PERTURB, never
from tests.passes.toys import VOCABULARY, Masked, Tied, Toy, TwoLinears
from zofx.errors import PipelineError
from zofx.ir.pipeline import Remark
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.schema import VOCABULARY as VOCABULARY_ROLES
from zofx.ir.schema import Role

NARROWED = "canonicalize, narrow-positions"
TOKENS = torch.tensor([5, 0, 3, 6])
"""Those of a batch, in the order of its rows."""


class Capped(Toy):
    """Logits that are scaled and squashed one by one: x·Wᵀ + b, W the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4, bias=False)
        self.bias = nn.Parameter(torch.empty(VOCABULARY))

    def logits(self, x: Tensor) -> Any:
        y = nn.functional.linear(self.fc(x), self.embed.weight, self.bias)
        return (y / 30).tanh() * 30


class Softened(Capped):
    """Logits that depend on each other."""

    def logits(self, x: Tensor) -> Any:
        return super().logits(x).softmax(-1)


class Weighed(TwoLinears):
    """A table that is looked up and multiplied below the head."""

    def logits(self, x: Tensor) -> Any:
        return self.head(x + nn.functional.linear(x, self.embed.weight).sum(-1, keepdim=True))


class Longer(TwoLinears):
    """More tokens to read than to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY + 1, 4)


class TwoHeads(TwoLinears):
    """A head that is multiplied twice."""

    def logits(self, x: Tensor) -> Any:
        return self.head(self.fc(x) + self.head(x).sum(-1, keepdim=True))


def trained(toy: nn.Module, match: str, *more: str, integers: bool = True) -> Program:
    """A toy some of whose tensors train under probes."""
    probed = f"select-parameters{{match={match}}}, split-dense, {PERTURB}, stack-probes"
    program, _ = apply(", ".join([NARROWED, probed, *more]), captured(toy, integers=integers))
    return program


def narrowed(program: Program) -> Program:
    """What the pass makes of it."""
    return apply("narrow-vocabulary", program)[0]


def of_its_tokens(program: Program, inputs: Inputs) -> tuple[Program, Inputs]:
    """A program whose tables are the rows of `TOKENS`, and the inputs numbered by them."""

    def only(name: str) -> Any:
        return lambda: program.load(name)[TOKENS]

    tables = {s.name: s for s in program.tensors.values() if s.role in VOCABULARY_ROLES}
    few = {n: replace(s, shape=(len(TOKENS), *s.shape[1:])) for n, s in tables.items()}
    scored = any(s.role is Role.HEAD for s in tables.values())
    place = torch.full((VOCABULARY + 1,), -100)  # the last is that of −1: what is not scored
    place[TOKENS] = torch.arange(len(TOKENS))
    numbered = {**inputs, "input_ids": place[inputs["input_ids"]]}
    if scored:
        numbered["targets"] = place[inputs["targets"].clamp(min=-1)]
    data = {**program.data, **{name: only(name) for name in tables}}
    return program.with_(tensors={**program.tensors, **few}, data=data), numbered


def few_tokens() -> dict[str, Tensor]:
    """Inputs of `TOKENS` alone; every alternative of a row is scored at the same positions."""
    inputs = batch(coefficients=[[0.25], [-0.5]])
    ids, targets = (TOKENS[inputs[name] % len(TOKENS)] for name in ("input_ids", "targets"))
    targets[0, 1] = -100
    return {**inputs, "input_ids": ids, "targets": targets}


def test_a_tied_table() -> None:
    """Looked up and multiplied: one table with free rows, the logits as wide."""
    before = trained(Tied(), "fc")
    after, remarks = apply("narrow-vocabulary", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, narrowed, perturbed, sliced, stacked
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  input      keys            i64[Q, 2]
  input      coefficients    f32[P, Q]
  head       embed.weight    f32[V, 4]
  trainable  fc.weight       f32[4, 4]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = zofx.select_positions(%0, positions)   : f32[N, S, 4]
  %2 = zofx.direction(keys, None, fc.weight, [4, 4], rademacher)   : f32[Q, 4, 4]
  %3 = zofx.perturb(fc.weight, %2, coefficients)   : f32[P, 4, 4]
  %4 = zofx.replicate(%1, coefficients)   : f32[P*N, S, 4]
  %5 = zofx.probe_linear(%4, %3)   : f32[P*N, S, 4]
  %6 = aten.linear(%5, embed.weight)   : f32[P*N, S, V]
  %7 = zofx.replicate(targets, coefficients)   : i64[P*N, S, C]
  %8 = zofx.score_targets(%6, %7)   : f32[P*N, C]
  %9 = zofx.split_probes(%8, coefficients)   : f32[P, N, C]
  return %9
remarks
  applied  embed.weight   any of its 7 rows, as a head
""",
    )
    assert_same_meaning(before, after, few_tokens())


def test_a_head_of_its_own() -> None:
    """Two tables of the same tokens."""
    before = trained(TwoLinears(), "fc")
    after, remarks = apply("narrow-vocabulary", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, narrowed, perturbed, sliced, stacked
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  input      keys            i64[Q, 2]
  input      coefficients    f32[P, Q]
  table      embed.weight    f32[V, 4]
  trainable  fc.weight       f32[4, 4]
  head       head.weight     f32[V, 4]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = zofx.select_positions(%0, positions)   : f32[N, S, 4]
  %2 = zofx.direction(keys, None, fc.weight, [4, 4], rademacher)   : f32[Q, 4, 4]
  %3 = zofx.perturb(fc.weight, %2, coefficients)   : f32[P, 4, 4]
  %4 = zofx.replicate(%1, coefficients)   : f32[P*N, S, 4]
  %5 = zofx.probe_linear(%4, %3)   : f32[P*N, S, 4]
  %6 = aten.relu(%5)   : f32[P*N, S, 4]
  %7 = aten.linear(%6, head.weight)   : f32[P*N, S, V]
  %8 = zofx.replicate(targets, coefficients)   : i64[P*N, S, C]
  %9 = zofx.score_targets(%7, %8)   : f32[P*N, C]
  %10 = zofx.split_probes(%9, coefficients)   : f32[P, N, C]
  return %10
remarks
  applied  embed.weight   any of its 7 rows, as a table
  applied  head.weight   any of its 7 rows, as a head
""",
    )
    assert_same_meaning(before, after, few_tokens())


@pytest.mark.parametrize("toy", [Tied, TwoLinears, Capped])
def test_a_few_rows_say_what_all_do(toy: type[Toy]) -> None:
    """Tokens numbered anew: the same logits, and scores that differ by one number per row.

    The logsumexp is one f32 in every score of a row. What is rounded besides: the difference, its
    mean over two positions (product, sum, quotient), in both programs and for both of a pair.
    """
    whole, inputs = trained(toy(), "fc", "narrow-vocabulary"), few_tokens()
    few, numbered = of_its_tokens(whole, inputs)
    assert_same_logits(logits(few, numbered), logits(whole, inputs)[..., TOKENS])
    expected, actual = run(whole, inputs), run(few, numbered)
    apart = actual - expected
    bound = 2 * 2 * 4 * UNIT * torch.maximum(expected.abs(), actual.abs()).max()
    assert (apart.amax(-1) - apart.amin(-1) <= bound).all()
    assert (apart.abs() > bound).any()  # four tokens are not seven


def assert_same_logits(actual: Tensor, expected: Tensor) -> None:
    """Bit for bit."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("toy", "match", "passes", "why"),
    [
        (TwoLinears, "head", (), "zofx.probe_linear.default makes the logits"),
        (Longer, "fc", (), "7 and 8 rows are not the same tokens"),
        (TwoHeads, "fc", (), "aten.linear.default reads it as well"),
        (TwoLinears, "fc", ("quantize-frozen{format=int8-row}",), "zofx.linear_int8.default makes"),
    ],
)
def test_a_table_that_is_only_looked_up(
    toy: type[Toy], match: str, passes: tuple[str, ...], why: str
) -> None:
    """Where the head has to be whole, tokens to read are numbered anew and scores stay."""
    before = trained(toy(), match, *passes)
    after, remarks = apply("narrow-vocabulary", before)
    (skipped, applied) = map(str, remarks)
    assert skipped.startswith(f"skipped  head   {why}")
    assert applied.startswith("applied  embed.weight   any of its")
    assert applied.endswith("rows, as a table")
    few, numbered = of_its_tokens(after, few_tokens())
    assert torch.equal(run(few, numbered), run(before, few_tokens()))


@pytest.mark.parametrize(
    ("toy", "match", "subject", "why"),
    [
        (Masked, "fc", "input_ids", "aten.gt.Scalar does more than look up a frozen row"),
        (
            TwoLinears, "embed", "input_ids",
            "zofx.probe_embedding.default does more than look up a frozen row",
        ),
        (Weighed, "head", "input_ids", "aten.linear.default reads a table as a whole"),
        (Softened, "fc", "input_ids", "aten.linear.default reads a table as a whole"),
    ],
)  # fmt: skip
def test_tokens_that_are_more_than_names(
    toy: type[Toy], match: str, subject: str, why: str
) -> None:
    """The program stays as it is, and the remark says what stands in the way."""
    before = trained(toy(), match)
    after, remarks = apply("narrow-vocabulary", before)
    assert show(after) == show(before)
    assert remarks[-1] == Remark(subject, "skipped", why)


def test_it_is_pure_and_lazy() -> None:
    """The program before prints the same afterwards, and no recipe has run."""
    before = trained(Tied(), "fc")
    untouched = before.with_(data=dict.fromkeys(before.data, never))
    printed = show(before)
    narrowed(untouched)
    assert show(before) == printed


def test_its_place_in_a_pipeline() -> None:
    """Unscored positions have to be gone."""
    with pytest.raises(PipelineError, match="needs a program that is 'narrowed'"):
        apply("canonicalize, narrow-vocabulary", captured(Tied()))

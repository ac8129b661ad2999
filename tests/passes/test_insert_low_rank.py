# ruff: noqa: E501  (lines of printed programs)
"""insert-low-rank: a matrix trains through its coordinates in a basis beside it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden import apply, assert_golden, assert_same_meaning, batch, decided, run, with_scores
from tests.passes.toys import Doubled, OneLinear, Shared, Tied, Toy, TwoLinears, canonical
from zofx.errors import PipelineError
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.schema import Form, Role
from zofx.passes import PASSES
from zofx.zo.random.direction_spec import Basis, Noise
from zofx.zo.random.low_rank_bases import orthonormal_rows, refresh
from zofx.zo.random.noise import Stream, sample
from zofx.zo.types import Key


class Mixed(Toy):
    """A thick matrix, and thinner ones, one with a bias."""

    def __init__(self) -> None:
        super().__init__(width=6)
        self.fc = nn.Linear(6, 5)
        self.head = nn.Linear(5, 7, bias=False)

    def logits(self, x: Tensor) -> Any:
        return self.head(self.fc(x))


BASES, SIDES = ("refreshed", "fixed"), ("one", "two")


def chosen(toy: type[Toy], match: str = ".") -> Program:
    after, _ = apply(f"select-parameters{{match={match}}}", canonical(toy))
    return after


def whole_numbers(program: Program) -> Program:
    """A and the factors small integers, so that f32 sums of their products are exact."""
    data = dict(program.data)
    for seed, spec in enumerate(program.tensors.values()):
        if ".slice" in spec.name:
            random = torch.Generator().manual_seed(seed)
            data[spec.name] = torch.randint(-2, 3, spec.shape, generator=random).float().clone
    return program.with_(data=data)


def multiplied(before: Program, after: Program) -> Program:
    """The program before, each W replaced by W + gain · left · A · right."""
    data = dict(before.data)
    for name, basis in after.bases.items():
        matrix = str(after.tensors[name].origin)
        left = after.load(basis.left) if basis.left else torch.eye(before.tensors[matrix].shape[0])
        product = left @ after.load(name) @ after.load(basis.right)
        data[matrix] = (before.load(matrix) + basis.gain * product).clone
    return before.with_(data=data)


def test_a_basis_that_is_refreshed() -> None:
    """A beside W, for a tied head and embedding alike; W, V are state; a small matrix is left."""
    before = chosen(Tied)
    after, remarks = apply("insert-low-rank{rank=2}", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, chosen, refreshed, sliced
  input      input_ids                 i64[N, T]
  input      attention_mask            i64[N, T]
  input      positions                 i64[N, S]
  input      targets                   i64[N, S, C]
  state      embed.weight              f32[7, 4]
  state      fc.weight                 f32[4, 4]
  trainable  embed.weight.slice        f32[7, 2]     low-rank of embed.weight
  state      embed.weight.slice.right  f32[2, 4]     right of embed.weight
  trainable  fc.weight.slice           f32[4, 2]     low-rank of fc.weight
  state      fc.weight.slice.right     f32[2, 4]     right of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.embedding(embed.weight.slice, input_ids)   : f32[N, T, 2]
  %2 = aten.matmul(%1, embed.weight.slice.right)   : f32[N, T, 4]
  %3 = aten.add.Tensor(%0, %2)   : f32[N, T, 4]
  %4 = aten.linear(%3, fc.weight)   : f32[N, T, 4]
  %5 = aten.linear(%3, fc.weight.slice.right)   : f32[N, T, 2]
  %6 = aten.linear(%5, fc.weight.slice)   : f32[N, T, 4]
  %7 = aten.add.Tensor(%4, %6)   : f32[N, T, 4]
  %8 = aten.linear(%7, embed.weight)   : f32[N, T, 7]
  %9 = aten.linear(%7, embed.weight.slice.right)   : f32[N, T, 2]
  %10 = aten.linear(%9, embed.weight.slice)   : f32[N, T, 7]
  %11 = aten.add.Tensor(%8, %10)   : f32[N, T, 7]
  %12 = zofx.select_positions(%11, positions)   : f32[N, S, 7]
  %13 = zofx.score_targets(%12, targets)   : f32[N, C]
  return %13
remarks
  applied  matrices   2 of rank 2, basis refreshed
""",
    )
    assert after.bases == {
        f"{name}.slice": Basis(f"{name}.slice.right", name)
        for name in ("embed.weight", "fc.weight")
    }
    assert_same_meaning(before, after, batch())


def test_a_basis_that_is_fixed_on_both_sides() -> None:
    """A [r, r] between two frozen factors; W is frozen too; vectors stay chosen."""
    before = chosen(Tied, "embed")
    text = "insert-low-rank{basis=fixed sides=two gain=norm orthonormal=true}"
    after, remarks = apply(text, before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, chosen, sliced
  input      input_ids                 i64[N, T]
  input      attention_mask            i64[N, T]
  input      positions                 i64[N, S]
  input      targets                   i64[N, S, C]
  frozen     embed.weight              f32[7, 4]
  frozen     fc.weight                 f32[4, 4]
  trainable  embed.weight.slice        f32[2, 2]     low-rank of embed.weight
  frozen     embed.weight.slice.right  f32[2, 4]     right of embed.weight
  frozen     embed.weight.slice.left   f32[7, 2]     left of embed.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.embedding(embed.weight.slice.left, input_ids)   : f32[N, T, 2]
  %2 = aten.t(embed.weight.slice)   : f32[2, 2]
  %3 = aten.linear(%1, %2)   : f32[N, T, 2]
  %4 = aten.matmul(%3, embed.weight.slice.right)   : f32[N, T, 4]
  %5 = aten.mul.Tensor(%4, 2.6457513110645907)   : f32[N, T, 4]
  %6 = aten.add.Tensor(%0, %5)   : f32[N, T, 4]
  %7 = aten.linear(%6, fc.weight)   : f32[N, T, 4]
  %8 = aten.linear(%7, embed.weight)   : f32[N, T, 7]
  %9 = aten.linear(%7, embed.weight.slice.right)   : f32[N, T, 2]
  %10 = aten.linear(%9, embed.weight.slice)   : f32[N, T, 2]
  %11 = aten.linear(%10, embed.weight.slice.left)   : f32[N, T, 7]
  %12 = aten.mul.Tensor(%11, 2.6457513110645907)   : f32[N, T, 7]
  %13 = aten.add.Tensor(%8, %12)   : f32[N, T, 7]
  %14 = zofx.select_positions(%13, positions)   : f32[N, S, 7]
  %15 = zofx.score_targets(%14, targets)   : f32[N, C]
  return %15
remarks
  applied  matrices   1 of rank 2, basis fixed
""",
    )
    assert_same_meaning(before, after, batch())


@pytest.mark.parametrize("toy", [OneLinear, TwoLinears, Tied, Shared])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("basis", BASES)
def test_begins_as_the_program_before(toy: type[Toy], basis: str, sides: str) -> None:
    """A is zero: the same bits, whatever the factors are."""
    before = chosen(toy)
    after, _ = apply(f"insert-low-rank{{basis={basis} sides={sides}}}", before)
    assert all(not after.load(name).any() for name in after.bases)
    assert_same_meaning(before, after, batch())


@pytest.mark.parametrize("toy", [OneLinear, TwoLinears, Tied, Shared])
@pytest.mark.parametrize("gain", ["1", "1/r"])
@pytest.mark.parametrize("sides", SIDES)
def test_stands_for_a_sum(toy: type[Toy], sides: str, gain: str) -> None:
    """W + gain · left · A · right in every linear and lookup of W, in exact numbers."""
    before = chosen(toy)
    inserted, _ = apply(f"insert-low-rank{{sides={sides} gain={gain}}}", before)
    after = whole_numbers(inserted)
    assert len(after.bases) == len(
        [n for n in decided(before, "whole") if before.tensors[n].shape[1:]]
    )
    assert_same_meaning(multiplied(before, after), after, batch())
    assert not torch.equal(run(after, batch()), run(before, batch()))


@pytest.mark.parametrize(
    ("gain", "number"), [("1", 1.0), ("1/r", 1 / 3), ("norm", float(np.sqrt(7 * 4)) / 3)]
)
def test_gains(gain: str, number: float) -> None:
    """LOZO's code, its paper, SubZero: what a basis says is what the graph multiplies by."""
    after, _ = apply(f"insert-low-rank{{rank=3 gain={gain}}}", chosen(OneLinear, "fc.w"))
    assert after.bases["fc.weight.slice"].gain == pytest.approx(number, rel=1e-15)
    scaled = after.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    assert [node.args[1] for node in scaled] == [pytest.approx(number)] * (gain != "1")


@pytest.mark.parametrize("orthonormal", ["false", "true"])
def test_a_fixed_basis_is_the_draw_of_its_seed(orthonormal: str) -> None:
    """What numpy draws for the trainable's name, and what a refresh of that key would draw."""
    options = f"rank=3 sides=two orthonormal={orthonormal}"
    fixed, _ = apply(f"insert-low-rank{{{options} basis=fixed seed=4}}", chosen(OneLinear, "fc.w"))
    name, key = "fc.weight.slice", Key(4, 0)
    right = sample("gaussian", key, name, (3, 4), Stream.V)
    left = sample("gaussian", key, name, (3, 7), Stream.U)
    if orthonormal == "true":
        right, left = orthonormal_rows(right), orthonormal_rows(left)
    np.testing.assert_array_equal(fixed.load(f"{name}.right").numpy(), right)
    np.testing.assert_array_equal(fixed.load(f"{name}.left").numpy(), left.T)

    drawn, _ = apply(f"insert-low-rank{{{options}}}", chosen(OneLinear, "fc.w"))
    state = {n: drawn.load(n).numpy().copy() for n in drawn.tensors if n.startswith("fc.weight")}
    assert not state[f"{name}.right"].any()
    refresh(state, Noise("gaussian", bases=drawn.bases), key)
    for factor in (f"{name}.right", f"{name}.left"):
        np.testing.assert_array_equal(state[factor], fixed.load(factor).numpy())


def test_vectors_and_small_matrices_stay_chosen() -> None:
    """Another pass trains them whole; a matrix with a side of r has nothing to gain."""
    before = chosen(Mixed)
    after, remarks = apply("insert-low-rank{rank=5}", before)
    assert decided(after, "whole").keys() == {"fc.weight", "fc.bias", "head.weight"}
    assert [*after.bases] == ["embed.weight.slice"]
    assert list(map(str, remarks)) == ["applied  matrices   1 of rank 5, basis refreshed"]
    both, _ = apply("split-dense", after)
    assert {spec.name for spec in both.trainables} == {*decided(after, "whole"), *after.bases}
    assert_same_meaning(before, both, batch())


def test_a_matrix_that_something_else_reads_is_left() -> None:
    """With the reason; the others are done."""
    after, remarks = apply("insert-low-rank", chosen(Doubled, "weight"))
    assert list(map(str, remarks)) == [
        "skipped  fc.weight   read by aten.mul.Tensor: it has no low-rank form",
        "applied  matrices   1 of rank 2, basis refreshed",
    ]
    assert decided(after, "whole").keys() == {"fc.weight"}
    assert [*after.bases] == ["embed.weight.slice"]


@pytest.mark.parametrize("basis", BASES)
def test_is_lazy_and_pure(basis: str) -> None:
    """No data is made for it, and what was given prints as before."""

    def never() -> Tensor:
        raise AssertionError("a pass makes no data")

    before = chosen(Tied)
    text = show(before)
    lazy = before.with_(data=dict.fromkeys(before.data, never))
    after, _ = apply(f"insert-low-rank{{basis={basis} orthonormal=true}}", lazy)
    assert show(before) == text
    roles = {spec.role for spec in after.tensors.values()}
    assert roles == {Role.TRAINABLE, Role.FROZEN if basis == "fixed" else Role.STATE}


def test_frozen_factors_are_not_quantized() -> None:
    """A merge reads them; only the matrix beside them is stored in fewer bits."""

    class Wide(OneLinear):
        def __init__(self) -> None:
            super().__init__(width=64)

    text = "select-parameters{match=fc.w}, insert-low-rank{basis=fixed sides=two}, quantize-frozen"
    after, remarks = apply(text, canonical(Wide))
    assert "fc.weight.codes" in after.tensors
    assert [str(remark) for remark in remarks if remark.verdict == "skipped"] == [
        "skipped  fc.weight.slice.right   a factor of rank 2: it stays whole",
        "skipped  fc.weight.slice.left   a factor of rank 2: it stays whole",
    ]


def test_coordinates_stay_zero_beside_a_codebook() -> None:
    """A codebook moves its error to entries that were cut out; coordinates in a basis are none."""
    start = with_scores(chosen(OneLinear, "fc.w"), "fc.weight")
    after, _ = apply("insert-low-rank{rank=2 basis=fixed}, quantize-frozen{format=codebook}", start)
    assert after.derived("fc.weight", Form.SLICE) is None
    trained = after.derived("fc.weight", Form.LOW_RANK)
    assert trained is not None
    assert not after.load(trained.name).any()
    assert len(after.load("fc.weight.codes")) == start.tensors["fc.weight"].shape[0]


def test_text_reads_back() -> None:
    """Every option, in the pipeline's own words."""
    text = "insert-low-rank{rank=8 basis=fixed sides=two gain=norm orthonormal=true seed=3}"
    assert str(Pipeline.parse(text, PASSES)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("insert-low-rank{rank=0}", "insert-low-rank.rank=0: must be at least 1"),
        ("insert-low-rank{rank=two}", "insert-low-rank{rank=two}: must be of type int"),
        (
            "insert-low-rank{basis=new}",
            "insert-low-rank{basis=new}: must be one of refreshed, fixed",
        ),
        ("insert-low-rank{gain=2}", "insert-low-rank{gain=2}: must be one of 1, 1/r, norm"),
        (
            "select-parameters, insert-low-rank{rank=4}",
            "insert-low-rank.rank=4: no chosen matrix has both sides above the rank and is read by "
            "linears and lookups alone; lower the rank or choose more parameters",
        ),
        (
            "insert-low-rank",
            "pass 0 (insert-low-rank) needs a program that is 'chosen', and nothing before it makes "
            "it so; add a pass that makes it so",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    """Options, and the order."""
    with pytest.raises(PipelineError) as caught:
        apply(text, canonical(OneLinear))
    assert str(caught.value) == message

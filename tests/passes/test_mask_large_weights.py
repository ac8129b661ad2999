# ruff: noqa: E501  (lines of printed programs)
"""mask-large-weights: weights that are small now move, the others rest."""

import numpy as np
import pytest

from tests.golden import KEY, apply, assert_golden, assert_same_meaning, batch
from tests.passes.probing import PERTURB, assert_a_probe_is_a_move, dense, directions
from tests.passes.toys import Normed, OneLinear, Tied, Toy, canonical
from zofx.errors import PipelineError
from zofx.ir.directions import noise_of
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.passes import PASSES
from zofx.zo.random.direction_spec import DirectionSpec
from zofx.zo.types import FloatArray


def limit_by_hand(weight: FloatArray, fraction: float) -> np.float32:
    """The round(fraction · n)-th smallest magnitude."""
    magnitudes = np.sort(np.abs(weight), axis=None)
    smallest: np.float32 = magnitudes[max(1, round(fraction * weight.size)) - 1]
    return smallest


def test_masks_the_directions_of_matrices() -> None:
    """The threshold is a number of the graph, the mask is made of θ; a vector moves whole."""
    before, _ = apply(PERTURB, dense(OneLinear, "fc"))
    after, remarks = apply("mask-large-weights{fraction=0.25}", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, perturbed, sliced
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  input      keys            i64[Q, 2]
  input      coefficients    f32[Q]
  frozen     embed.weight    f32[7, 4]
  trainable  fc.weight       f32[7, 4]
  trainable  fc.bias         f32[7]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = zofx.direction(keys, None, fc.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %2 = zofx.mask_small(%1, fc.weight, 1.0)   : f32[Q, 7, 4]
  %3 = zofx.perturb(fc.weight, %2, coefficients)   : f32[7, 4]
  %4 = aten.linear(%0, %3)   : f32[N, T, 7]
  %5 = zofx.direction(keys, None, fc.bias, [7], rademacher)   : f32[Q, 7]
  %6 = zofx.perturb(fc.bias, %5, coefficients)   : f32[7]
  %7 = aten.add.Tensor(%4, %6)   : f32[N, T, 7]
  %8 = zofx.select_positions(%7, positions)   : f32[N, S, 7]
  %9 = zofx.score_targets(%8, targets)   : f32[N, C]
  return %9
remarks
  applied  trainables   1 matrices, 0.25 of each is small
""",
    )
    assert_same_meaning(before, after, batch(coefficients=[0.0]))


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("toy", [OneLinear, Tied, Normed])
def test_that_many_weights_move(toy: type[Toy], fraction: float) -> None:
    """Of each matrix, those of the smallest magnitudes; their z is the one of before."""
    sliced = dense(toy, integers=False)
    before, _ = apply(PERTURB, sliced)
    after, _ = apply(f"mask-large-weights{{fraction={fraction}}}", before)
    plain, masked = directions(before, KEY), directions(after, KEY)
    for spec in sliced.trainables:
        weight = sliced.load(spec.name).numpy()
        small = np.abs(weight) <= limit_by_hand(weight, fraction)
        if weight.ndim == 1:
            small[...] = True
        else:
            assert np.count_nonzero(small) == max(1, round(fraction * weight.size))
        np.testing.assert_array_equal(masked[spec.name], np.where(small, plain[spec.name], 0))
    assert_a_probe_is_a_move(sliced, after)


def test_equal_magnitudes_go_together() -> None:
    """Whole numbers: all that equal the threshold move, in whatever sign."""
    after, _ = apply(f"{PERTURB}, mask-large-weights", dense(OneLinear, "fc.w"))
    weight = after.load("fc.weight").abs()
    limit = noise_of(after).specs["fc.weight"].limit
    assert limit is not None
    assert limit == limit_by_hand(weight.numpy(), 0.2)
    moved = np.count_nonzero(directions(after, KEY)["fc.weight"])
    assert moved == int((weight <= limit).sum()) > round(0.2 * weight.numel())


def test_the_mask_follows_the_weights() -> None:
    """One that grows over the threshold rests, one that shrinks moves; the threshold stays."""
    after, _ = apply(f"{PERTURB}, mask-large-weights", dense(OneLinear, "fc.w", integers=False))
    limit = noise_of(after).specs["fc.weight"].limit
    assert limit is not None
    other = after.load("fc.weight").flip(0, 1) * 2
    turned = after.with_(data={**after.data, "fc.weight": other.clone})
    direction = directions(turned, KEY)["fc.weight"][0]
    np.testing.assert_array_equal(direction != 0, other.abs().numpy() <= np.float32(limit))
    assert 0 < np.count_nonzero(direction) < round(0.2 * direction.size)


def test_the_law_has_the_limit() -> None:
    """Of matrices alone, as the float32 it is compared as."""
    specs = noise_of(apply(f"{PERTURB}, mask-large-weights", dense(Normed))[0]).specs
    assert specs.keys() == {"embed.weight", "fc.weight", "head.weight"}
    for spec in specs.values():
        assert spec == DirectionSpec("rademacher", limit=spec.limit)
        assert spec.limit == np.float32(spec.limit)


def test_text_and_purity() -> None:
    """The option reads back; what was given prints as before."""
    text = "mask-large-weights{fraction=0.3}"
    assert str(Pipeline.parse(text, PASSES)) == text
    before, _ = apply(PERTURB, dense(OneLinear))
    printed = show(before)
    apply(text, before)
    assert show(before) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mask-large-weights{fraction=0}", "mask-large-weights.fraction=0.0: must be in (0, 1]"),
        ("mask-large-weights{fraction=1.5}", "mask-large-weights.fraction=1.5: must be in (0, 1]"),
        (
            "mask-large-weights{fraction=few}",
            "mask-large-weights{fraction=few}: must be of type float",
        ),
        (
            "mask-large-weights",
            "pass 0 (mask-large-weights) needs a program that is 'perturbed', and nothing before it makes "
            "it so; add a pass that makes it so",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    """Options, and the order."""
    with pytest.raises(PipelineError) as caught:
        apply(text, canonical(OneLinear))
    assert str(caught.value) == message

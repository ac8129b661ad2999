"""mask-directions: a random part of each trainable is perturbed, the same for some steps."""

import numpy as np
import pytest

from tests.golden import KEY, apply, assert_golden, assert_same_meaning, batch
from tests.passes.probing import PERTURB, assert_a_probe_is_a_move, dense, directions
from tests.passes.toys import Normed, OneLinear, Tied, Toy, canonical
from tests.zo.random.test_direction_spec import mask_by_hand
from zofx.errors import PipelineError
from zofx.ir.directions import noise_of
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.passes import PASSES
from zofx.zo.random.direction_spec import KEEP_ALL, DirectionSpec, RandomMask
from zofx.zo.types import Key


def test_masks_every_draw() -> None:
    """Vectors too; the mask is a function of the keys."""
    before, _ = apply(PERTURB, dense(OneLinear, "fc"))
    after, remarks = apply("mask-directions{keep=0.25 interval=10}", before)
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
  %2 = zofx.mask_random(%1, keys, fc.weight, 16384, 10)   : f32[Q, 7, 4]
  %3 = zofx.perturb(fc.weight, %2, coefficients)   : f32[7, 4]
  %4 = aten.linear(%0, %3)   : f32[N, T, 7]
  %5 = zofx.direction(keys, None, fc.bias, [7], rademacher)   : f32[Q, 7]
  %6 = zofx.mask_random(%5, keys, fc.bias, 16384, 10)   : f32[Q, 7]
  %7 = zofx.perturb(fc.bias, %6, coefficients)   : f32[7]
  %8 = aten.add.Tensor(%4, %7)   : f32[N, T, 7]
  %9 = zofx.select_positions(%8, positions)   : f32[N, S, 7]
  %10 = zofx.score_targets(%9, targets)   : f32[N, C]
  return %10
remarks
  applied  trainables   2 trainables, 0.25 to 0.25 of each, for 10 steps
""",
    )
    assert_same_meaning(before, after, batch(coefficients=[0.0]))


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("interval", [0, 10])
@pytest.mark.parametrize("toy", [OneLinear, Tied, Normed])
def test_zero_where_numpy_says_so(toy: type[Toy], interval: int, noise: str) -> None:
    """16 bits of stream 3 below keep · 2¹⁶, for keys of several steps and queries."""
    sliced = dense(toy, integers=False)
    before, _ = apply(f"insert-perturbation{{noise={noise}}}", sliced)
    after, _ = apply(f"mask-directions{{keep=0.4 interval={interval}}}", before)
    keys = (KEY, Key(KEY.seed, 9, 2), Key(KEY.seed, 10), Key(2**63 + 5, 123, 1))
    plain, masked = directions(before, *keys), directions(after, *keys)
    mask = RandomMask(round(0.4 * KEEP_ALL), interval)
    for name, z in plain.items():
        for query, key in enumerate(keys):
            kept = mask_by_hand(key, name, mask, z[0].size).reshape(z[0].shape)
            np.testing.assert_array_equal(masked[name][query], np.where(kept, z[query], 0))
    assert_a_probe_is_a_move(sliced, after)


def test_a_global_share_goes_by_magnitude() -> None:
    """Each trainable keeps, at random, the share of its weights among the largest of all."""
    sliced = dense(Normed, integers=False)
    after, (_, remark) = apply(f"{PERTURB}, mask-directions{{keep=0.3 scope=global}}", sliced)
    weights = {spec.name: np.abs(sliced.load(spec.name).numpy()) for spec in sliced.trainables}
    every = np.sort(np.concatenate([w.reshape(-1) for w in weights.values()]))
    limit = every[round(0.7 * every.size)]
    shares = {name: np.mean(w >= limit) for name, w in weights.items()}
    assert noise_of(after).specs == {
        name: DirectionSpec("rademacher", mask=RandomMask(round(share * KEEP_ALL)))
        for name, share in shares.items()
    }
    kept = sum(share * weights[name].size for name, share in shares.items())
    assert kept == pytest.approx(every.size - round(0.7 * every.size))
    spread = f"{min(shares.values()):.3g} to {max(shares.values()):.3g}"
    assert remark.why == f"7 trainables, {spread} of each, for the run"
    assert len(set(shares.values())) > 2


@pytest.mark.parametrize("scope", ["trainable", "global"])
def test_keeping_all_masks_nothing(scope: str) -> None:
    """Every 16-bit number is below 2¹⁶."""
    before, _ = apply(PERTURB, dense(OneLinear))
    after, _ = apply(f"mask-directions{{keep=1 scope={scope}}}", before)
    assert_same_meaning(before, after, batch(coefficients=[0.5]))


STATE = "scale-directions, mask-large-weights"
KEYED = "alternate-blocks{by=query}, mask-directions{keep=0.5}"


def test_stands_next_to_the_draw() -> None:
    """What depends on keys alone comes before what depends on θ, in whatever order they ran.

    An engine is fed the draw with its masks; what is made of it after that is in its own graph.
    """
    before, _ = apply(PERTURB, dense(OneLinear, "fc.w", integers=False))
    late, _ = apply(f"{STATE}, {KEYED}", before)
    early, _ = apply(f"{KEYED}, {STATE}", before)
    assert_golden(
        show(late),
        """\
program                                  facts: canonical, perturbed, sliced
  input      input_ids        i64[N, T]
  input      attention_mask   i64[N, T]
  input      positions        i64[N, S]
  input      targets          i64[N, S, C]
  input      keys             i64[Q, 2]
  input      coefficients     f32[Q]
  frozen     embed.weight     f32[7, 4]
  trainable  fc.weight        f32[7, 4]
  frozen     fc.bias          f32[7]
  state      fc.weight.scale  f32[7, 4]     computed of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = zofx.direction(keys, None, fc.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %2 = zofx.mask_turn(%1, keys, 0, 1, query)   : f32[Q, 7, 4]
  %3 = zofx.mask_random(%2, keys, fc.weight, 32768, 0)   : f32[Q, 7, 4]
  %4 = aten.mul.Tensor(%3, fc.weight.scale)   : f32[Q, 7, 4]
  %5 = zofx.mask_small(%4, fc.weight, 0.30670419335365295)   : f32[Q, 7, 4]
  %6 = zofx.perturb(fc.weight, %5, coefficients)   : f32[7, 4]
  %7 = aten.linear(%0, %6)   : f32[N, T, 7]
  %8 = aten.add.Tensor(%7, fc.bias)   : f32[N, T, 7]
  %9 = zofx.select_positions(%8, positions)   : f32[N, S, 7]
  %10 = zofx.score_targets(%9, targets)   : f32[N, C]
  return %10
""",
    )
    assert noise_of(late) == noise_of(early)
    keys = [Key(1, 2, query) for query in range(3)]
    for name, z in directions(early, *keys).items():
        np.testing.assert_array_equal(directions(late, *keys)[name], z)
    assert_a_probe_is_a_move(dense(OneLinear, "fc.w", integers=False), late)


def test_text_and_purity() -> None:
    """The options read back; what was given prints as before."""
    text = "mask-directions{keep=0.5 interval=100 scope=global}"
    assert str(Pipeline.parse(text, PASSES)) == text
    before, _ = apply(PERTURB, dense(OneLinear))
    printed = show(before)
    apply(text, before)
    assert show(before) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mask-directions{keep=0}",
            "mask-directions{keep=0.0 interval=0}: keep must be in (0, 1] and interval a number of "
            "steps",
        ),
        (
            "mask-directions{interval=-1}",
            "mask-directions{keep=0.8 interval=-1}: keep must be in (0, 1] and interval a number "
            "of steps",
        ),
        (
            "mask-directions{scope=all}",
            "mask-directions{scope=all}: must be one of trainable, global",
        ),
        (
            "mask-directions",
            "pass 0 (mask-directions) needs a program that is 'perturbed', and nothing before it "
            "makes it so; add a pass that makes it so",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    """Options, and the order."""
    with pytest.raises(PipelineError) as caught:
        apply(text, canonical(OneLinear))
    assert str(caught.value) == message

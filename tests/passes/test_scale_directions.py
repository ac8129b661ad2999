"""scale-directions: every direction is multiplied by a tensor that a session keeps."""

import numpy as np
import pytest
import torch

from tests.golden import KEY, apply, assert_golden, assert_same_meaning, batch
from tests.passes.probing import PERTURB, assert_a_probe_is_a_move, dense, directions, never
from tests.passes.toys import Normed, OneLinear, Tied, canonical
from zofx.errors import PipelineError
from zofx.ir.directions import noise_of
from zofx.ir.printer import show
from zofx.zo.random.direction_spec import DirectionSpec


def test_a_scale_beside_every_slice() -> None:
    """State of the trainable's shape, one at first: the same program, bit for bit, under any
    probe."""
    before, _ = apply(PERTURB, dense(OneLinear, "fc"))
    after, remarks = apply("scale-directions", before)
    assert_golden(
        show(after, remarks),
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
  trainable  fc.bias          f32[7]
  state      fc.weight.scale  f32[7, 4]     computed of fc.weight
  state      fc.bias.scale    f32[7]        computed of fc.bias
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = zofx.direction(keys, None, fc.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %2 = aten.mul.Tensor(%1, fc.weight.scale)   : f32[Q, 7, 4]
  %3 = zofx.perturb(fc.weight, %2, coefficients)   : f32[7, 4]
  %4 = aten.linear(%0, %3)   : f32[N, T, 7]
  %5 = zofx.direction(keys, None, fc.bias, [7], rademacher)   : f32[Q, 7]
  %6 = aten.mul.Tensor(%5, fc.bias.scale)   : f32[Q, 7]
  %7 = zofx.perturb(fc.bias, %6, coefficients)   : f32[7]
  %8 = aten.add.Tensor(%4, %7)   : f32[N, T, 7]
  %9 = zofx.select_positions(%8, positions)   : f32[N, S, 7]
  %10 = zofx.score_targets(%9, targets)   : f32[N, C]
  return %10
remarks
  applied  trainables   2 trainables, as much memory again
""",
    )
    for coefficient in (0.0, 0.25, -0.7):
        assert_same_meaning(before, after, batch(coefficients=[coefficient]))


@pytest.mark.parametrize("toy", [OneLinear, Tied, Normed])
def test_a_direction_is_z_times_its_scale(toy: type[OneLinear]) -> None:
    """In f32, element by element; a probe is a move along it."""
    sliced = dense(toy, integers=False)
    before, _ = apply("insert-perturbation", sliced)
    after, _ = apply("scale-directions", before)
    scales = {
        f"{spec.name}.scale": torch.rand(spec.shape, generator=torch.Generator().manual_seed(seed))
        for seed, spec in enumerate(after.trainables)
    }
    scaled = after.with_(data={**after.data, **{n: s.clone for n, s in scales.items()}})
    plain, scaled_directions = directions(before, KEY), directions(scaled, KEY)
    for name, z in plain.items():
        np.testing.assert_array_equal(scaled_directions[name], z * scales[f"{name}.scale"].numpy())
    assert_a_probe_is_a_move(sliced, scaled)


def test_the_law_names_the_scale() -> None:
    """The manifest says what multiplies z."""
    after, _ = apply(f"{PERTURB}, scale-directions", dense(OneLinear, "fc"))
    assert noise_of(after).specs == {
        name: DirectionSpec("rademacher", scale=f"{name}.scale")
        for name in ("fc.weight", "fc.bias")
    }


def test_is_lazy_and_pure() -> None:
    """No data is made for it, and what was given prints as before."""
    before, _ = apply(PERTURB, dense(OneLinear))
    text = show(before)
    apply("scale-directions", before.with_(data=dict.fromkeys(before.data, never)))
    assert show(before) == text


def test_needs_directions() -> None:
    """The order is checked before anything runs."""
    with pytest.raises(PipelineError, match=r"pass 0 \(scale-directions\) needs .* 'perturbed'"):
        apply("scale-directions", canonical(OneLinear))

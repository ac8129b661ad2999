"""insert-perturbation: trainables are read through θ + Σ c·z, and z is what numpy says it is."""

import numpy as np
import pytest
import torch

from tests.golden import (
    KEY,
    UNIT,
    Inputs,
    apply,
    assert_golden,
    assert_same_meaning,
    batch,
    captured,
    run,
    selected,
    values,
)
from tests.passes.toys import OneLinear, Shared, TwoLinears
from zofx.errors import PipelineError
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.zo.random.noise import normal_table, sample
from zofx.zo.types import Key

NOISES = ["gaussian", "rademacher"]


@pytest.fixture(scope="module")
def sliced() -> Program:
    """Two trainables with values that f32 has to round."""
    before = captured(TwoLinears(width=8), integers=False)
    chosen = selected(before, fc_weight=[1, 6, 27], head_weight=[0, 9, 10, 11, 50])
    after, _ = apply("split-sparse", chosen)
    return after


def z(noise: str, query: int, name: str, size: int) -> torch.Tensor:
    """The direction as a driver on numpy makes it."""
    table = normal_table() if noise == "gaussian" else None
    key = Key(KEY.seed, KEY.step, query)
    return torch.from_numpy(sample(noise, key, name, (size,), table=table))  # type: ignore[arg-type]


def moved(program: Program, noise: str, coefficient: float) -> Program:
    """Every trainable replaced by θ + c·z: f32 product, f32 sum."""
    data = dict(program.data)
    for spec in program.trainables:
        step = torch.tensor(coefficient) * z(noise, 0, spec.name, spec.size)
        theta = program.load(spec.name) + step
        data[spec.name] = theta.clone
    return program.with_(data=data)


def test_adds_keys_coefficients_and_the_table() -> None:
    """One direction and one perturbation per trainable; the quantiles are data."""
    before, _ = apply("split-sparse", selected(captured(OneLinear()), fc_weight=[1, 6, 27]))
    after, remarks = apply("insert-perturbation", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, perturbed, sliced
  input      input_ids           i64[N, T]
  input      attention_mask      i64[N, T]
  input      positions           i64[N, S]
  input      targets             i64[N, S, C]
  input      keys                i64[Q, 2]
  input      coefficients        f32[Q]
  frozen     embed.weight        f32[7, 4]
  frozen     fc.weight           f32[7, 4]
  frozen     fc.bias             f32[7]
  index      fc.weight.index     i32[3]        index of fc.weight
  trainable  fc.weight.slice     f32[3]        slice of fc.weight
  frozen     noise.normal_table  f32[65536]
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %1 = aten.linear(%0, fc.weight, fc.bias)   : f32[N, T, 7]
  %2 = zofx.direction(keys, noise.normal_table, fc.weight.slice, [3], gaussian)   : f32[Q, 3]
  %3 = zofx.perturb(fc.weight.slice, %2, coefficients)   : f32[3]
  %4 = zofx.sparse_linear(%0, %3, fc.weight.index, 7, 3, 1)   : f32[N, T, 7]
  %5 = aten.add.Tensor(%1, %4)   : f32[N, T, 7]
  %6 = zofx.select_positions(%5, positions)   : f32[N, S, 7]
  %7 = zofx.score_targets(%6, targets)   : f32[N, C]
  return %7
remarks
  applied  trainables   gaussian, 1 trainables
""",
    )
    assert_same_meaning(before, after, batch(coefficients=[0.0]))


def test_signs_need_no_table_and_a_shared_slice_is_perturbed_once() -> None:
    """Both uses of a layer see the same z."""
    before, _ = apply("split-sparse", selected(captured(Shared()), fc_weight=[3, 40]))
    after, remarks = apply("insert-perturbation{noise=rademacher}", before)
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
  frozen     embed.weight     f32[7, 7]
  frozen     fc.weight        f32[7, 7]
  index      fc.weight.index  i32[2]        index of fc.weight
  trainable  fc.weight.slice  f32[2]        slice of fc.weight
body
  %0 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 7]
  %1 = aten.linear(%0, fc.weight)   : f32[N, T, 7]
  %2 = zofx.direction(keys, None, fc.weight.slice, [2], rademacher)   : f32[Q, 2]
  %3 = zofx.perturb(fc.weight.slice, %2, coefficients)   : f32[2]
  %4 = zofx.sparse_linear(%0, %3, fc.weight.index, 7, 2, 1)   : f32[N, T, 7]
  %5 = aten.add.Tensor(%1, %4)   : f32[N, T, 7]
  %6 = aten.linear(%5, fc.weight)   : f32[N, T, 7]
  %7 = zofx.sparse_linear(%5, %3, fc.weight.index, 7, 2, 1)   : f32[N, T, 7]
  %8 = aten.add.Tensor(%6, %7)   : f32[N, T, 7]
  %9 = zofx.select_positions(%8, positions)   : f32[N, S, 7]
  %10 = zofx.score_targets(%9, targets)   : f32[N, C]
  return %10
remarks
  applied  trainables   rademacher, 1 trainables
""",
    )
    assert_same_meaning(before, after, batch(coefficients=[0.0]))


@pytest.mark.parametrize("noise", NOISES)
def test_a_coefficient_of_zero_is_bit_equal(sliced: Program, noise: str) -> None:
    """DirectionSpec 2, on values that round."""
    after, _ = apply(f"insert-perturbation{{noise={noise}}}", sliced)
    assert_same_meaning(sliced, after, batch(coefficients=[0.0]))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("coefficient", [1e-3, -0.7])
def test_equals_moving_the_slices_by_hand(sliced: Program, noise: str, coefficient: float) -> None:
    """DirectionSpec 3: bit for bit what a driver gets that moves θ by c·z and evaluates."""
    after, _ = apply(f"insert-perturbation{{noise={noise}}}", sliced)
    inputs = batch(coefficients=[coefficient])
    by_hand = moved(sliced, noise, coefficient)
    assert_same_meaning(by_hand, after, inputs)
    assert not torch.equal(run(after, inputs), run(sliced, inputs))


def perturbed_values(program: Program, inputs: Inputs, name: str) -> torch.Tensor:
    (node,) = [
        n
        for n in program.graph.find_nodes(op="call_function", target=torch.ops.zofx.perturb.default)
        if n.args[0].target == name
    ]
    value: torch.Tensor = values(program, inputs)[node]
    return value


def test_several_directions_add_up(sliced: Program) -> None:
    """θ + Σ_q c_q·z_q in f32: at most Q + 1 roundings of each term."""
    after, _ = apply("insert-perturbation", sliced)
    coefficients = [0.1, -0.3, 0.7]
    for spec in sliced.trainables:
        got = perturbed_values(after, batch(coefficients=coefficients), spec.name)
        terms = [c * z("gaussian", q, spec.name, spec.size) for q, c in enumerate(coefficients)]
        theta = sliced.load(spec.name).double()
        exact = theta + sum(
            float(np.float32(c)) * z("gaussian", q, spec.name, spec.size).double()
            for q, c in enumerate(coefficients)
        )
        bound = (len(terms) + 2) * UNIT * (theta.abs() + sum(term.abs() for term in terms))
        assert ((got - exact).abs() <= bound).all()


def test_slices_get_directions_of_their_own(sliced: Program) -> None:
    """The name decides: equal positions of two trainables move differently."""
    after, _ = apply("insert-perturbation", sliced)
    inputs = batch(coefficients=[1.0])
    steps = [
        perturbed_values(after, inputs, spec.name)[:3] - sliced.load(spec.name)[:3]
        for spec in sliced.trainables
    ]
    assert not torch.allclose(steps[0], steps[1])


def test_needs_slices() -> None:
    """Nothing to perturb is an error of the order."""
    with pytest.raises(PipelineError, match=r"pass 0 \(insert-perturbation\) needs .* 'sliced'"):
        apply("insert-perturbation", captured(OneLinear()))


def test_knows_two_distributions() -> None:
    """The message lists them."""
    with pytest.raises(PipelineError) as caught:
        apply("insert-perturbation{noise=uniform}", captured(OneLinear()))
    assert str(caught.value) == (
        "insert-perturbation{noise=uniform}: must be one of gaussian, rademacher"
    )

"""Programs with trainables read under probes, and what their directions are.

directions(program, keys)[slice]        f32[Q, *shape], op by op
assert_a_probe_is_a_move(…)             invariant 3: θ + c·z in the graph is a move on the host
"""

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden import KEY, apply, assert_same_meaning, batch, run, values
from tests.passes.toys import canonical
from zofx.ir.directions import directions_of, noise_of
from zofx.ir.formats import row_int8
from zofx.ir.program import Program
from zofx.zo.random.apply import apply_rays
from zofx.zo.types import FloatArray, Key, Ray, key_words

PERTURB = "insert-perturbation{noise=rademacher}"
IN_ROWS = f"quantize-frozen{{format=int8-row}}, {PERTURB}, stack-probes, split-base-probe"
"""Up to where quantize-activations can begin."""


def dense(toy: type[nn.Module], match: str = ".", *, integers: bool = True) -> Program:
    """A toy whose tensors of these names train whole."""
    text = f"select-parameters{{match={match}}}, split-dense"
    after, _ = apply(text, canonical(toy, integers=integers))
    return after


def directions(program: Program, *keys: Key) -> dict[str, FloatArray]:
    """Every trainable's direction under some keys, f32[Q, *shape]."""
    words = torch.from_numpy(key_words(keys).view(np.int64))
    values_of = values(program, {**batch(coefficients=[0.0] * len(keys)), "keys": words})
    return {name: values_of[node].numpy() for name, node in directions_of(program.graph)}


def moved(before: Program, after: Program, coefficient: float) -> Program:
    """The program before, θ moved on the host as the directions of the program after have it."""
    state = {spec.name: after.load(spec.name).numpy().copy() for spec in after.tensors.values()}
    rays = [Ray(KEY, float(np.float32(coefficient)))]
    apply_rays(state, [spec.name for spec in after.trainables], rays, noise_of(after))
    data = {s.name: torch.from_numpy(state[s.name]).clone for s in before.trainables}
    return before.with_(data={**before.data, **data})


def assert_a_probe_is_a_move(before: Program, after: Program, coefficient: float = -0.7) -> None:
    """Bit for bit; and c = 0 is the program before."""
    inputs = batch(coefficients=[coefficient])
    by_hand = moved(before, after, coefficient)
    assert_same_meaning(by_hand, after, inputs)
    assert not torch.equal(run(after, inputs), run(before, inputs))
    assert_same_meaning(before, after, batch(coefficients=[0.0]))


def frozen_rows(program: Program, name: str = "fc.weight") -> Tensor:
    """Ŵ of a matrix in int8-row: f32[out, in]."""
    stored = (program.load(f"{name}.{part}") for part in ("codes", "scales"))
    return row_int8.dequantize(row_int8.Rows(*stored))


def never() -> Tensor:
    """A recipe that no pass may follow."""
    raise AssertionError("a pass makes no data")

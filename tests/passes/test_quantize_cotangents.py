"""quantize-cotangents: products of cotangents as products of integers, within the bound."""

import pytest
import torch

from tests.golden import UNIT, apply, batch, captured, selected, values
from tests.passes.probing import frozen_rows
from tests.passes.toys import TwoLinears
from zofx.errors import PipelineError
from zofx.ir.pipeline import Pipeline
from zofx.ir.program import Program
from zofx.ir.schema import COTANGENT
from zofx.passes import PASSES

ops = torch.ops.zofx
TEXT = (
    "split-sparse, quantize-frozen{format=int8-row}, hybrid-first-order{layers=all}, reverse-mode"
)


def joint() -> Program:
    """Two matrices in int8-row, with a few trained entries in the first."""
    program, _ = apply("canonicalize, narrow-positions", captured(TwoLinears(8), integers=False))
    after, _ = apply(TEXT, selected(program, fc_weight=[1, 9, 20]))
    return after


def test_every_product_is_within_the_bound() -> None:
    """t/2 · Σ_o |codes|, and what float32 rounds; the scores stay bit for bit."""
    before = joint()
    after, remarks = apply("quantize-cotangents", before)
    inputs = {**batch(), COTANGENT: torch.randn(3, 4, generator=torch.Generator().manual_seed(0))}
    own, plain = values(after, inputs), values(before, inputs)
    (rounded,) = after.graph.find_nodes(
        op="call_function", target=ops.linear_rounded_transpose.default
    )
    (exact,) = before.graph.find_nodes(op="call_function", target=ops.linear_int8_transpose.default)
    assert str(remarks[-1]) == "applied  products   1 of cotangents, as integers"
    _, steps, codes = (own[node] for node in rounded.args)
    size = plain[exact.args[0]].abs() @ frozen_rows(before, "head.weight").abs()
    bound = steps / 2 * codes.abs().float().sum(1) + 32 * UNIT * size
    error = (own[rounded] - plain[exact]).abs()
    assert error.max() > 0
    assert (error <= bound).all()
    scores = ops.score_targets.default
    (of_own,) = after.graph.find_nodes(op="call_function", target=scores)
    (of_plain,) = before.graph.find_nodes(op="call_function", target=scores)
    assert torch.equal(own[of_own], plain[of_plain])


def test_comes_after_the_matrices() -> None:
    """A pipeline in another order is refused before anything runs."""
    with pytest.raises(PipelineError, match="needs a program that is 'quantized'"):
        Pipeline.parse("canonicalize, quantize-cotangents", PASSES).check_order()

"""What exact gradients take, against what a session really keeps between its two graphs."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import loads, tiny
from zofx.compiler.compile import compile_model
from zofx.compiler.exact import rewrite, settings_for
from zofx.compiler.forecast.exact_gradient import ExactGradientCost
from zofx.compiler.forecast.forecast import forecast
from zofx.compiler.forecast.machine_speed import Rates
from zofx.compiler.forecast.op_costs import Axes
from zofx.compiler.frontend import captured
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options, pipeline_for
from zofx.ir.program import Program
from zofx.models.checkpoint import open_checkpoint
from zofx.runtimes import ort
from zofx.runtimes.ort_gradient import OrtGradient
from zofx.session import RESIDUAL_POSITIONS

METHOD = METHODS["senszoq"]
ROWS, TOKENS, SCORED, ALTERNATIVES = 3, 16, 2, 5
RATES = Rates(flops=1e9, integers=4e9, normals=1e6, bandwidth=1e9)


def options(quant: str = "int8-row") -> Options:
    """Adapters beside every matrix of two layers."""
    return Options(
        quant, train="lora", exact_layers="all",
        settings=("insert-lora.match=.", "insert-lora.rank=2"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers."""
    return tiny.tiny_llama(tmp_path_factory.mktemp("exact") / "llama", 2)


def programs(folder: Path, chosen: Options) -> tuple[Program, Program]:
    """The scores' own, and the joint one."""
    program, joint = rewrite(
        pipeline_for(METHOD, chosen), captured(open_checkpoint(str(folder)), chosen)
    )
    assert joint is not None
    return program, joint


def cost(joint: Program, rows: int, tokens: int = TOKENS) -> ExactGradientCost:
    """Of a step."""
    axes = Axes(rows, tokens, SCORED, ALTERNATIVES, 1, 0, min(tiny.VOCABULARY, rows * tokens))
    return ExactGradientCost(joint, axes, "ort")


def test_residuals_are_those_that_an_engine_returns(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte."""
    _, joint = programs(llama, options())
    compile_model(open_checkpoint(str(llama)), METHOD, tmp_path / "art", options=options())
    returned: list[int] = []
    forward = OrtGradient.forward

    def watched(engine: OrtGradient, feeds: dict[str, Any]) -> Any:
        scores, residuals = forward(engine, feeds)
        returned.append(sum(value.numpy().nbytes for value in residuals.values()))
        return scores, residuals

    monkeypatch.setattr(OrtGradient, "forward", watched)
    batch = loads.batch(ROWS, TOKENS, SCORED, ALTERNATIVES)
    with closing(ort.RUNTIME.load(tmp_path / "art", threads=1, rows=ROWS)) as session:
        session.gradient(batch, np.ones_like)  # type: ignore[attr-defined]
    assert returned == [cost(joint, ROWS).residuals]


def test_products_are_those_of_the_matrices(llama: Path) -> None:
    """Forward and cotangents, by hand; the last layer's are of scored positions where they can be.

    Values are multiplied by their codes twice in the forward, for what the first rounding left.
    """
    _, joint = programs(llama, options())
    query, key, value, out, inner = 32 * 32, 32 * 16, 32 * 16, 32 * 32, 3 * 32 * 64
    head = 32 * tiny.VOCABULARY
    words, scored = ROWS * TOKENS, ROWS * SCORED
    forward = words * (query + key + 2 * value) * 2
    forward += (words + scored) * (out + inner) + scored * head
    backward = words * (query + key + value)  # of the second layer: no adapter is before the first
    backward += (words + scored) * (out + inner) + scored * head
    assert cost(joint, ROWS).integer == forward + backward


def test_memory_does_not_grow_with_the_batch(llama: Path) -> None:
    """A part of it is in work at a time; longer rows leave more behind, row by row."""
    _, joint = programs(llama, options())
    most = RESIDUAL_POSITIONS // TOKENS
    assert [cost(joint, rows).rows for rows in (1, most, 10 * most)] == [1, most, most]
    assert cost(joint, most).passing() == cost(joint, 10 * most).passing()
    assert cost(joint, 1, 2 * RESIDUAL_POSITIONS).rows == 1


def test_parts_of_a_forecast(llama: Path) -> None:
    """The backward graph has weights of its own; there is no probe to pay for."""
    program, joint = programs(llama, options())
    settings = settings_for(METHOD.settings, "all")
    parts = forecast(program, settings, joint=joint, tokens=TOKENS, rates=RATES)
    stays = {part.name: part.amount for part in parts.stays}
    trained = sum(spec.nbytes for spec in joint.tensors.values() if spec.role == "exact")
    assert stays["gradients"] == 2 * trained
    assert stays["state of their rule"] == 2 * trained  # Adam's moments
    plain = replace(settings, exact_rule="")
    without = forecast(program, plain, joint=joint, tokens=TOKENS, rates=RATES)
    assert {part.name: part.amount for part in without.stays}["state of their rule"] == 0
    assert 0 < stays["weights of the gradient"] <= stays["frozen weights"] + stays["tables"]
    assert [part.name for part in parts.comes] == ["gradient"]
    assert parts.flops > 0
    assert parts.seconds > 0

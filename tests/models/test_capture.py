"""Captured programs: what eager transformers computes, traced without any weight."""

import resource
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel

from tests.golden import UNIT, logits, run
from tests.models.architectures import (
    CONFIGS,
    SHAPES,
    VOCABULARY,
    eager,
    inputs,
    recipes,
    scored,
    weights,
)
from tests.passes.toys import OneLinear, Toy
from zofx.errors import CaptureError
from zofx.ir.program import Program
from zofx.ir.schema import INPUTS, Role
from zofx.models.capture import capture
from zofx.models.checkpoint import Architecture, architecture_of, build_on_meta


def eager_logits(model: PreTrainedModel, given: dict[str, Tensor], causal: bool) -> Tensor:
    """What transformers says at the scored positions, [N, S, V]."""
    mask = given["attention_mask"]
    more = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if causal else {}
    with torch.no_grad():
        whole: Tensor = model(input_ids=given["input_ids"], attention_mask=mask, **more).logits
    return whole[torch.arange(len(mask))[:, None], given["positions"]]


@pytest.fixture(scope="module", params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def architecture(name: str) -> Architecture:
    return architecture_of(name, CONFIGS[name])


@pytest.fixture(scope="module")
def program(name: str, architecture: Architecture) -> Program:
    """Traced once, from shapes."""
    model = build_on_meta(CONFIGS[name], architecture)
    return capture(model, recipes(weights(model)), causal=architecture == "causal-lm")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_program_is_what_eager_transformers_computes(
    name: str, architecture: Architecture, program: Program, shape: tuple[int, ...]
) -> None:
    """On batches of shapes it was not traced with, padded on the left, down to single tokens.

    The logits have the same bits. The scores are made of them in another order, so they may differ
    by the rounding of a few sums over the vocabulary.
    """
    given = inputs(*shape)
    wanted = eager_logits(eager(CONFIGS[name], architecture), given, architecture == "causal-lm")
    torch.testing.assert_close(logits(program, given), wanted, rtol=0, atol=0)
    actual, expected = run(program, given), scored(wanted.double(), given["targets"])
    gamma = UNIT * (VOCABULARY + 8)
    assert actual.dtype == torch.float32
    assert actual.isfinite().all()
    assert ((actual - expected).abs() <= gamma * (1 + wanted.abs().max())).all()


def test_a_program_is_data(program: Program) -> None:
    """Inputs first; every tensor is frozen, has a recipe, and comes from the model."""
    assert program.inputs == INPUTS
    assert program.data.keys() == program.tensors.keys()
    for spec in program.tensors.values():
        assert spec.role is Role.FROZEN
        assert tuple(program.load(spec.name).shape) == spec.shape


def test_tied_weights_are_one_tensor(
    name: str, architecture: Architecture, program: Program
) -> None:
    """A head that is the embedding is read under the embedding's name."""
    ties = build_on_meta(CONFIGS[name], architecture).all_tied_weights_keys
    assert ties.keys() & program.tensors.keys() == set()
    assert set(ties.values()) <= program.tensors.keys()


def test_tracing_allocates_no_weights() -> None:
    """A model of 15 GB is traced by a process whose peak memory is below a third of that."""
    wide = {"vocab_size": VOCABULARY, "hidden_size": 8192, "intermediate_size": 65536}
    config = LlamaConfig(**wide, num_hidden_layers=2, num_attention_heads=64)
    model = build_on_meta(config, "causal-lm")

    def unread() -> Tensor:
        raise AssertionError("a weight was read to trace")

    names = dict.fromkeys((n for n, _ in model.named_parameters()), unread)
    traced = capture(model, names, causal=True)
    size = sum(spec.nbytes for spec in traced.tensors.values())
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert size > 15e9
    assert peak < size / 3


class Branches(Toy):
    """Looks at a value to decide what to compute."""

    def logits(self, x: Tensor) -> Any:
        return x if x.sum() > 0 else -x


class ReadsSizes(OneLinear):
    """Works for the traced number of tokens alone."""

    def logits(self, x: Tensor) -> Any:
        return self.fc(x.view(x.shape[0], 11, -1))


@pytest.mark.parametrize("model", [Branches(7), ReadsSizes()], ids=lambda m: type(m).__name__)
def test_a_model_that_cannot_be_traced(model: Toy) -> None:
    """The error names the class and says what to check."""
    names = recipes(dict(model.named_parameters()))
    kind = type(model).__name__
    with pytest.raises(
        CaptureError, match=rf"torch\.export cannot trace {kind}: .*\n.*torch\.expor"
    ):
        capture(model.eval(), names, causal=True)


def test_a_weight_without_data() -> None:
    """A parameter that the checkpoint lacks is named."""
    model = OneLinear()
    names = recipes({n: p for n, p in model.named_parameters() if n != "fc.bias"})
    with pytest.raises(CaptureError, match=r"no data for 'fc\.bias'"):
        capture(model.eval(), names, causal=True)

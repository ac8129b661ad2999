"""Exact gradients on torch: those of the tensors that train by them, and only there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.loads import batch
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.errors import PipelineError, UnsupportedError
from zofx.models.checkpoint import open_checkpoint
from zofx.runs.prepare import prepare, prepare_resumed
from zofx.runs.tune import start, train
from zofx.runtimes import RUNTIMES
from zofx.zo.types import FloatArray

RELATIVE = 2e-5
"""Two orders of summation in float32, of at most a few hundred terms."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of three blocks, and its artifact: the last trains exactly."""
    folder = tmp_path_factory.mktemp("exact")
    checkpoint = open_checkpoint(str(tiny.tiny_llama(folder / "model", layers=3)))
    compile_model(checkpoint, METHODS["zo-hybrid"], folder / "art")
    tiny.task_file(folder / "task.jsonl")
    return folder


def test_gradients_are_those_of_the_model(compiled: Path) -> None:
    """Of the last block, the final norm and the head, as autograd has them on the checkpoint."""
    rows, weights = (
        batch(3, 9, 1, 2, "right"),
        np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32),
    )
    session = RUNTIMES["torch"].load(compiled / "art", threads=1)
    found = session.gradient(rows, lambda scores: weights)  # type: ignore[attr-defined]
    model = AutoModelForCausalLM.from_pretrained(compiled / "model").eval()
    wanted = {n: p for n, p in model.named_parameters() if "layers.2." in n or "layers" not in n}
    del wanted["model.embed_tokens.weight"]
    assert found.keys() == wanted.keys()
    scores = _scores(model, rows.named())
    torch.autograd.backward((scores * torch.from_numpy(weights)).sum())
    for name, parameter in wanted.items():
        assert parameter.grad is not None
        largest = float(parameter.grad.abs().max())
        np.testing.assert_allclose(found[name], parameter.grad, rtol=0, atol=RELATIVE * largest)


def _scores(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> torch.Tensor:
    """Mean log-probability of each alternative, differentiable."""
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    picked = logits[torch.arange(len(logits))[:, None], given["positions"]].log_softmax(-1)
    used = (given["targets"] >= 0).float()
    taken = picked.gather(-1, given["targets"].clamp(min=0)) * used
    scores: torch.Tensor = taken.sum(1) / used.sum(1).clamp(min=1)
    return scores


def test_an_inference_engine_says_why_not(compiled: Path) -> None:
    """There is no backward pass on ONNX Runtime."""
    with pytest.raises(UnsupportedError, match="train by backpropagation"):
        RUNTIMES["ort"].load(compiled / "art")


def test_an_interrupted_run_is_the_uninterrupted_one(compiled: Path, tmp_path: Path) -> None:
    """Exact gradients are in no journal: resuming computes them again, to the same bits."""
    options = {
        "task": compiled / "task.jsonl", "train": 16, "dev": 0, "runtime": "torch", "threads": 1,
        "steps": 6, "batch_size": 4, "exact_lr": 0.1,
    }  # fmt: skip

    def run(name: str, pauses: int) -> dict[str, FloatArray]:
        prepared = start(prepare(compiled / "art", options), tmp_path / name)
        session, asked = prepared.session(), iter([False] * pauses + [True])
        outcome = train(prepared, session, stop=lambda: next(asked, True))
        if outcome.steps < 6:
            assert outcome.steps > 0
            again = prepare_resumed(compiled / "art", tmp_path / name, {})
            session = again.session()
            train(again, session)
        return session.read()

    whole, parts = run("whole", 1000), run("parts", 6)
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values)
    name = "model.layers.2.mlp.up_proj.weight"
    assert not np.array_equal(whole[name], RUNTIMES["torch"].load(compiled / "art").read()[name])


@pytest.mark.parametrize("layers", [0, 3])
def test_some_blocks_go_each_way(compiled: Path, tmp_path: Path, layers: int) -> None:
    """None or all of them by exact gradients is refused."""
    options = Options(settings=[f"hybrid-first-order.layers={layers}"])
    checkpoint = open_checkpoint(str(compiled / "model"))
    with pytest.raises(PipelineError, match="at least one goes by each way"):
        compile_model(checkpoint, METHODS["zo-hybrid"], tmp_path / "art", options=options)

"""Exact gradients on every runtime: those of the artifact's program, in float64.

    CASES × RUNTIMES        |⟨w, g₃₂ − g⟩| ≤ bound        `tests.methods.backward`

The reference is torch's autograd on the plain graph, op by op in float64: neither the backward
graph nor the rules it was made by.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from tests.artifacts import made_up_scores
from tests.loads import batch
from tests.methods.backward import SmallScores, noted_gradient
from tests.methods.model import tiny_opt
from tests.runtimes import reference
from zofx.artifact import layout
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.ir.graph_json import load_graph
from zofx.ir.schema import HIDDEN
from zofx.models.checkpoint import open_checkpoint
from zofx.runs.prepare import prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.tune import start, train
from zofx.runtimes import RUNTIMES
from zofx.zo.types import FloatArray

ROWS = batch(3, 9, 2, 3, "right")
WEIGHTS = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
"""The derivative of a loss by the scores of these rows."""
SIGNS = 5
"""How many w: an error that is there is missed by all with a probability of 2⁻⁵ a tensor."""

MODELS = {
    "llama": tiny.tiny_llama, "gpt2": tiny.tiny_gpt2, "opt": tiny_opt,
    "falcon": tiny.tiny_falcon, "roberta": tiny.tiny_roberta,
}  # fmt: skip
LORA = {"method": "mezo", "train": "lora", "settings": ("insert-lora.match=.",)}
SPARSE = {"method": "senszoq", "fraction": 0.05, "activations": "none"}
WHOLE = {"method": "mezo", "train": "."}
NF4 = (*LORA["settings"], "quantize-frozen.block=32")


@dataclass(frozen=True)
class Case:
    """An artifact.

    Attributes:
        model: by name.
        quant: frozen format.
        options: what else differs from the method's own.
        layers: how many train exactly.
        from_layer: the first that trains.
    """

    model: str
    quant: str
    options: tuple[tuple[str, object], ...]
    layers: str = "all"
    from_layer: int | None = None

    def __str__(self) -> str:
        options = dict(self.options)
        cut = "" if self.from_layer is None else f"-from{self.from_layer}"
        trains = options.get("train", options["method"])
        return f"{self.model}-{self.quant}-{trains}-{self.layers}{cut}"


def case(
    model: str, quant: str, options: Mapping[str, object], *rest: object, **more: object
) -> Case:
    """A row of the table."""
    return Case(model, quant, tuple({**options, **more}.items()), *rest)  # type: ignore[arg-type]


CASES = (
    case("llama", "none", LORA),
    case("llama", "nf4", LORA, settings=NF4),
    case("llama", "int4", LORA),
    case("llama", "int8", LORA),
    case("llama", "int8-row", LORA),
    case("llama", "codebook", LORA),
    case("llama", "int4", LORA, "1"),
    case("llama", "int8", LORA, "all", 1),
    case("llama", "none", WHOLE),
    case("llama", "int4", SPARSE),
    case("llama", "int8", SPARSE, fraction=0.004, settings=("select-sensitive.cover=1",)),
    *(case(model, "int8-row", LORA) for model in ("gpt2", "opt", "falcon", "roberta")),
    *(case(model, "none", WHOLE) for model in ("gpt2", "opt", "falcon", "roberta")),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For checkpoints, artifacts and a task."""
    folder = tmp_path_factory.mktemp("exact")
    tiny.task_file(folder / "task.jsonl")
    return folder


def artifact(root: Path, case: Case) -> Path:
    """Compiled once."""
    model, folder = root / case.model, root / str(case)
    if not model.exists():
        MODELS[case.model](model, layers=2)
    if not folder.exists():
        options = dict(case.options)
        method = METHODS[str(options.pop("method"))]
        checkpoint = open_checkpoint(str(model))
        compile_model(
            checkpoint, method, folder, scores=made_up_scores(checkpoint),
            options=Options(
                quant=case.quant, from_layer=case.from_layer, exact_layers=case.layers, **options  # type: ignore[arg-type]
            ),
        )  # fmt: skip
    return folder


def somewhere(theta: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """θ a little off the start, where no factor of an adapter is zero."""
    random = np.random.default_rng(1)
    return {
        name: (values + 0.05 * random.normal(size=values.shape)).astype(np.float32)
        for name, values in theta.items()
    }


def reference_gradient(
    folder: Path, theta: Mapping[str, FloatArray], exact: Mapping[str, FloatArray]
) -> tuple[dict[str, Tensor], SmallScores]:
    """Σ weight · score, differentiated by autograd in float64; and what is rounded on the way."""
    leaves = {n: torch.from_numpy(theta[n]).double().requires_grad_() for n in exact}
    given = {
        **load_file(folder / layout.WEIGHTS),
        **{name: torch.from_numpy(values) for name, values in theta.items()},
        **{name: torch.from_numpy(values) for name, values in ROWS.named().items()},
        "keys": torch.zeros(1, 2, dtype=torch.int64),
        "coefficients": torch.zeros(1, 1),
        **leaves,
    }
    rounding = SmallScores()
    if (folder / layout.PREFIX_GRAPH).is_file():
        given[HIDDEN] = reference.run(load_graph(folder / layout.PREFIX_GRAPH), given, rounding)
    scores = reference.run(load_graph(folder / layout.GRAPH), given, rounding)
    total = (scores.reshape(WEIGHTS.shape) * torch.from_numpy(WEIGHTS)).sum()
    return noted_gradient(total, leaves, rounding), rounding


@pytest.mark.parametrize("engine", tuple(RUNTIMES))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_the_program(root: Path, case: Case, engine: str) -> None:
    """Every tensor's, along random signs, within the rounding of its two passes."""
    folder = artifact(root, case)
    session = RUNTIMES[engine].load(folder, threads=1)
    theta = somewhere(session.read())
    session.write(theta)
    gradients = session.gradient(ROWS, lambda scores: WEIGHTS)  # type: ignore[attr-defined]
    wanted, rounding = reference_gradient(folder, theta, gradients)
    assert set(gradients) == {n for n in theta if n not in session.trainables}
    random, along, own = np.random.default_rng(2), [], []
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, f"the gradient of {name} is zero"
        signs = torch.from_numpy(random.choice([-1.0, 1.0], size=(SIGNS, *gradient.shape)))
        along.append((signs * gradient).flatten(1).sum(1))
        own.append((signs * torch.from_numpy(gradients[name]).double()).flatten(1).sum(1))
    allowed = rounding.bound(torch.cat(along)).view(-1, SIGNS)
    error = (torch.stack(own) - torch.stack(along)).abs()
    wrong = [name for name, fits in zip(wanted, (error <= allowed).all(1), strict=True) if not fits]
    assert not wrong, f"{wrong}: off by {(error / allowed).max():.2g} of what is allowed"
    assert (allowed < 1e-2 * torch.stack(along).abs().max()).all(), "the bound says nothing"
    session.close()


RUNS = {
    "hybrid": Options(),
    "adapters": Options(train="lora", exact_layers="all", activations="int8"),
    "cut": Options(train="lora", exact_layers="all", activations="int8", from_layer=1),
}


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_is_the_uninterrupted_one(
    root: Path, tmp_path: Path, name: str, kept: bool
) -> None:
    """From the state that it kept; without that, exact gradients are computed again."""
    folder = root / f"run-{name}"
    if not folder.exists():
        model = root / "llama"
        if not model.exists():
            tiny.tiny_llama(model, layers=2)
        method = METHODS["zo-hybrid" if name == "hybrid" else "mezo"]
        compile_model(open_checkpoint(str(model)), method, folder, options=RUNS[name])
    task = tiny.task_file(tmp_path / "task.jsonl")
    options = {
        "task": task, "train": 16, "dev": 4, "eval_every": 2, "runtime": "ort",
        "threads": 1, "steps": 6, "batch_size": 4, "exact_rule": "adam()",
    }  # fmt: skip

    def run(place: str, pauses: int) -> dict[str, FloatArray]:
        prepared = start(prepare(folder, options), tmp_path / place)
        session, asked = prepared.session(), iter([False] * pauses + [True])
        outcome = train(prepared, session, stop=lambda: next(asked, True))
        if outcome.steps < 6:
            assert outcome.steps > 0
            if not kept:
                (tmp_path / place / "state.safetensors").unlink()
            again = prepare_resumed(folder, tmp_path / place, {})
            session = again.session()
            train(again, session)
        return session.read()

    whole, parts = run("whole", 1000), run("parts", 8)
    for tensor, values in whole.items():
        np.testing.assert_array_equal(parts[tensor], values)
    first = RUNTIMES["ort"].load(folder, threads=1).read()
    assert any(not np.array_equal(whole[tensor], first[tensor]) for tensor in whole)

"""Scores of a task are autograd's, and a mask's shares of them are what sorting by hand gives."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from tests import tiny
from zofx.artifact.manifest import read_manifest
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.compiler.sensitivity.mask_coverage import Share, coverage, read_mask
from zofx.compiler.sensitivity.measure import task_sensitivity
from zofx.compiler.sensitivity.scores import Provenance, Scores
from zofx.errors import UsageError
from zofx.models.checkpoint import Checkpoint, open_checkpoint
from zofx.runs.compiled_model import open_model
from zofx.tasks.conventions import encoder_for
from zofx.tasks.encode import Encoder
from zofx.tasks.objectives import OBJECTIVES, objective_for
from zofx.tasks.selection import TaskChoice, open_task
from zofx.tasks.types import Example

MASK = 4
RELATIVE = 2e-5
"""Two orders of float32 summation: padding and parts of a batch add some hundreds of terms in
another order, each within 2⁻²⁴ of the largest; a square doubles that."""

WORD_CHOICE = [
    Example("the film was a joy so it was", (" bad", " good"), 1),
    Example("the end fell apart soon so it was", (" bad", " good"), 0),
    Example("the music shone", (" all along so it was good", " and fell apart", " a bore"), 0),
    Example("the story was", (" full of life", " full of holes and made me yawn"), 1),
]
"""Two that share a row, three rows and two rows: several tokens, several lengths."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Tiny models by name, saved at the first request."""
    root = tmp_path_factory.mktemp("models")

    def opened(name: str) -> Checkpoint:
        if not (root / name).exists():
            getattr(tiny, f"tiny_{name}")(root / name)
        return open_checkpoint(str(root / name))

    return opened


def encoder(checkpoint: Checkpoint) -> Encoder:
    return encoder_for(checkpoint.tokenizer, checkpoint.description, None, truncate=False)


def mean_logprob(model: torch.nn.Module, words: list[int], start: int) -> Tensor:
    """Mean log-probability of the tokens from `start` on, each given all before it."""
    ids = torch.tensor([words])
    logprob = model(input_ids=ids).logits.log_softmax(-1)[0, start - 1 : -1]
    mean: Tensor = logprob.gather(-1, ids[0, start:, None]).mean()
    return mean


def ids_of(checkpoint: Checkpoint, text: str) -> list[int]:
    ids: list[int] = checkpoint.tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def by_hand(checkpoint: Checkpoint, examples: list[Example], cuts: list[int]) -> dict[str, Tensor]:
    """Σ_batches grad², one example and one candidate at a time, nothing padded."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint.source).eval()
    weights = {
        name: p
        for name, p in model.named_parameters()
        if p.dim() == 2 and "embed" not in name and "wte" not in name and "wpe" not in name
    }
    squares = {name: torch.zeros_like(p) for name, p in weights.items()}
    for start, stop in itertools.pairwise([0, *cuts, len(examples)]):
        losses = []
        for example in examples[start:stop]:
            prompt = ids_of(checkpoint, example.prompt)
            rows = [prompt + ids_of(checkpoint, choice) for choice in example.candidates]
            scores = torch.stack([mean_logprob(model, row, len(prompt)) for row in rows])
            losses.append(-scores.log_softmax(-1)[example.answer])
        gradients = torch.autograd.grad(torch.stack(losses).mean(), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            squares[name] += gradient.detach() ** 2
    return squares


def assert_same_scores(scores: Scores, wanted: dict[str, Tensor]) -> None:
    assert set(scores) == set(wanted)
    for name, squares in wanted.items():
        largest = float(squares.max())
        assert largest > 0
        np.testing.assert_allclose(scores[name](), squares, rtol=0, atol=RELATIVE * largest)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(("batches", "cuts"), [(1, []), (2, [2]), (None, [1, 2, 3])])
def test_scores_of_candidates_are_autograds(
    name: str, batches: int | None, cuts: list[int], checkpoint: Callable[[str], Checkpoint]
) -> None:
    """Cross-entropy over candidates of one token and of several, written out on transformers."""
    model = checkpoint(name)
    scores = task_sensitivity(
        model, encoder(model), WORD_CHOICE, OBJECTIVES["cross-entropy"], batches=batches
    )
    assert_same_scores(scores, by_hand(model, WORD_CHOICE, cuts))
    assert scores.about.batches == (batches or len(WORD_CHOICE))


def test_scores_of_completions_are_autograds(checkpoint: Callable[[str], Checkpoint]) -> None:
    """Likelihood of the gold continuation alone, every token of the batch with the same weight."""
    made = checkpoint("llama")
    scores = task_sensitivity(
        made, encoder(made), WORD_CHOICE, objective_for("generation"), batches=1
    )
    model = AutoModelForCausalLM.from_pretrained(made.source).eval()
    weights = {n: p for n, p in model.named_parameters() if n in scores}
    total, tokens = torch.zeros(()), 0
    for example in WORD_CHOICE:
        prompt = ids_of(made, example.prompt)
        gold = ids_of(made, example.candidates[example.answer])
        total = total - mean_logprob(model, prompt + gold, len(prompt)) * len(gold)
        tokens += len(gold)
    gradients = torch.autograd.grad(total / tokens, list(weights.values()))
    assert_same_scores(scores, {n: g**2 for n, g in zip(weights, gradients, strict=True)})


def test_scores_of_a_masked_model_are_autograds(checkpoint: Callable[[str], Checkpoint]) -> None:
    """Cross-entropy over label words at the mask, special tokens around the prompt included."""
    made = checkpoint("roberta")
    example = Example("the film was [MASK]", ("bad", "good", "joy"), 1)
    scores = task_sensitivity(made, encoder(made), [example], OBJECTIVES["cross-entropy"])
    model = AutoModelForMaskedLM.from_pretrained(made.source).eval()
    weights = {n: p for n, p in model.named_parameters() if n in scores}
    ids = torch.tensor([made.tokenizer.encode("the film was <mask>").ids])
    place = ids[0].tolist().index(MASK)
    words = [made.tokenizer.token_to_id(word) for word in example.candidates]
    loss = -model(input_ids=ids).logits[0, place, words].log_softmax(-1)[1]
    gradients = torch.autograd.grad(loss, list(weights.values()))
    assert_same_scores(scores, {n: g**2 for n, g in zip(weights, gradients, strict=True)})


def test_a_checkpoint_reads_a_task_as_its_artifact_does(artifact: Path, assets: Path) -> None:
    """Same rows, so the gradient that is measured is the gradient of what training minimises."""
    made, model = open_checkpoint(str(assets / "llama")), open_model(artifact)
    task, splits = open_task(TaskChoice(str(assets / "mood.jsonl"), train=5), masked=False)
    one = encoder_for(made.tokenizer, made.description, task, False).encode(splits.train)
    other = model.encoder(task, False).encode(splits.train)
    for name, array in one.batch.named().items():
        np.testing.assert_array_equal(array, other.batch.named()[name])


def test_too_few_examples_are_refused(checkpoint: Callable[[str], Checkpoint]) -> None:
    """Every batch needs an example; none at all fill no batch."""
    model = checkpoint("llama")
    likelihood = OBJECTIVES["likelihood"]
    with pytest.raises(UsageError, match="4 of mood cannot fill 5 batches; give more examples"):
        task_sensitivity(
            model, encoder(model), WORD_CHOICE, likelihood, batches=5, name="4 of mood"
        )
    with pytest.raises(UsageError, match="task cannot fill 0 batches"):
        task_sensitivity(model, encoder(model), [], likelihood)


def test_an_objective_without_derivative_is_refused(
    checkpoint: Callable[[str], Checkpoint],
) -> None:
    """An error rate is flat: there is nothing to square."""
    model = checkpoint("llama")
    with pytest.raises(UsageError, match="objective 'error-rate' has no derivative"):
        task_sensitivity(model, encoder(model), WORD_CHOICE, OBJECTIVES["error-rate"])


MATRICES = {
    "a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "b": torch.tensor([[5.0, 1.0]]),
    "c": torch.tensor([[0.0, 0.0]]),
}


def made_up(matrices: dict[str, Tensor]) -> Scores:
    recipes = {name: (lambda value=value: value) for name, value in matrices.items()}
    return Scores(recipes, Provenance("model", "hash", "text", 0, 0, ""))


def at(*positions: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(positions, dtype=np.int32)


def test_shares_by_hand() -> None:
    """2 + 1 of 16 are inside; 5 + 4 could be; a matrix outside the mask counts in the whole."""
    seen: list[tuple[int, int]] = []
    result = coverage(made_up(MATRICES), {"a": at(1), "b": at(1)}, lambda *n: seen.append(n))
    assert result.matrices == {
        "a": Share(chosen=1, weights=4, inside=2.0, largest=4.0, total=10.0),
        "b": Share(chosen=1, weights=2, inside=1.0, largest=5.0, total=6.0),
        "c": Share(chosen=0, weights=2, inside=0.0, largest=0.0, total=0.0),
    }
    assert result.whole == Share(chosen=2, weights=8, inside=3.0, largest=9.0, total=16.0)
    assert (result.whole.covered, result.whole.best, result.whole.random) == (3 / 16, 9 / 16, 2 / 8)
    assert result.matrices["c"].covered == result.matrices["c"].best == 0.0
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_best_of_all_is_not_the_best_of_each() -> None:
    """Both chosen entries are in `a`; the best two of all are one of `a` and one of `b`."""
    whole = coverage(made_up(MATRICES), {"a": at(0, 3)}).whole
    assert (whole.inside, whole.largest) == (5.0, 9.0)


def test_the_best_mask_is_as_good_as_can_be_and_everything_is_all() -> None:
    """Chosen by these scores, a mask covers what is possible; with all entries, everything."""
    best = coverage(made_up(MATRICES), {"a": at(2, 3), "b": at(0)}).whole
    assert best.covered == best.best == 12 / 16
    everything = coverage(made_up(MATRICES), {"a": at(0, 1, 2, 3), "b": at(0, 1), "c": at(0, 1)})
    assert everything.whole.covered == everything.whole.best == everything.whole.random == 1.0


def test_large_matrices_agree_with_sorting() -> None:
    """Sums over a mask of thousands, against one sort of everything in float64."""
    generator = torch.Generator().manual_seed(3)
    matrices = {
        name: torch.randn(rows, 70, generator=generator) ** 2
        for name, rows in (("a", 90), ("b", 10), ("c", 200))
    }
    chosen = {n: torch.randperm(m.numel(), generator=generator)[: 9 * len(m)] for n, m in
              matrices.items()}  # fmt: skip
    result = coverage(made_up(matrices), {n: p.int().numpy() for n, p in chosen.items()}).whole
    everything = torch.cat([m.flatten() for m in matrices.values()]).double().sort().values
    inside = sum(float(m.flatten()[chosen[n]].double().sum()) for n, m in matrices.items())
    assert result.chosen == 9 * 300
    assert result.inside == pytest.approx(inside, rel=1e-12)
    assert result.largest == pytest.approx(float(everything[-9 * 300 :].sum()), rel=1e-12)
    assert result.total == pytest.approx(float(everything.sum()), rel=1e-12)


def test_one_matrix_at_a_time() -> None:
    """Every recipe runs once, and after the one before it was dealt with."""
    events: list[str] = []

    def recipe(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            events.append(name)
            return MATRICES[name]

        return read

    scores = Scores({n: recipe(n) for n in MATRICES}, Provenance("model", "hash", "text", 0, 0, ""))
    coverage(scores, {"b": at(0)}, lambda done, _: events.append(f"done {done}"))
    assert events == ["a", "done 1", "b", "done 2", "c", "done 3"]


def test_scores_that_do_not_fit_the_mask_are_refused() -> None:
    """A matrix without scores, and one whose scores are too few, are named."""
    with pytest.raises(UsageError, match=r"1 of the 2 matrices .* no scores, among them other"):
        coverage(made_up(MATRICES), {"a": at(0), "other": at(0)})
    with pytest.raises(UsageError, match="scores of b have 2 entries and the mask chose entry 2"):
        coverage(made_up(MATRICES), {"b": at(0, 2)})


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_compiled_mask_covers_what_it_was_chosen_by(
    name: str, checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    """Against its own scores, a global mask is the best one, transposed weights included.

    With scores that are 1 inside the mask, everything is covered: positions are read as written.
    """
    made = checkpoint(name)
    scores = task_sensitivity(made, encoder(made), WORD_CHOICE, OBJECTIVES["cross-entropy"])
    settings = ["quantize-frozen.block=32", "select-sensitive.cover=1"]
    options = Options("int8", fraction=0.05, settings=settings)
    manifest = compile_model(
        made, METHODS["senszoq"], tmp_path / "art", scores=scores, options=options
    )
    mask = read_mask(tmp_path / "art", manifest)
    assert any(origin.endswith(".T") for origin in mask) == (name == "gpt2")
    result = coverage(scores, mask).whole
    assert result.covered == pytest.approx(result.best, rel=1e-12)
    assert result.random == pytest.approx(0.05, abs=1 / result.weights)
    assert result.covered > 2 * result.random

    inside = {}
    for stored in scores:
        origin = stored if stored in mask else f"{stored}.T"
        flags = torch.zeros_like(scores[origin]())
        flags.view(-1)[torch.from_numpy(mask.get(origin, at())).long()] = 1.0
        inside[stored] = flags.t().contiguous() if origin.endswith(".T") else flags
    assert coverage(made_up(inside), mask).whole.covered == 1.0


def test_an_artifact_without_a_sparse_mask_is_refused(
    checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    """MeZO trains whole weights: the message names the method, and one that has a mask."""
    manifest = compile_model(checkpoint("llama"), METHODS["mezo"], tmp_path / "art")
    message = "has no sparse mask: it was compiled with mezo.* compile with --method senszoq"
    with pytest.raises(UsageError, match=message):
        read_mask(tmp_path / "art", manifest)


def test_a_mask_is_read_as_it_is_stored(artifact: Path) -> None:
    """Ascending positions of every trainable, under the name of the weight it was cut from."""
    manifest = read_manifest(artifact)
    mask = read_mask(artifact, manifest)
    assert {f"{name}.slice": p.shape for name, p in mask.items()} == manifest.trainables
    assert all((np.diff(positions) > 0).all() for positions in mask.values())

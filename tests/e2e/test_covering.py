"""`zofx sensitivity --task`, `zofx coverage`: their numbers as processes, and what goes wrong."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.compiled import environment, run_zofx
from zofx.artifact.manifest import read_manifest
from zofx.cli import main
from zofx.compiler.sensitivity.mask_coverage import read_mask
from zofx.compiler.sensitivity.scores import Scores, load_scores
from zofx.models.checkpoint import open_checkpoint
from zofx.tasks.conventions import encoder_for
from zofx.tasks.selection import TaskChoice, open_task

COVERAGE = ("coverage", "art", "--sensitivity", "mood.st")
Inside = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def measured(artifact: Path, assets: Path) -> subprocess.CompletedProcess[str]:
    """The output of `zofx sensitivity` of the tiny task; the scores are in `mood.st`."""
    words = ("--task", "mood.jsonl", "--train", "6", "--batches", "3", "-o", "mood.st")
    return run_zofx("sensitivity", "llama", *words, cwd=assets)


@pytest.fixture
def inside(
    measured: subprocess.CompletedProcess[str],
    assets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Inside:
    """A command line in this process, beside the artifact and the scores: code, stdout, stderr."""
    monkeypatch.chdir(assets)
    monkeypatch.delenv("ZOFX_DEBUG", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["zofx", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


def squares_by_hand(folder: Path, task: Path) -> dict[str, Tensor]:
    """Σ over 3 batches of 2 examples of the squared gradient of the cross-entropy of " good"."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    weights = {n: p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n}
    tokenizer = open_checkpoint(str(folder)).tokenizer
    _, splits = open_task(TaskChoice(str(task), train=6), masked=False)
    words = [tokenizer.token_to_id(word.strip()) for word in tiny.CANDIDATES]
    squares = {name: torch.zeros_like(p) for name, p in weights.items()}
    for start, stop in pairwise((0, 2, 4, 6)):
        losses = []
        for example in splits.train[start:stop]:
            ids = tokenizer.encode(example.prompt, add_special_tokens=False).ids
            choice = model(input_ids=torch.tensor([ids])).logits[0, -1, words].log_softmax(-1)
            losses.append(-choice[example.answer])
        gradients = torch.autograd.grad(torch.stack(losses).mean(), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            squares[name] += gradient.detach() ** 2
    return squares


def test_numbers_are_those_of_a_computation_by_hand(
    measured: subprocess.CompletedProcess[str], artifact: Path, assets: Path
) -> None:
    """Autograd on transformers, a sort, and two sums: the shares per matrix and in all."""
    assert measured.returncode == 0, measured.stderr
    payload = json.loads(run_zofx(*COVERAGE, "--json", cwd=assets).stdout)
    squares = squares_by_hand(assets / "llama", assets / "mood.jsonl")
    mask = read_mask(artifact, read_manifest(artifact))
    total = sum(float(s.sum()) for s in squares.values())
    inside = 0.0
    assert payload["matrices"].keys() == squares.keys()
    for name, values in squares.items():
        row, flat = payload["matrices"][name], values.flatten()
        covered = float(flat[torch.from_numpy(mask[name]).long()].sum()) if name in mask else 0.0
        chosen = len(mask.get(name, ()))
        assert (row["chosen"], row["weights"]) == (chosen, values.numel())
        assert row["random"] == chosen / values.numel()
        assert row["covered"] == pytest.approx(covered / float(flat.sum()), rel=1e-4)
        best = float(flat.topk(chosen).values.sum() / flat.sum())
        assert row["best"] == pytest.approx(best, rel=1e-4)
        assert row["gradient"] == pytest.approx(float(flat.sum()) / total, rel=1e-4)
        inside += covered
    everything, row = torch.cat([s.flatten() for s in squares.values()]), payload["all"]
    assert row["chosen"] == 781
    assert row["covered"] == pytest.approx(inside / total, rel=1e-4)
    assert row["best"] == pytest.approx(float(everything.topk(781).values.sum()) / total, rel=1e-4)
    assert row["random"] == 781 / everything.numel()
    assert row["random"] < row["covered"] < row["best"] < 1
    assert payload["hash"] == read_manifest(artifact).hash


def test_the_file_says_what_it_was_measured_on(
    measured: subprocess.CompletedProcess[str], assets: Path
) -> None:
    """Task, examples, objective, seed and tokens; the next command follows."""
    about = load_scores(assets / "mood.st").about
    assert about.text == "6 examples of mood (cross-entropy, seed 0)"
    assert about.batches == 3
    made = open_checkpoint(str(assets / "llama"))
    task, splits = open_task(TaskChoice(str(assets / "mood.jsonl"), train=6), masked=False)
    encoder = encoder_for(made.tokenizer, made.description, task, False)
    assert about.tokens == encoder.encode(splits.train).batch.attention_mask.sum()
    assert f"from {about.tokens} tokens of 6 examples of mood" in measured.stdout
    assert "next: zofx coverage DIR --sensitivity mood.st" in measured.stdout


def test_the_table_has_a_line_per_matrix_and_one_of_all(inside: Inside) -> None:
    """The same numbers as the JSON, rounded, in the order of the layers."""
    lines = inside(*COVERAGE)[1].splitlines()
    payload = json.loads(inside(*COVERAGE, "--json")[1])
    assert lines[0] == "art on 6 examples of mood (cross-entropy, seed 0)"
    assert lines[1].split() == ["matrix", "gradient", "chosen", "covered", "best", "random"]
    assert [line.split()[0] for line in lines[2:]] == [*sorted(payload["matrices"]), "all"]
    row = payload["all"]
    shares = [f"{row['covered']:.2%}", f"{row['best']:.2%}", f"{row['random']:.3%}"]
    assert lines[-1].split() == ["all", "100.00%", "781", "of", f"{row['weights']:,}", *shares]


TASK = ["sensitivity", "llama", "--task", "mood.jsonl"]
WRONG = [
    ([*TASK, "--tokens", "9"], "--tokens is about a text"),
    ([*TASK, "--calibration", "text.txt"], "--calibration is about a text: give one of the two"),
    (["sensitivity", "llama", "--train", "9"], "--train is about the examples of a task"),
    (["sensitivity", "llama", "--task", "trek"], "trec"),
    (
        [*TASK, "--train", "4", "--batches", "5"],
        "4 examples of mood (cross-entropy, seed 0) cannot fill 5 batches",
    ),
    (["coverage", "art", "--sensitivity", "nowhere.st"], "there is no file nowhere.st"),
    (["coverage", "llama", "--sensitivity", "mood.st"], "llama is not a compiled artifact"),
    (["coverage", "art", "--sensitivity", "other.st"], "and the model of art has other weights"),
    (
        ["coverage", "art", "--sensitivity", "part.st"],
        "1 of the 3 matrices of the mask have no scores",
    ),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_users_get_wrong_is_one_clear_error(
    words: list[str], message: str, inside: Inside, assets: Path
) -> None:
    """Exit code 2, one message on stderr, nothing on stdout, and no file is left."""
    scores = load_scores(assets / "mood.st")
    for made in ("other.st", "part.st"):
        (assets / made).unlink(missing_ok=True)
    Scores(scores.recipes, replace(scores.about, model_hash="0" * 64)).save(assets / "other.st")
    chosen = read_mask(assets / "art", read_manifest(assets / "art"))
    rest = {name: recipe for name, recipe in scores.recipes.items() if name != next(iter(chosen))}
    Scores(rest, scores.about).save(assets / "part.st")
    code, out, err = inside(*words, *(["-o", "new.st"] if words[0] == "sensitivity" else []))
    assert (code, out) == (2, "")
    assert message in err
    assert not (assets / "new.st").exists()


@pytest.mark.parametrize("verb", ["coverage", "sensitivity"])
def test_help_needs_no_torch(verb: str) -> None:
    """An example of both verbs, and no heavy import."""
    code = (
        "import sys\nfrom zofx.cli import main\n"
        f"sys.argv = ['zofx', {verb!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "assert not {'torch', 'transformers', 'onnxruntime'} & set(sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line.strip() for line in ended.stdout.splitlines()]
    assert any(line.startswith("zofx coverage art --sensitivity") for line in lines)
    assert any(line.startswith("zofx sensitivity ./my-model --task") for line in lines)

"""What a case is made of: models, tasks, who fits, what is claimed; no timings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx
from transformers import AutoConfig

from benchmarks.fidelity.subject import Ground, Trajectory
from benchmarks.step import __main__ as script
from benchmarks.step import models, plot, tasks
from benchmarks.step.arrange import fitting, needed
from benchmarks.step.bars import BARS, judged, kind_of
from benchmarks.step.job import Case, Contestant, Job
from benchmarks.step.memory import activation_bytes, peak_of
from benchmarks.step.prepare import Workshop
from tests import tiny
from tests.benchmarks.steps import encoder, job
from zofx.errors import UsageError
from zofx.models.checkpoint import build_on_meta
from zofx.tasks.types import Example


@pytest.mark.parametrize("text", ["smollm2", "smollm2:trec", ":trec:1", "m:t:0", "m:t:x"])
def test_a_case_of_another_form_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and an example of one."""
    assert script.main(["--cases", text]) == 2
    assert "smollm2:trec:16" in capsys.readouterr().err


def test_a_method_on_no_runtime_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before anything is made."""
    assert script.main(["--methods", "senszoq@gpu", "--work", str(tmp_path / "work")]) == 2
    assert "write METHOD@RUNTIME" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_random_weights_read_synthetic_tasks_alone(tmp_path: Path) -> None:
    """Their words are of no language."""
    shop = Workshop(tmp_path, {}, "", {})
    with pytest.raises(UsageError, match="six-64"):
        shop.task("opt-125m", "trec", tmp_path)
    assert shop.task("opt-125m", "own.jsonl", tmp_path) == "own.jsonl"


def test_a_case_reads_back() -> None:
    """A path may be a task: the last colon is before the batch."""
    assert Case.parse("m:/a:b.jsonl:8") == Case("m", "/a:b.jsonl", 8)
    assert str(Case("m", "t", 8)) == "m:t:8"
    contestant = Contestant("zofx", "senszoq", "int4", "ort")
    assert Job.from_json(job(weights="w").to_json()) == job(weights="w")
    assert contestant.label == "senszoq int4 ort"


def test_synthetic_rows_have_the_length_they_say(tmp_path: Path) -> None:
    """In tokens of the model, bos included; candidates are single tokens, a span is eight."""
    read = encoder()
    for task, candidates, scored in (("six-24", 6, 1), ("two-16", 2, 1), ("span-16", 1, 8)):
        path = tmp_path / f"{task}.jsonl"
        tasks.write_synthetic(task, read.tokenizer, True, path)
        own = tasks_of(path)
        encoded = read.encode(own[:4])
        assert encoded.counts.shape == (4, candidates)
        assert (encoded.counts == scored).all()
        length = int(encoded.batch.attention_mask.sum(axis=1).max())
        assert length == int(task.partition("-")[2]) + (scored - 1)
    assert tasks.is_synthetic("six-24")
    assert not tasks.is_synthetic("trec")


def tasks_of(path: Path) -> tuple[Example, ...]:
    """The training examples of a file."""
    from zofx.tasks import find_task

    return find_task(str(path)).splits(seed=0).train


@pytest.mark.parametrize("shape", [models.opt(64, 2, 2), models.llama(64, 2, 2, 96)])
def test_random_models_have_the_parameters_of_their_architecture(shape: models.Shape) -> None:
    """Names and shapes are those that transformers builds from the configuration."""
    config = AutoConfig.for_model(**shape.config)
    built = build_on_meta(config, "causal-lm")
    assert dict(shape.tensors) == {n: tuple(p.shape) for n, p in built.named_parameters()}
    assert shape.size == sum(p.numel() for p in built.parameters())


def test_named_models_are_as_large_as_they_say() -> None:
    """125 million, 1.3 and 6.7 thousand million weights."""
    sizes = {name: shape.size for name, shape in models.RANDOM.items()}
    assert sizes.pop("opt-125m-scattered") == sizes["opt-125m"]
    assert sizes == {"opt-125m": 125239296, "opt-1.3b": 1315758080, "llama-2-7b": 6738415616}


def test_memory_alive_at_once() -> None:
    """x + 1 and its double are alive when their sum is made; a view takes nothing more."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    one = graph.call_function(torch.ops.aten.add.Scalar, (x, 1))
    seen = graph.call_function(torch.ops.aten.view.default, (one, [4]))
    two = graph.call_function(torch.ops.aten.mul.Scalar, (seen, 2))
    three = graph.call_function(torch.ops.aten.add.Tensor, (two, seen))
    graph.output(graph.call_function(torch.ops.aten.neg.default, (three,)))
    assert peak_of(graph, {"x": torch.zeros(2, 2)}) == 3 * 4 * 4


def test_activations_grow_with_the_batch(ground: Ground, along: Trajectory) -> None:
    """By the same for every row more; weights perturbed per probe are part of them."""
    shapes = {k: v.shape for k, v in along.steps[1].asked.encoded.batch.named().items()}
    one, two, three = (
        activation_bytes(
            ground.root / "mezo", {n: (rows, *s[1:]) for n, s in shapes.items()}, probes=2
        )
        for rows in (64, 128, 192)
    )
    assert 0 < one < two
    assert three - two == two - one


def test_who_does_not_fit_is_left_out(ground: Ground, along: Trajectory) -> None:
    """The first first; with what would be needed and what there is."""
    folder = {"artifact": str(ground.root / "mezo")}
    peer = job(weights=str(along.checkpoint), **folder)
    zofx = Job(**{**vars(peer), "weights": "", "contestant": Contestant("zofx", "mezo")})
    shape = {"objective": "cross-entropy", "tokens": 16, "batch": 4, "candidates": 2}
    keeps, works = needed(peer, shape)
    logits = 4 * 16 * 4 * 2 * tiny.VOCABULARY
    assert works > 4 * logits
    free = sum(needed(zofx, shape)) + keeps + works
    assert fitting([zofx, peer], shape, free) == ([zofx, peer], [])
    assert fitting([zofx, peer, peer], shape, None)[0] == [zofx, peer, peer]
    chosen, left_out = fitting([zofx, peer], shape, free - 1)
    assert chosen == [zofx]
    assert left_out[0]["contestant"] == "MeZO"
    assert "are free" in left_out[0]["why"]


def contestant(kind: str, *seconds: float, **more: Any) -> dict[str, Any]:
    """A row of results."""
    fixed = {
        "kind": kind,
        "method": "",
        "quant": "",
        "runtime": "",
        "shares": {},
        "stand_in": False,
    }
    return {**fixed, "contestant": kind, "seconds": list(seconds), **more}


def test_claims_are_judged_by_pairs_of_a_round() -> None:
    """A slow round slows both: the ratio is the median of ratios, not the ratio of medians."""
    sizes = {"peak_bytes": 260, "weights_bytes": 150, "activations_bytes": 50}
    own = {"method": "senszoq", "runtime": "ort", "quant": "int4", "shares": {"z": 0.03}, **sizes}
    case = {
        "shape": {"candidates": 6, "scored_tokens": 1, "batch": 16},
        "contestants": [
            contestant("zofx", 1.0, 10.0, 2.0, **own),
            contestant("mezo", 21.0, 210.0, 20.0, stand_in=True),
            contestant("bare", 1.0, 9.0, 2.0, quant="int4"),
            contestant("bare", 9.0, 9.0, 9.0, quant="nf4"),
        ],
    }
    values = {bar["bar"]: (round(bar["value"], 6), bar["kept"]) for bar in judged(case)}
    assert values == {
        "senszoq ort: speed / MeZO ≥ 20": (21.0, True),
        "senszoq ort: cost / inference ≤ 1.05": (1.0, True),
        "senszoq ort: z ≤ 0.02": (0.03, False),
        "senszoq ort: memory ≤ 1.3": (1.3, True),
    }
    assert [bar["stand_in"] for bar in judged(case)] == [True, False, False, False]
    one = {**case, "shape": {"candidates": 1, "scored_tokens": 4, "batch": 1}}
    assert next(bar["bar"] for bar in judged(one)) == "senszoq ort: speed / MeZO ≥ 5"
    assert {bar.rows for bar in BARS} - {""} == {
        kind_of({"candidates": n, "scored_tokens": s}) for n, s in ((6, 1), (2, 1), (1, 4))
    }


def test_without_matplotlib_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and how to get it, before anything else."""
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    assert script.main(["--plot", "picture.svg"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err

"""The step benchmark runs, compares the same mathematics, and says what goes wrong; no timings.

The public trainers' part is played by stand-ins of their checkouts: nothing here needs a network.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, fx
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.fidelity.subject import Ground, Step, Trajectory
from benchmarks.step import __main__ as script
from benchmarks.step import lora, match, models, plot, tasks
from benchmarks.step.arrange import fitting, needed
from benchmarks.step.bars import BARS, judged, kind_of
from benchmarks.step.contestants import doubled
from benchmarks.step.job import Case, Contestant, Job
from benchmarks.step.match import Child, ContestantError, Protocol
from benchmarks.step.memory import activation_bytes, peak_of
from benchmarks.step.prepare import Workshop
from benchmarks.step.public import public_step
from benchmarks.step.rows import Inputs, collate, rows_of
from benchmarks.step.standin import RANK, Draw, Lozo, Mezo, ZoSgd, candidate_loss, seeded
from tests import tiny
from tests.runtimes import reference
from tests.test_fidelity_script import dense, low_rank
from zofx.checkpoint import build_on_meta
from zofx.errors import UsageError
from zofx.runtime import Batch, unperturbed
from zofx.tasks import OBJECTIVES, Encoder, Example

STEPS = 3
LR = 2.0**-10
UNIT = 2.0**-24
EXAMPLES = (
    Example("the plot was a joy so it", (" was a bore", " good", " made me smile"), 2),
    Example("the end fell apart soon so it was", (" bad", " good"), 0),
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A tiny OPT, and runs of zofx along known directions."""
    return Ground(tmp_path_factory.mktemp("ground"), STEPS)


@pytest.fixture(scope="module")
def along(ground: Ground) -> Trajectory:
    """A run of zofx's mezo."""
    return ground.trajectory("mezo", {"lr": LR})


def encoder() -> Encoder:
    """As zofx reads the tiny model's texts."""
    return Encoder(Tokenizer.from_str(tiny.tokenizer().backend_tokenizer.to_str()), 0, 1, None, 48)


def loaded(along: Trajectory, dtype: torch.dtype) -> PreTrainedModel:
    """The tiny OPT."""
    return AutoModelForCausalLM.from_pretrained(along.checkpoint, dtype=dtype).eval()


def inputs_of(step: Step) -> Inputs:
    """What a stand-in reads of a step's batch."""
    examples = step.asked.encoded.examples
    rows = [row for e in examples for row in rows_of(e, encoder(), gold_only=False)]
    return collate(rows, encoder().pad_id)


def given(along: Trajectory, t: int) -> Any:
    """zofx's z of a step, weight by weight, in every sweep anew."""

    def sequence(seed: int) -> Draw:
        values = iter([along.z(t, 0, name) for name in along.names])
        return lambda shape: next(values).reshape(shape)

    return sequence


# --- the mathematics is the same ------------------------------------------------------------------


def test_the_stand_in_takes_the_step_that_zofx_takes(along: Trajectory) -> None:
    """Its losses are zofx's within their derived rounding, along one z; so are its weights."""
    for step in along.steps:
        model = loaded(along, torch.float64)
        for name, weight in model.named_parameters():
            weight.data = along.weights(step.before)[name].clone()
        peer = Mezo(model, along.settings.lr, along.settings.eps, given(along, step.t))
        found = torch.stack(peer.step(inputs_of(step)))
        assert ((found - step.losses).abs() <= step.allowed).all()
        # c is off by what the losses are, and θ' = θ − ηcz by five roundings besides
        c = (step.losses[0] - step.losses[1]) / (2 * along.settings.eps)
        c_off = step.allowed.sum() / (2 * along.settings.eps)
        after = along.weights(step.after)
        for name, weight in model.named_parameters():
            z = along.z(step.t, 0, name).abs()
            size = weight.detach().abs() + along.settings.lr * c.abs() * z
            bound = 6 * UNIT * size + along.settings.lr * c_off * z
            assert ((weight - after[name]).abs() <= bound).all(), name


def test_rows_are_those_of_the_public_collator(along: Trajectory) -> None:
    """The same tokens, counts and answers; padded to a multiple of eight."""
    for step in along.steps:
        ours, theirs = inputs_of(step), step.asked.inputs
        assert ours["input_ids"].shape[1] % 8 == 0
        width = theirs["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(ours[name][:, -width:], theirs[name])
        assert not ours["attention_mask"][:, :-width].any()
        for name in ("labels", "option_len", "num_options"):
            assert torch.equal(ours[name], theirs[name])


def test_the_language_models_loss_is_that_of_zofx(ground: Ground, along: Trajectory) -> None:
    """One row per example, the right candidate; per token, within the derived rounding."""
    from zofx.runtimes import RUNTIMES

    encoded = encoder().encode(EXAMPLES, gold_only=True)
    folder = ground.root / "mezo"
    session = RUNTIMES["torch"].load(folder, threads=1)
    scores = session.evaluate(encoded.batch, [], unperturbed())
    found = OBJECTIVES["likelihood"].loss(scores, encoded).mean[0]
    meant, rounding = reference.trace(folder, encoded.batch, [], unperturbed(), session.read())
    tokens = torch.from_numpy(encoded.counts[:, 0]).double()
    mean = -(meant[0, :, 0] @ tokens) / tokens.sum()
    rows = [row for e in EXAMPLES for row in rows_of(e, encoder(), gold_only=True)]
    with torch.no_grad():
        wanted = candidate_loss(loaded(along, torch.float64), collate(rows, 1))
    assert abs(found - float(wanted)) <= float(rounding.bound(mean))


def test_a_checkout_takes_the_steps_of_its_stand_in(along: Trajectory, tmp_path: Path) -> None:
    """Same draws, same model: two steps of a checkout like MeZO's and of the stand-in agree."""
    settings = along.settings
    step = public_step("mezo", dense(tmp_path), along.checkpoint, 1, settings.lr, settings.eps)
    peer = Mezo(loaded(along, torch.float32), settings.lr, settings.eps, lambda t: seeded(7))
    for taken in along.steps[:2]:
        inputs = inputs_of(taken)
        ours, theirs = torch.stack(peer.step(inputs)), torch.stack(step(inputs))
        # the forwards are one code; a score adds up at most 16 terms, and ± is a difference of both
        assert torch.allclose(ours.double(), theirs, rtol=64 * UNIT, atol=0)


def test_a_checkout_of_lozo_is_stepped(along: Trajectory, tmp_path: Path) -> None:
    """Both losses are given, and the next step starts elsewhere."""
    step = public_step("lozo", low_rank(tmp_path, anew=True), along.checkpoint, 1, 0.1, 2.0**-6)
    inputs = inputs_of(along.steps[0])
    first, second = (torch.stack(step(inputs)) for _ in range(2))
    assert first.shape == second.shape == (2,)
    assert not torch.equal(first, second)


def test_a_checkout_of_another_repository_is_refused(along: Trajectory, tmp_path: Path) -> None:
    """With the file that is not there."""
    with pytest.raises(UsageError, match=r"large_models/utils\.py is not there"):
        public_step("mezo", tmp_path, along.checkpoint, 1, LR, 2.0**-6)


def moved(model: PreTrainedModel, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far each matrix has gone."""
    return {
        name: weight.detach() - before[name]
        for name, weight in model.named_parameters()
        if weight.ndim == 2
    }


def test_lozo_moves_in_one_low_rank_subspace(along: Trajectory) -> None:
    """A step of a matrix has rank r, and the next one is in the span of the same V."""
    model = loaded(along, torch.float64)
    peer = Lozo(model, 1.0, along.settings.eps, lambda s: lambda shape: seeded(s)(shape).double())
    changes = []
    for _ in range(2):
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        peer.step(inputs_of(along.steps[0]))
        changes.append(moved(model, before))
    for name, first in changes[0].items():
        both = torch.cat([first, changes[1][name]])
        assert torch.linalg.matrix_rank(both, rtol=1e-9) == RANK, name
        assert torch.linalg.matrix_rank(first, rtol=1e-9) == RANK, name


def test_zo_sgd_is_mezo_by_an_optimizer(along: Trajectory) -> None:
    """On the same draws both lead to the same weights, to rounding in float64."""
    ends = []
    for kind in (Mezo, ZoSgd):
        model = loaded(along, torch.float64)
        kind(model, LR, along.settings.eps, given(along, 0)).step(inputs_of(along.steps[0]))
        ends.append(dict(model.named_parameters()))
    for name, weight in ends[0].items():
        size = weight.abs() + along.z(0, 0, name).abs()
        assert ((weight - ends[1][name]).abs() <= 2**-50 * size).all()
        assert ends[1][name].grad is None


def test_lora_starts_at_the_model_and_trains_adapters_alone(
    along: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first loss is the model's own; on one batch it falls; the base stays."""
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    model, inputs = loaded(along, torch.float32), inputs_of(along.steps[0])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    own = candidate_loss(model, inputs).detach()
    adapted, made_by = lora.adapted(model)
    assert made_by == ""
    peer = lora.FirstOrder(adapted)
    losses = [float(peer.step(inputs)[0]) for _ in range(8)]
    assert losses[0] == float(own)
    assert losses[-1] < losses[0]
    frozen = {n.replace(".base", ""): p for n, p in adapted.named_parameters() if "up" not in n}
    assert all(torch.equal(frozen[name], weight) for name, weight in before.items())


def test_inference_reads_every_row_twice() -> None:
    """All rows, then all rows again: as two probes are stacked."""
    encoded = encoder().encode(EXAMPLES)
    twice = doubled(encoded.batch)
    for name, values in encoded.batch.named().items():
        assert np.array_equal(twice[name], np.concatenate([values, values]))
    assert isinstance(encoded.batch, Batch)


# --- the harness ----------------------------------------------------------------------------------


def words(assets: Path, folder: Path, *more: str) -> list[str]:
    """A command line on the tiny model and task."""
    return [
        "--model", f"tiny={assets / 'llama'}", "--calibration", str(assets / "text.txt"),
        "--cases", f"tiny:{assets / 'mood.jsonl'}:4", "--methods", "senszoq@ort",
        "--peers", "mezo", "bare", "--rounds", "2", "--threads", "1",
        "--work", str(folder / "work"), "-o", str(folder / "result.json"), *more,
    ]  # fmt: skip


def test_a_case_from_the_model_to_the_table(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Everyone takes the steps of one batch; a second call measures nothing, a changed one ends."""
    code = script.main(words(assets, tmp_path))
    results = json.loads((tmp_path / "result.json").read_bytes())
    assert results["machine"]["versions"]["torch"]
    (case,) = results["cases"]
    assert case["failed"] == case["left_out"] == []
    assert case["shape"]["candidates"] == 2
    assert case["shape"]["rows"] == case["shape"]["batch"] == 4
    zofx, mezo, bare = case["contestants"]
    assert [row["contestant"] for row in (zofx, mezo, bare)] == [
        "senszoq int4 ort", "MeZO", "inference int4",
    ]  # fmt: skip
    for row in (zofx, mezo, bare):
        assert len(row["seconds"]) == 2
        assert row["min"] <= row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
        assert 0 < row["before_bytes"] <= row["peak_bytes"]
    assert mezo["stand_in"]
    assert not zofx["stand_in"]
    assert set(zofx["shares"]) == {"encode", "forward", "journal", "log", "move", "z"}
    assert 0 < sum(zofx["shares"].values()) < 1
    # one batch and one model: 4-bit weights and ε apart, 1 % of a loss near log 2 here
    assert zofx["first_loss"] == pytest.approx(mezo["first_loss"], rel=0.05)
    assert bare["first_loss"] == pytest.approx(mezo["first_loss"], rel=0.05)
    assert {bar["contestant"] for bar in case["bars"]} == {"senszoq int4 ort"}
    assert len(case["bars"]) == 4
    assert code == (0 if all(bar["kept"] for bar in case["bars"]) else 1)
    said = capsys.readouterr().out
    assert "MeZO (stand-in)" in said

    monkeypatch.setattr(script, "measured", None)
    assert script.main(words(assets, tmp_path)) == code
    assert capsys.readouterr().out == said
    assert script.main(words(assets, tmp_path, "--rounds", "3")) == 2
    assert "made with another rounds" in capsys.readouterr().err


SCRIPTED = """
import os, sys
from benchmarks.step.turns import Turns
turns = Turns.claim()
print("noise", flush=True)
os.write(1, b"more noise")
turns.job()
turns.introduce(made_by="", before_bytes=1)
for step in range(3):
    turns.wait()
    if step == 1:
        {what}
    turns.done([0.5, 0.7])
"""


def scripted(folder: Path, what: str) -> Child:
    """A child that does something in its second step."""
    code = SCRIPTED.format(what=what)
    return Child(job(), folder / "log", (sys.executable, "-c", code))


def job(**more: Any) -> Job:
    """Of a stand-in for MeZO, nothing of which exists."""
    fixed = {"data": "", "batch": 1, "threads": 1, "seed": 0, "folder": ""}
    return Job(Contestant("mezo"), **{"artifact": "nowhere", "task": "trec", **fixed, **more})


def test_noise_on_standard_output_is_no_answer(tmp_path: Path) -> None:
    """The protocol has the pipe for itself; what is printed is in the log."""
    with scripted(tmp_path, "pass") as child:
        assert child.begin() == {"made_by": "", "before_bytes": 1}
        reply = child.step()
    assert reply["losses"] == [0.5, 0.7]
    assert reply["seconds"] >= 0
    assert "noisemore noise" in (tmp_path / "log").read_text().replace("\n", "")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("os._exit(3)", r"MeZO ended with code 3; its log, .*log, ends:"),
        ("os.kill(os.getpid(), 9)", r"MeZO was ended by signal 9; there may have been too little"),
        ("sys.exit('no such thing')", r"(?s)MeZO ended with code 1; .*no such thing"),
    ],
)
def test_a_child_that_ends_is_reported(tmp_path: Path, what: str, message: str) -> None:
    """With how it ended, and the end of what it said."""
    with scripted(tmp_path, what) as child:
        child.begin()
        child.step()
        with pytest.raises(ContestantError, match=message):
            child.step()


def test_a_contestant_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of one is recorded with its words; the rounds of the others are whole."""
    monkeypatch.setattr(match, "PAUSE", 0.0)
    real, plain = match.Child, scripted(tmp_path, "pass")
    monkeypatch.setattr(
        match, "Child", lambda job, log: plain if job.task == "x" else real(job, log)
    )
    rows, failed = match.measured([job(), job(task="x")], Protocol(2, 1), tmp_path)
    (row,) = rows
    assert len(row["seconds"]) == 2
    assert row["stand_in"]
    (failure,) = failed
    assert failure["contestant"] == "MeZO"
    assert "UsageError" in failure["error"] or "ArtifactError" in failure["error"]
    assert "nowhere" in failure["error"]


# --- arrangement, models, tasks -------------------------------------------------------------------


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
    told = Contestant("zofx", "senszoq", "int4", "ort")
    assert Job.from_json(job(weights="w").to_json()) == job(weights="w")
    assert told.label == "senszoq int4 ort"


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
    found = {bar["bar"]: (round(bar["value"], 6), bar["kept"]) for bar in judged(case)}
    assert found == {
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

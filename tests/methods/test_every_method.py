# ruff: noqa: E501  (lines of printed summaries)
"""Every method compiles on every architecture, and takes its steps on every runtime.

method × {OPT, Llama, RoBERTa}     what its pipeline made of the model, one line each: a golden
method × {torch, ort}              20 steps of a run, through `prepare` and `train`
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.artifacts import made_up_scores
from tests.golden import assert_golden
from tests.methods.model import tiny_opt
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options, pipeline_for
from zofx.ir.program import Program
from zofx.ir.schema import FROZEN_ROLES, Role
from zofx.models.capture import capture
from zofx.models.checkpoint import Checkpoint, build_on_meta, open_checkpoint
from zofx.runs.prepare import prepare
from zofx.runs.tune import start, train
from zofx.runtimes import RUNTIMES

STEPS = 20
MAKERS = {"opt": tiny_opt, "llama": tiny.tiny_llama, "roberta": tiny.tiny_roberta}
# What a tiny model needs of options: its matrices are small and thin.
OPTIONS = {
    "senszoq": Options(fraction=0.05),
    "subzero": Options(settings=["insert-low-rank.rank=2"]),
}
SMALL = {"lr": 1e-4, "steps": STEPS, "batch_size": 4}
"""A rate at which every rule stays near where it began."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For checkpoints and artifacts, each made once."""
    folder = tmp_path_factory.mktemp("methods")
    tiny.task_file(folder / "task.jsonl")
    return folder


def checkpoint(root: Path, model: str) -> Checkpoint:
    """Two layers, so that there is a last one."""
    folder = root / model
    if not folder.exists():
        MAKERS[model](folder, layers=2)
    return open_checkpoint(str(folder))


def artifact(root: Path, method: str) -> Path:
    """Compiled from the Llama."""
    folder = root / f"llama-{method}"
    if not folder.exists():
        source = checkpoint(root, "llama")
        scores, options = made_up_scores(source), OPTIONS.get(method, Options())
        compile_model(source, METHODS[method], folder, scores=scores, options=options)
    return folder


@pytest.mark.parametrize("engine", tuple(RUNTIMES))
@pytest.mark.parametrize("method", tuple(METHODS))
def test_twenty_steps(root: Path, tmp_path: Path, method: str, engine: str) -> None:
    """A run ends, and has moved θ, with finite losses on both sides."""
    folder = artifact(root, method)
    options = {
        "task": root / "task.jsonl", "train": 16, "dev": 8, "eval_every": STEPS, "runtime": engine,
        "threads": 1, **SMALL,
    }  # fmt: skip
    prepared = prepare(folder, options)
    session = prepared.session()
    before = session.read()
    outcome = train(start(prepared, tmp_path / "run"), session)
    assert outcome.steps == STEPS
    assert {0, STEPS} == outcome.evaluations.keys()
    assert all(np.isfinite(evaluation.loss) for evaluation in outcome.evaluations.values())
    after = session.read()
    assert all(np.isfinite(values).all() for values in after.values())
    assert any(not np.array_equal(after[name], before[name]) for name in session.trainables)
    session.close()


def test_what_each_makes_of_an_opt(root: Path) -> None:
    """Tensors by role, and the ops that directions go through, method by method."""
    assert_golden(
        summaries(checkpoint(root, "opt")),
        """\
senszoq             trainable:12(819) | 365 nodes | left_over*2 linear_rounded*23 minus_base*7 perturb*24 plus_base*9 round_rows*17 row_scales*15 sparse_linear*24
mezo                trainable:36(25152) | 264 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
zo-sgd-sign         trainable:36(25152) | 264 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
zo-sgd-momentum     trainable:36(25152) | 264 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
zo-adam             trainable:36(25152) | 264 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
zo-sgd-conservative trainable:36(25152) | 264 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
forward-grad        trainable:36(25152) | 546 nodes | combine*36
zo-blockwise        trainable:36(25152) | 300 nodes | mask_turn*36 perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
zo-sparse-grad      trainable:36(25152) | 300 nodes | mask_random*36 perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
zo-hybrid           trainable:18(16544) exact:18(8608) | 204 nodes | perturb*18 probe_embedding*2 probe_linear*7 probe_rows*10
sparse-mezo         trainable:36(25152) | 278 nodes | mask_small*14 perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
lozo                trainable:36(2164) state:28(25408) | 339 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
lozo-momentum       trainable:36(2164) state:28(25408) | 339 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
lora-fa             trainable:4(1024) | 162 nodes | perturb*4 probe_linear*4
qzo                 trainable:12(512) | 198 nodes | dequantize_int*12 perturb*12 probe_linear*12
subzero             trainable:36(824) state:42(26804) | 385 nodes | perturb*36 probe_linear*15 probe_rows*22
hizoo               trainable:36(25152) state:36(25152) | 336 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
fzoo                trainable:36(25152) | 263 nodes | perturb*36 probe_embedding*2 probe_linear*13 probe_rows*22
""",
    )


def test_what_each_makes_of_a_llama(root: Path) -> None:
    """No biases, norms of one weight."""
    assert_golden(
        summaries(checkpoint(root, "llama")),
        """\
senszoq             trainable:15(1242) | 519 nodes | left_over*2 linear_rounded*29 minus_base*8 perturb*30 plus_base*12 round_rows*19 row_scales*17 sparse_linear*30
mezo                trainable:21(31392) | 243 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
zo-sgd-sign         trainable:21(31392) | 243 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
zo-sgd-momentum     trainable:21(31392) | 243 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
zo-adam             trainable:21(31392) | 243 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
zo-sgd-conservative trainable:21(31392) | 243 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
forward-grad        trainable:21(31392) | 529 nodes | combine*21
zo-blockwise        trainable:21(31392) | 264 nodes | mask_turn*21 perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
zo-sparse-grad      trainable:21(31392) | 264 nodes | mask_random*21 perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
zo-hybrid           trainable:10(15680) exact:11(15712) | 215 nodes | perturb*10 probe_embedding*1 probe_linear*7 probe_rows*2
sparse-mezo         trainable:21(31392) | 259 nodes | mask_small*16 perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
lozo                trainable:21(1984) state:32(32384) | 324 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
lozo-momentum       trainable:21(1984) state:32(32384) | 324 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
lora-fa             trainable:4(768) | 228 nodes | perturb*4 probe_linear*4
qzo                 trainable:15(776) | 267 nodes | dequantize_int*15 perturb*15 probe_linear*15
subzero             trainable:21(224) state:48(34208) | 373 nodes | perturb*21 probe_linear*16 probe_rows*5
hizoo               trainable:21(31392) state:21(31392) | 285 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
fzoo                trainable:21(31392) | 242 nodes | perturb*21 probe_embedding*1 probe_linear*15 probe_rows*5
""",
    )


def test_what_each_makes_of_a_roberta(root: Path) -> None:
    """A masked model, its head tied."""
    assert_golden(
        summaries(checkpoint(root, "roberta")),
        """\
senszoq             trainable:13(870) | 397 nodes | left_over*2 linear_rounded*25 minus_base*8 perturb*26 plus_base*10 round_rows*19 row_scales*17 sparse_linear*26
mezo                trainable:42(26504) | 304 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
zo-sgd-sign         trainable:42(26504) | 304 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
zo-sgd-momentum     trainable:42(26504) | 304 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
zo-adam             trainable:42(26504) | 304 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
zo-sgd-conservative trainable:42(26504) | 304 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
forward-grad        trainable:42(26504) | 622 nodes | combine*42
zo-blockwise        trainable:42(26504) | 346 nodes | mask_turn*42 perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
zo-sparse-grad      trainable:42(26504) | 346 nodes | mask_random*42 perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
zo-hybrid           trainable:21(16640) exact:21(9864) | 234 nodes | perturb*21 probe_embedding*3 probe_linear*7 probe_rows*12
sparse-mezo         trainable:42(26504) | 320 nodes | mask_small*16 perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
lozo                trainable:42(2556) state:30(26496) | 384 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
lozo-momentum       trainable:42(2556) state:30(26496) | 384 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
lora-fa             trainable:4(1024) | 177 nodes | perturb*4 probe_linear*4
qzo                 trainable:13(544) | 218 nodes | dequantize_int*13 perturb*13 probe_linear*13
subzero             trainable:42(1156) state:45(27956) | 433 nodes | perturb*42 probe_embedding*1 probe_linear*16 probe_rows*26
hizoo               trainable:42(26504) state:42(26504) | 388 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
fzoo                trainable:42(26504) | 303 nodes | perturb*42 probe_embedding*3 probe_linear*14 probe_rows*26
""",
    )


def summaries(source: Checkpoint) -> str:
    """A line per method."""
    model = build_on_meta(source.config, source.architecture)
    causal = source.architecture == "causal-lm"
    captured = capture(model, source.resolve(model), causal=causal)
    scored = captured.choosing("scores", made_up_scores(source))
    lines = []
    for name in METHODS:
        pipeline = pipeline_for(METHODS[name], OPTIONS.get(name, Options()))
        lines.append(f"{name:20}{summary(pipeline.run(scored))}\n")
    return "".join(lines)


def summary(program: Program) -> str:
    """What moves, what is frozen, and which of our own ops there are."""
    roles = Counter(str(spec.role) for spec in program.tensors.values())
    sizes = dict.fromkeys(Role, 0)
    for spec in program.tensors.values():
        sizes[spec.role] += spec.size
    tensors = " ".join(
        f"{role}:{roles[role]}({sizes[role]})"
        for role in Role
        if roles[role] and role not in FROZEN_ROLES
    )
    calls = (n.target for n in program.graph.nodes if n.op == "call_function")
    ours = Counter(str(target).split(".")[1] for target in calls if str(target).startswith("zofx."))
    plain = ("select_positions", "score_targets", "split_probes", "direction", "replicate")
    ops = " ".join(f"{op}*{ours[op]}" for op in sorted(ours) if op not in plain)
    return f"{tensors} | {len(program.graph.nodes)} nodes | {ops}"

"""Who takes steps: each is given a job and its turns, and goes on until there are no more turns.

    zofx        `zofx.runs.tune.train` itself, whose observer and stop are the turns
    inference   ONNX Runtime on the frozen, quantized graph: every row twice, nothing else
    peers       PyTorch eager: a batch made of rows, then the trainer's step

All see the same examples in the same order. zofx tokenizes in its step; peers, as their trainers
do, before it. Engines are imported in the process that needs them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from benchmarks.step.clock import Clock
from benchmarks.step.job import ROLES, Job, Kind
from benchmarks.step.turns import Turns, status_bytes
from zofx.artifact.layout import WEIGHTS
from zofx.compiler.methods import METHODS
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import JsonlLog, StepMetrics
from zofx.runs.prepare import Prepared, prepare
from zofx.runs.tune import start, train
from zofx.runtimes.host.theta import HostTheta
from zofx.runtimes.host.vocabulary import Vocabulary
from zofx.session import Batch, Session
from zofx.tasks.data.order import batch_indices
from zofx.tasks.encode import Encoder
from zofx.zo.journal.writer import JournalWriter
from zofx.zo.random.direction_spec import DirectionSpec

Contest: TypeAlias = Callable[[Job, Turns], None]

ENDLESS: Final = 1_000_000
"""Steps of a run: the harness ends it."""


def prepared(job: Job, runtime: str = "torch") -> Prepared:
    """The run of a job; nothing is loaded."""
    options = {
        "task": job.task, "data": job.data or None, "seed": job.seed, "dev": 0, "truncate": True,
        "steps": ENDLESS, "batch_size": job.batch, "schedule": "constant",
        "runtime": runtime, "threads": job.threads,
    }  # fmt: skip
    return prepare(Path(job.artifact), options)


# --- zofx -----------------------------------------------------------------------------------------


@dataclass
class Turnstile:
    """An observer and a stop of `train`: lets a step pass when it is asked for.

    Attributes:
        turns: who asks.
        clock: of the parts of a step.
        granted: whether a step was asked for that is not over.
    """

    turns: Turns
    clock: Clock
    granted: bool = False

    def __call__(self) -> bool:
        """Never stop, but wait."""
        if not self.granted:
            self.clock.take()
            self.turns.wait()
            self.granted = True
        return False

    def step(self, metrics: StepMetrics) -> None:
        """The step that was asked for is over."""
        self.turns.done([metrics.loss], self.clock.take())
        self.granted = False

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """There are no dev examples."""

    def close(self) -> None:
        """No file is open."""


def zofx(job: Job, turns: Turns) -> None:
    """`zofx tune`."""
    before = status_bytes("VmRSS")
    run = start(prepared(job, job.contestant.runtime), Path(job.folder) / "run")
    session, clock = run.session(), Clock()
    _watch(clock, session, job.contestant.runtime)
    turns.introduce(before_bytes=before)
    turnstile = Turnstile(turns, clock)
    train(run, session, [turnstile], turnstile)


def _watch(clock: Clock, session: Session, runtime: str) -> None:
    """Time what a step consists of."""
    clock.watch(Encoder, "encode", "encode")
    clock.watch(type(session), "evaluate", "forward")
    for name in ("move", "write"):
        clock.watch(type(session), name, "move")
    clock.watch(type(session), "refresh", "refresh")
    clock.watch(JournalWriter, "append", "journal")
    clock.watch(JsonlLog, "step", "log")
    for owner in (HostTheta, DirectionSpec):
        clock.watch(owner, "draw", "z")
    if runtime == "torch":
        from zofx.ir.ops import directions

        clock.watch(directions, "sample", "z")


# --- plain inference ------------------------------------------------------------------------------


def bare(job: Job, turns: Turns) -> None:
    """One run of the plain graph on two copies of every row, its tables cut to their tokens."""
    import onnxruntime

    before = status_bytes("VmRSS")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = job.threads
    engine = onnxruntime.InferenceSession(job.graph, options, providers=["CPUExecutionProvider"])
    folder = Path(job.graph).parent
    vocabulary = Vocabulary(folder / WEIGHTS, json.loads((folder / ROLES).read_text()))
    turns.introduce(before_bytes=before)
    run = prepared(job)
    for cursor in count(step=job.batch):
        encoded = run.batch(cursor)
        words = vocabulary.words(encoded.batch)
        feeds = {**doubled(words.number(encoded.batch)), **words.tables}
        turns.wait()
        (logprob,) = engine.run(["logprob"], feeds)
        half = logprob[None, : len(logprob) // 2]
        objective: Any = run.workload.objective(run.config.objective)
        turns.done(objective.loss(half, encoded).mean)


def doubled(batch: Batch) -> dict[str, Any]:
    """All rows, and once more all rows, as two probes have them."""
    return {name: np.concatenate([rows, rows]) for name, rows in batch.named().items()}


# --- peers on PyTorch -----------------------------------------------------------------------------


def peer(job: Job, turns: Turns) -> None:
    """A trainer of the field."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from benchmarks.step.rows import collate, rows_of

    disable_progress_bar()
    torch.set_num_threads(job.threads)
    run = prepared(job)
    encoder, examples = run.workload.encoder, run.workload.examples("train")
    gold_only = run.workload.objective(run.config.objective).gold_only
    rows = [rows_of(example, encoder, gold_only=gold_only) for example in examples]
    before = status_bytes("VmRSS")
    step, made_by = _step(job, encoder.pad_id)
    turns.introduce(made_by=made_by, before_bytes=before)
    for cursor in count(step=job.batch):
        turns.wait()
        chosen = batch_indices(job.seed, cursor, job.batch, len(rows))
        inputs = collate([row for i in chosen for row in rows[i]], encoder.pad_id)
        turns.done([float(loss) for loss in step(inputs)])


def _step(job: Job, pad_id: int) -> tuple[Callable[[Any], Any], str]:
    """A step of the job's trainer, and what made it ("" for a stand-in)."""
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.step import lora, standin

    kind = job.contestant.kind
    settings = METHODS["lozo" if kind == "lozo" else "mezo"].settings
    if job.checkout:
        from benchmarks.fidelity.public import commit
        from benchmarks.step.public import public_step

        checkout = Path(job.checkout)
        numbers = (pad_id, settings.lr, settings.eps)
        step = public_step(kind, checkout, Path(job.weights), *numbers)
        return step, f"commit {(commit(checkout) or 'unknown')[:7]}"
    model = AutoModelForCausalLM.from_pretrained(job.weights, dtype=torch.float32)
    if kind == "lora":
        model, made_by = lora.adapted(model)
        return lora.FirstOrder(model).step, made_by
    loops = {"mezo": standin.Mezo, "lozo": standin.Lozo, "zobench": standin.ZoSgd}
    return loops[kind](model, settings.lr, settings.eps).step, ""


CONTESTS: Final[Mapping[Kind, Contest]] = {
    "zofx": zofx, "bare": bare, "mezo": peer, "lozo": peer, "zobench": peer, "lora": peer,
}  # fmt: skip

"""One run of the accuracy benchmark: tune, judge, and prove what was judged.

    before   artifact ─▶ accuracy on test
    trial    artifact ─tune─▶ θ_last, θ_best ─▶ accuracy on test
             journal ─replay on the other runtime─▶ θ_last bit for bit, or ArtifactError
             θ_best ─export─▶ transformers alone ─▶ accuracy, and how many answers differ

A trial that was killed goes on from its run folder, to the step.
"""

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import transformers_reference

from zofx.api.callbacks import Callbacks
from zofx.cli.console import Progress, RunProgress
from zofx.errors import ArtifactError, UsageError
from zofx.runs import jsonl
from zofx.runs.compiled_model import open_session
from zofx.runs.evaluate import evaluate
from zofx.runs.prepare import Prepared, prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.run_config import Engine
from zofx.runs.run_folder import RunFolder
from zofx.runs.task_data import Workload
from zofx.runs.tune import start, train
from zofx.session import Batch, Session, unperturbed
from zofx.tasks.losses import predictions
from zofx.tasks.types import Example
from zofx.zo.journal.replay import replay
from zofx.zo.types import FloatArray, IntArray

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """How θ is judged on the test split.

    Attributes:
        limit: at most so many examples; None takes all.
        batch_size: examples per forward.
    """

    limit: int | None
    batch_size: int

    def examples(self, workload: Workload) -> tuple[Example, ...]:
        """The same for every seed: the test split is not drawn by it."""
        return workload.examples("test")[: self.limit]

    def evaluate(self, prepared: Prepared, session: Session, step: int) -> Row:
        """Accuracy, its Wilson interval, and loss under the session's θ.

        Raises:
            UsageError: the task has no accuracy.
        """
        workload = prepared.workload
        evaluation = evaluate(
            session, workload.encoder, workload.task, self.examples(workload),
            workload.objective(prepared.config.objective), batch_size=self.batch_size, step=step,
        )  # fmt: skip
        if evaluation.accuracy is None:
            raise UsageError(f"task '{workload.task.name}' generates text: it has no accuracy")
        return evaluation.to_dict()

    def answers(self, score: Callable[[Batch], FloatArray], workload: Workload) -> IntArray:
        """The candidate that scores choose for every example, i64[B]."""
        examples, chosen = self.examples(workload), []
        for place in range(0, len(examples), self.batch_size):
            encoded = workload.encoder.encode(examples[place : place + self.batch_size])
            chosen.append(predictions(encoded.scores(score(encoded.batch)))[0])
        return np.concatenate(chosen)


def before(artifact: Path, options: Mapping[str, Any], judge: Judge) -> Row:
    """What the artifact is, and how well it does untrained."""
    prepared = prepare(artifact, options)
    manifest, session = prepared.model.manifest, prepared.session()
    evaluation = judge.evaluate(prepared, session, 0)
    session.close()
    return {
        "artifact": manifest.hash,
        "pipeline": manifest.pipeline,
        "trained_weights": sum(map(prod, manifest.trainables.values())),
        "compile_seconds": manifest.report["seconds"],
        "before": evaluation,
    }


def trial(
    artifact: Path, options: Mapping[str, Any], folder: Path, judge: Judge, export_to: Path | None
) -> Row:
    """Tune to the end, or go on with what is in the folder; then judge and check.

    Args:
        artifact: to tune.
        options: of the run.
        folder: of the run.
        judge: on test.
        export_to: folder for the merged model, which transformers then scores; None leaves it out.

    Raises:
        ArtifactError: replay on torch gave another θ.
    """
    prepared = _prepared(artifact, options, folder)
    run, session = prepared.run, prepared.session()
    assert run is not None
    with Progress("tune") as bar:
        callbacks = Callbacks([RunProgress(bar)])
        callbacks.start(prepared.config, prepared.steps)
        outcome = train(prepared, session, [callbacks])
    digests = _require_bit_equal(prepared, run, session)
    last = judge.evaluate(prepared, session, outcome.steps)
    step, theta = run.theta(artifact, prepared.model.manifest, "best")
    session.write(theta)
    row: Row = {
        "steps": outcome.steps,
        "settings": asdict(prepared.config.settings),
        "drawn": dict(prepared.config.drawn),
        "dev": [
            {"step": at, **evaluation.to_dict()} for at, evaluation in outcome.evaluations.items()
        ],
        "seconds_per_step": statistics.median(r["seconds"] for r in jsonl.read(run.metrics_path)),
        "best": {"step": step, **judge.evaluate(prepared, session, step)},
        "last": {"step": outcome.steps, **last},
        "theta_sha256": digests,
    }
    if export_to is not None:
        row["transformers"] = _in_transformers(prepared, session, judge, theta, export_to)
    session.close()
    return row


def theta_digest(theta: Mapping[str, FloatArray]) -> str:
    """SHA-256 of the trainables in order of name: of each its name and its float32 bytes."""
    hasher = hashlib.sha256()
    for name in sorted(theta):
        hasher.update(name.encode() + b"\0")
        hasher.update(np.ascontiguousarray(theta[name], dtype="<f4").tobytes())
    return hasher.hexdigest()


def _prepared(artifact: Path, options: Mapping[str, Any], folder: Path) -> Prepared:
    if folder.exists():
        return prepare_resumed(artifact, folder, options)
    return start(prepare(artifact, options), folder)


def _require_bit_equal(prepared: Prepared, run: RunFolder, tuned: Session) -> dict[str, str]:
    """Replay the journal on the other runtime; returns the digest of θ by runtime, the two equal.

    Raises:
        ArtifactError: they differ: θ is not a function of artifact and journal.
    """
    engine = prepared.config.engine.runtime
    name = "torch" if engine == "ort" else "ort"
    other = open_session(prepared.model, Engine(name, "cpu", prepared.config.engine.threads))
    replay(other, run.journal(), None, prepared.config.settings.recipe().tensors)
    digests = {engine: theta_digest(tuned.read()), name: theta_digest(other.read())}
    other.close()
    if digests[engine] != digests[name]:
        raise ArtifactError(
            f"{run.journal_path} replayed on {name} gives θ {digests[name][:12]}, and tuning on "
            f"{engine} ended at {digests[engine][:12]}; they must be bit-equal: report this bug"
        )
    return digests


def _in_transformers(
    prepared: Prepared,
    session: Session,
    judge: Judge,
    theta: Mapping[str, FloatArray],
    folder: Path,
) -> Row:
    """The session's θ, exported and scored by transformers alone."""
    workload: Workload = prepared.workload
    reference = transformers_reference.exported(prepared.model.folder, theta, folder)
    theirs = judge.answers(reference, workload)
    ours = judge.answers(lambda batch: session.evaluate(batch, [], unperturbed()), workload)
    examples: Sequence[Example] = judge.examples(workload)
    right = [example.accepted or (example.answer,) for example in examples]
    correct = sum(int(a) in options for a, options in zip(theirs, right, strict=True))
    return {
        "accuracy": correct / len(examples),
        "correct": correct,
        "differing_answers": int((theirs != ours).sum()),
    }

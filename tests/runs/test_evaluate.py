"""Evaluation: the numbers are those of the objectives and metrics, however examples are cut."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tests import tiny
from zofx.errors import ArtifactError, DivergenceError, UnsupportedError, UsageError
from zofx.runs.compiled_model import Model, default_runtime, open_model, open_session
from zofx.runs.evaluate import evaluate
from zofx.runs.evaluation import Evaluation
from zofx.runs.run_config import Engine
from zofx.runs.task_data import Workload, open_workload
from zofx.session import Batch, Session, unperturbed
from zofx.tasks.metrics import accuracy
from zofx.tasks.objectives import OBJECTIVES
from zofx.tasks.selection import TaskChoice
from zofx.zo.types import FloatArray, Key


@pytest.fixture(scope="module")
def model(artifact: Path) -> Model:
    return open_model(artifact)


@pytest.fixture(scope="module")
def workload(model: Model, mood: Path) -> Workload:
    return open_workload(model, TaskChoice(str(mood)))


@pytest.fixture
def session(model: Model) -> Session:
    return open_session(model, Engine("ort", "cpu", 1))


def judge(session: Session, workload: Workload, batch_size: int, name: str) -> Evaluation:
    return evaluate(
        session, workload.encoder, workload.task, workload.examples("train"), OBJECTIVES[name],
        batch_size=batch_size,
    )  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_add_up(session: Session, workload: Workload, name: str) -> None:
    """Any batch size gives the accuracy and loss of scoring all examples in one forward."""
    examples = workload.examples("train")
    encoded = workload.encoder.encode(examples)
    scores = encoded.scores(session.evaluate(encoded.batch, [], unperturbed()))
    whole = OBJECTIVES[name].of(scores, encoded).mean[0]
    for batch_size in (1, 7, 100):
        evaluation = judge(session, workload, batch_size, name)
        assert evaluation.accuracy == accuracy(scores[0], examples)
        # float32 log-probabilities near 5 nats: 2⁻²² each, and the forward's own rounding
        assert evaluation.loss == pytest.approx(whole, abs=1e-5)
        assert evaluation.examples == len(examples)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_differences_alone_are_asked_for(session: Session, workload: Workload, name: str) -> None:
    """By objectives that see no more; a likelihood takes whole probabilities."""
    asked: list[bool] = []

    class Spy:
        def evaluate(self, batch: Batch, keys: Sequence[Key], matrix: FloatArray) -> FloatArray:
            asked.append(batch.relative)
            return session.evaluate(batch, keys, matrix)

    judge(cast("Session", Spy()), workload, 8, name)
    assert set(asked) == {name != "likelihood"}


def test_both_runtimes_judge_alike(session: Session, model: Model, workload: Workload) -> None:
    """torch and ONNX Runtime agree on every answer, and on the loss to rounding."""
    other = open_session(model, Engine("torch", "cpu", 1))
    ours, theirs = (judge(s, workload, 8, "cross-entropy") for s in (session, other))
    assert ours.accuracy == theirs.accuracy
    assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)


def test_progress_is_reported_per_forward(session: Session, workload: Workload) -> None:
    """Examples done, of how many."""
    calls: list[tuple[int, int]] = []
    examples = workload.examples("train")[:10]
    evaluate(
        session, workload.encoder, workload.task, examples, OBJECTIVES["likelihood"],
        batch_size=4, progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls == [(4, 10), (8, 10), (10, 10)]


def test_a_generation_task_has_no_accuracy(session: Session, model: Model, tmp_path: Path) -> None:
    """Completions are scored by likelihood: one candidate is always the best of one."""
    task = tmp_path / "say.jsonl"
    line = '{"prompt": "the film was", "completion": " a joy"}\n'
    task.write_text(line * 10)
    workload = open_workload(model, TaskChoice(str(task)))
    evaluation = judge(session, workload, 4, "likelihood")
    assert evaluation.accuracy is None
    assert evaluation.loss > 0
    assert Evaluation.from_dict(evaluation.to_dict()).accuracy is None


def test_a_loss_that_is_not_finite_is_an_error(session: Session, workload: Workload) -> None:
    """Destroyed weights raise an error with the step, instead of being judged."""
    session.write({name: np.full(s, np.nan, np.float32) for name, s in session.trainables.items()})
    with pytest.raises(DivergenceError, match="after step 7 is nan") as caught:
        evaluate(
            session, workload.encoder, workload.task, workload.examples("dev"),
            OBJECTIVES["cross-entropy"], step=7,
        )  # fmt: skip
    assert caught.value.step == 7


def test_evaluations_rank_by_accuracy_then_loss(session: Session, workload: Workload) -> None:
    """What the best of a run is chosen by; written to JSON and back it is the same."""
    evaluation = judge(session, workload, 8, "cross-entropy")
    assert evaluation.accuracy is not None
    assert evaluation.classes is not None
    ranks = {by: evaluation.rank(by) for by in ("accuracy", "macro-f1", "loss", None)}
    value, macro = evaluation.accuracy.value, evaluation.classes.macro_f1
    assert [ranks[by][0] for by in ranks] == [value, macro, -evaluation.loss, value]
    assert {rank[1] for rank in ranks.values()} == {-evaluation.loss}
    again = Evaluation.from_dict(evaluation.to_dict())
    assert replace(again, seconds=0) == replace(evaluation, seconds=0)
    with pytest.raises(ArtifactError, match="KeyError"):
        Evaluation.from_dict({"examples": 3})


@pytest.mark.parametrize(("count", "message"), [([], "no examples"), (["one"], "batch-size 0")])
def test_nothing_to_do_is_an_error(
    session: Session, workload: Workload, count: Sequence[str], message: str
) -> None:
    """No examples, or batches of none."""
    with pytest.raises(UsageError, match=message):
        evaluate(
            session, workload.encoder, workload.task, workload.examples("dev")[: len(count)],
            OBJECTIVES["cross-entropy"], batch_size=0 if count else 4,
        )  # fmt: skip


def test_every_end_of_a_text_and_a_padding_token_without_a_row(model: Model) -> None:
    """Ends are those of both configurations; padding beyond the embedding becomes any row."""
    special = {**model.manifest.model["special"], "end_ids": [2, 7], "pad_id": tiny.VOCABULARY}
    config = {**model.manifest.config, "eos_token_id": 3}
    described = {**model.manifest.model, "special": special}
    manifest = replace(model.manifest, model=described, config=config)
    other = replace(model, manifest=manifest)
    assert other.end_ids == {2, 3, 7}
    assert other.encoder(None, False).pad_id == 0
    assert model.encoder(None, False).pad_id == 1
    del special["end_ids"]  # of an older zofx
    assert other.end_ids == {2, 3}


def test_a_workload_is_the_tasks_under_the_models_conventions(
    model: Model, workload: Workload
) -> None:
    """Rows are as long as task and model allow, BOS is the tokenizer's, splits are counted."""
    assert workload.encoder.max_length == tiny.POSITIONS
    assert workload.encoder.bos_id is None  # the tiny tokenizer adds none
    assert workload.drawn == {"train": 30, "dev": 9, "test": 9}
    assert workload.digest != open_workload(model, TaskChoice(workload.task.source, seed=1)).digest
    assert workload.objective(None).name == "cross-entropy"
    with pytest.raises(UsageError, match="there is no split 'validation'"):
        workload.examples("validation")  # type: ignore[arg-type]


def test_a_runtime_that_is_not_there_is_refused(model: Model) -> None:
    """Unknown names and devices are answered with what there is."""
    assert default_runtime() == "ort"
    with pytest.raises(UsageError, match="did you mean ort"):
        open_session(model, Engine("orr", "cpu", None))
    with pytest.raises(UnsupportedError, match="no device 'tpu'"):
        open_session(model, Engine("ort", "tpu", None))

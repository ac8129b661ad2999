"""F1 and rewards: judged by `evaluate`, and measured under every probe, on a compiled model."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.scripted import scripted
from zofx.errors import DivergenceError, UsageError
from zofx.runs.compiled_model import Model, open_model, open_session
from zofx.runs.evaluate import evaluate
from zofx.runs.evaluation import Evaluation
from zofx.runs.run_config import Engine
from zofx.runs.task_data import Workload, open_workload
from zofx.runtimes import RUNTIMES
from zofx.session import Session
from zofx.tasks.metrics import TextMatch, f1
from zofx.tasks.selection import TaskChoice
from zofx.zo.types import Key, Ray

REWARD = """
def brief(text, example):
    return -len(set(text.split())) / 7 - example.prompt.count("plot")
"""


@pytest.fixture(scope="module")
def model(artifact: Path) -> Model:
    return open_model(artifact)


@pytest.fixture(scope="module")
def workload(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """Fifteen completions: none ends with a newline, so texts end at </s> or after 50 tokens."""
    path = tmp_path_factory.mktemp("say") / "say.jsonl"
    lines = [
        {"prompt": subject, "completion": f" {words}"}
        for subject in tiny.SUBJECTS[:5]
        for words in tiny.PRAISE[:3]
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return open_workload(model, TaskChoice(str(path)))


@pytest.fixture
def reward(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(REWARD)
    return f"reward:{tmp_path / 'mine.py'}:brief"


@pytest.fixture(params=list(RUNTIMES))
def session(model: Model, request: pytest.FixtureRequest) -> Session:
    return open_session(model, Engine(request.param, "cpu", 1))


def test_f1_and_exact_match_by_hand(workload: Workload) -> None:
    """A model that always says `was a joy`: the numbers follow from the completions alone."""
    vocabulary = workload.encoder.tokenizer.get_vocab()
    joy = [vocabulary[word] for word in ("was", "a", "joy", "</s>")]
    session, _ = scripted(lambda total, row: joy[len(row) - 2])
    examples = workload.examples("train")
    assert all(len(workload.encoder.prompt(example)) == 2 for example in examples)
    golds = [example.references[0] for example in examples]
    exact = golds.count("was a joy")  # the others share no word with it
    assert 0 < exact < len(golds)
    for batch_size in (4, 100):
        evaluation = evaluate(
            session, workload.encoder, workload.task, examples, workload.objective("f1"),
            batch_size=batch_size,
        )  # fmt: skip
        assert evaluation.text == TextMatch(exact, float(exact), len(golds))
        assert evaluation.loss == pytest.approx(1 - exact / len(golds))
        assert (evaluation.accuracy, evaluation.objective) == (None, "f1")


def test_texts_are_written_where_a_decoder_is_given(session: Session, workload: Workload) -> None:
    """`eval` compares texts and keeps the likelihood as loss; without a decoder that is all."""
    asked = (session, workload.encoder, workload.task, workload.examples("dev"))
    objective = workload.objective(None)
    plain = evaluate(*asked, objective)
    evaluation = evaluate(*asked, objective, decoder=workload.decoder)
    assert (plain.text, plain.objective) == (None, "likelihood")
    assert evaluation.loss == plain.loss
    assert evaluation.text is not None
    texts = workload.decoder.answers(session, asked[-1])[0]
    overlap = [f1(t, e.references) for t, e in zip(texts, asked[-1], strict=True)]
    assert evaluation.text.f1 == pytest.approx(np.mean(overlap))
    again = Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict())))
    assert again.text is not None
    assert again.text.f1 == pytest.approx(evaluation.text.f1)
    assert str(again) == str(evaluation)
    assert "exact match" in str(evaluation)


def test_losses_per_probe_are_what_the_function_says(
    session: Session, workload: Workload, reward: str
) -> None:
    """Two probes at once cost what θ ± ε·z, moved by hand, writes and is rewarded for."""
    objective = workload.objective(reward)
    encoded = workload.encoder.encode(workload.examples("train"), gold_only=objective.gold_only)
    key, matrix = Key(1, 0), np.array([[0.6], [-0.6]], dtype=np.float32)
    measured = objective.measure(session, encoded, [key], matrix)
    start, expected = session.read(), []
    for (coefficient,) in matrix:
        session.move([Ray(key, float(coefficient))])
        (texts,) = workload.decoder.answers(session, encoded.examples)
        costs = [
            len(set(text.split())) / 7 + example.prompt.count("plot")
            for text, example in zip(texts, encoded.examples, strict=True)
        ]
        expected.append(sum(costs) / len(costs))
        session.write(start)
    assert measured.tolist() == pytest.approx(expected, rel=1e-12)
    assert measured[0] != measured[1]


def test_an_objective_is_made_once(workload: Workload, reward: str) -> None:
    """A run asks for it at every batch: the file runs once, and the name is one."""
    objective = workload.objective(reward)
    assert workload.objective(reward) is objective
    assert objective.name == reward
    assert workload.objective("f1") is workload.objective("f1")


def test_best_is_by_the_reward_where_one_is_given(reward: str) -> None:
    """F1 ranks first of a generation task; who gives a reward wants the reward."""
    better, worse = TextMatch(3, 3.0, 4), TextMatch(1, 1.0, 4)
    costly, cheap = (
        [Evaluation(None, loss, name, 4, 1.0, text) for name in ("likelihood", reward)]
        for loss, text in ((2.0, better), (1.0, worse))
    )
    assert costly[0].rank(None) > cheap[0].rank(None)
    assert costly[1].rank(None) < cheap[1].rank(None)


def test_destroyed_weights_are_told_with_the_step(session: Session, workload: Workload) -> None:
    """No text is judged that was written from what is not a number."""
    session.write({name: np.full(s, np.nan, np.float32) for name, s in session.trainables.items()})
    with pytest.raises(DivergenceError, match="after step 7 is nan") as caught:
        evaluate(
            session, workload.encoder, workload.task, workload.examples("dev"),
            workload.objective("f1"), step=7,
        )  # fmt: skip
    assert caught.value.step == 7


def test_what_has_no_references_has_no_f1(model: Model, mood: Path, reward: str) -> None:
    """Candidates are chosen, not written; a reward judges any text."""
    choosing = open_workload(model, TaskChoice(str(mood)))
    assert not choosing.generates
    with pytest.raises(UsageError, match=r"objective 'f1' compares texts .* use error-rate"):
        choosing.objective("f1")
    assert choosing.objective(reward).name == reward


def test_the_names_of_objectives_are_reported(workload: Workload) -> None:
    """All of them, with the form of a reward."""
    with pytest.raises(UsageError, match=r"error-rate, f1, reward:FILE.py:FUNCTION"):
        workload.objective("bleu")

"""Classification reports: the definitions are scikit-learn's, and a collapse shows."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from zofx.tasks.class_report import ClassReport, class_report, classes_of
from zofx.tasks.types import Example

LABELS = (" no", " yes", " maybe", " never")


def examples(gold: list[int], labels: tuple[str, ...] = LABELS) -> list[Example]:
    return [Example("is it?", labels, answer) for answer in gold]


def report(gold: list[int], answers: list[int]) -> ClassReport:
    made = class_report(np.array(answers, dtype=np.int64), examples(gold))
    assert made is not None
    return made


PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_definitions_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    """Precision, recall, F1, support, macro-F1 and the confusion matrix of any answers."""
    gold, answers = [g for g, _ in pairs], [a for _, a in pairs]
    ours = report(gold, answers)
    classes = list(range(len(LABELS)))
    expected = precision_recall_fscore_support(gold, answers, labels=classes, zero_division=0)
    for mine, theirs in zip((ours.precision, ours.recall, ours.f1), expected, strict=False):
        np.testing.assert_allclose(mine, theirs, rtol=1e-14)
    np.testing.assert_array_equal(ours.support, expected[3])
    np.testing.assert_array_equal(ours.matrix, confusion_matrix(gold, answers, labels=classes))
    macro = f1_score(gold, answers, average="macro", zero_division=0)
    assert ours.macro_f1 == pytest.approx(macro, rel=1e-14)
    assert ours.accuracy.correct == sum(g == a for g, a in pairs)
    assert ClassReport.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours


@given(PAIRS, PAIRS)
def test_parts_add_up(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    """The sum of two reports is the report of all answers."""
    whole = report(*map(list, zip(*one, *other, strict=True)))  # type: ignore[arg-type]
    parts = [report(*map(list, zip(*pairs, strict=True))) for pairs in (one, other)]  # type: ignore[arg-type]
    assert parts[0] + parts[1] == whole


# 100 examples: 85 "no", 15 "yes"; the answers, what the report says, and what it must not.
WARNINGS: list[tuple[list[int], str | None]] = [
    ([0] * 100, "every one of the 100 answers is ' no'"),
    ([0] * 84 + [1] + [0] * 14 + [1], "not above the majority baseline: always answering ' no'"),
    ([0] * 85 + [1] * 15, None),
]


@pytest.mark.parametrize(("answers", "message"), WARNINGS)
def test_a_collapse_shows_behind_a_high_accuracy(answers: list[int], message: str | None) -> None:
    """One answer alone, or no better than the majority, is a warning; a real success is none."""
    made = report([0] * 85 + [1] * 15, answers)
    assert made.accuracy.value >= 0.85
    assert made.majority == (" no", 0.85)
    assert [message in text for text in made.warnings if message] == [True] * bool(message)
    assert bool(made.warnings) == bool(message)


def test_the_spam_of_the_report() -> None:
    """All "No": accuracy 0.85, recall of the rare class 0, macro-F1 0.459 = 2·0.85/1.85 / 2."""
    made = report([0] * 85 + [1] * 15, [0] * 100)
    assert made.recall.tolist() == [1, 0, 0, 0]
    assert made.macro_f1 == pytest.approx(2 * 0.85 / 1.85 / 2)
    fields = made.to_dict()
    assert [row["answer_share"] for row in fields["classes"]] == [1, 0, 0, 0]
    assert [line.split()[:5] for line in str(made).splitlines()][2] == [
        "'", "yes'", "15", "0", "0.000",
    ]  # fmt: skip


def test_one_class_alone_is_no_collapse() -> None:
    """Where all examples are of one class, one answer is right."""
    assert report([1] * 20, [1] * 20).warnings == ()


def test_choices_that_differ_are_no_classes() -> None:
    """Candidates of each example's own have no table; nor has a single completion."""
    mixed = [*examples([0]), Example("which?", (" this", " that"), 1)]
    assert class_report(np.array([0, 1]), mixed) is None
    assert classes_of([Example("say", (" six",))]) is None


def test_wide_tables_are_left_to_json() -> None:
    """The confusion matrix of 13 classes is not printed."""
    labels = tuple(f" c{i}" for i in range(13))
    made = class_report(np.zeros(13, dtype=np.int64), examples(list(range(13)), labels))
    assert made is not None
    assert "13 classes is in --json" in str(made)
    assert len(made.to_dict()["confusion"]) == 13

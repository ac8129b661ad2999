"""What "best on dev" means: by default what the task is judged by, else what was asked for."""

import pytest

from zofx.errors import UsageError
from zofx.runs.evaluation import Evaluation, selection
from zofx.tasks.metrics import Accuracy
from zofx.tasks.types import Example, Kind

CLASSES = [Example("a", (" no", " yes"), 0), Example("b", (" no", " yes"), 1)]
CHOICES = [Example("a", (" no", " yes"), 0), Example("b", (" this", " that"), 1)]
TEXTS = [Example("a", (" six",))]
REWARD = "reward:f.py:f"

# kind, objective, dev examples, asked → chosen
CHOSEN: list[tuple[Kind, str, list[Example], str | None, str]] = [
    ("classification", "cross-entropy", CLASSES, None, "macro-f1"),
    ("classification", "cross-entropy", CHOICES, None, "accuracy"),
    ("classification", "cross-entropy", CLASSES, "accuracy", "accuracy"),
    ("classification", "cross-entropy", CLASSES, "loss", "loss"),
    ("classification", REWARD, CLASSES, None, "loss"),
    ("multiple-choice", "likelihood", CHOICES, None, "accuracy"),
    ("generation", "likelihood", TEXTS, None, "loss"),
    ("generation", "f1", TEXTS, None, "f1"),
    ("generation", REWARD, TEXTS, "f1", "f1"),
]


@pytest.mark.parametrize(("kind", "objective", "dev", "asked", "chosen"), CHOSEN)
def test_the_metric_of_the_best(
    kind: Kind, objective: str, dev: list[Example], asked: str | None, chosen: str
) -> None:
    """Macro-F1 for classes, accuracy for choices, F1 for texts that dev writes, else the loss."""
    assert selection(kind, objective, dev, asked) == chosen


REFUSED: list[tuple[Kind, str, list[Example], str]] = [
    ("classification", "cross-entropy", CLASSES, "f1"),
    ("classification", "cross-entropy", CHOICES, "macro-f1"),
    ("multiple-choice", "likelihood", CHOICES, "macro-f1"),
    ("generation", "likelihood", TEXTS, "f1"),
    ("generation", "f1", TEXTS, "accuracy"),
    ("classification", "cross-entropy", CLASSES, "auc"),
]


@pytest.mark.parametrize(("kind", "objective", "dev", "asked"), REFUSED)
def test_a_metric_that_will_not_be_measured_is_refused(
    kind: Kind, objective: str, dev: list[Example], asked: str
) -> None:
    """The message names what there is."""
    with pytest.raises(UsageError, match=f"--select-by {asked}: .* ranked by .*loss"):
        selection(kind, objective, dev, asked)


def test_an_evaluation_has_no_rank_by_what_it_lacks() -> None:
    """An accuracy without classes has no macro-F1."""
    with pytest.raises(UsageError, match="without macro-f1"):
        Evaluation(Accuracy(1, 2), 0.5, "cross-entropy", 2, 0.0).rank("macro-f1")

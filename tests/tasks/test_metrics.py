"""Metrics, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zofx.tasks.metrics import (
    Accuracy,
    TextMatch,
    accuracy,
    exact_match,
    f1,
    normalised,
    text_match,
    wilson,
)
from zofx.tasks.types import Example


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson(correct: int, total: int, low: float, high: float) -> None:
    """The interval has its known values (81 of 263: Newcombe 1998, table I)."""
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


@given(total=st.integers(1, 500), data=st.data())
def test_wilson_holds_the_share(total: int, data: st.DataObject) -> None:
    """Its ends lie 1.96 of their own standard errors from the share, on both sides of it."""
    correct = data.draw(st.integers(0, total))
    low, high = wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    for bound in (low, high):
        distance = (correct / total - bound) ** 2
        assert distance == pytest.approx(1.959964**2 * bound * (1 - bound) / total, abs=1e-7)
    assert wilson(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_accuracy() -> None:
    """Any accepted candidate counts; batches add up; it prints with its interval."""
    examples = [Example("a", ("x", "y", "z"), 0, accepted=(0, 2)), Example("b", ("x", "y"), 0)]
    scores = np.array([[-3, -2, -1], [-2, -1, -np.inf]], dtype=np.float32)
    measured = accuracy(scores, examples)
    assert measured == Accuracy(1, 2)
    assert str(measured + Accuracy(4, 8)) == "0.500 [0.237, 0.763] (5/10)"


def test_text_match() -> None:
    """One exact text of three, F1 (1 + ½ + 0) / 3; without references the gold one counts."""
    examples = [
        Example("a", (" six\n",), references=("six", "six legs")),
        Example("b", (" the cat\n",), references=("the cat", "dog")),
        Example("c", (" no\n", " two\n"), 1),
    ]
    match = text_match([" Six legs.", " black cat sat", " no"], examples)
    assert match == TextMatch(exact=1, overlap=1.5, total=3)
    assert match.f1_interval == wilson(1.5, 3)
    assert text_match([" two"], examples[2:]) == TextMatch(1, 1.0, 1)
    parts = text_match([" Six legs."], examples[:1]) + text_match([" cat", ""], examples[1:])
    assert parts.f1 == pytest.approx((1 + 1 + 0) / 3)
    assert str(match) == ("F1 0.500 [0.125, 0.875], exact match 0.333 [0.061, 0.792] (1/3)")


def test_normalised() -> None:
    """Case, punctuation, articles and spacing do not count; articles inside words stay."""
    assert normalised("  The  Theatre, a U.S. (an) Anthem! ") == "theatre us anthem"


@pytest.mark.parametrize(
    ("prediction", "references", "em", "overlap"),
    [
        ("the cat", ["A cat."], 1.0, 1.0),
        ("black cat sat", ["the cat", "dog"], 0.0, 0.5),
        ("red red blue", ["red blue blue"], 0.0, 2 / 3),
        ("nothing", ["six", "six legs"], 0.0, 0.0),
        ("six", ["six legs", "six"], 1.0, 1.0),
        ("", ["the"], 0.0, 0.0),
        (".", [" A"], 0.0, 0.0),
        ("a.", [" A"], 1.0, 1.0),
        ("the", ["a"], 0.0, 0.0),
        ("!", ["?"], 0.0, 0.0),
        ("the a", ["A"], 0.0, 2 / 3),
        ("", [""], 1.0, 1.0),
        ("", ["six"], 0.0, 0.0),
    ],
)
def test_exact_match_and_f1(
    prediction: str, references: list[str], em: float, overlap: float
) -> None:
    """Worked by hand: the best reference counts; a repeated word as often as both have it."""
    assert exact_match(prediction, references) == em
    assert f1(prediction, references) == pytest.approx(overlap)

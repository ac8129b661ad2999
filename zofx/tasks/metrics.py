"""How a model is judged: accuracy with its interval, exact match and F1 of text.

    Wilson interval    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n),  z = 1.96 for 95 %
    F1                 2·common / (predicted + reference) over normalised words, the best of the
    references

A mean F1 has Wilson's interval too, as a share that need not be a count: F1 lies in [0, 1], where
nothing with mean p varies more than a coin of p, so the interval is too wide if anything, and stays
of use where all values are equal.

Texts are normalised as SQuAD's are, but never to nothing: there the gold answer "A" and the text
"." are both empty, and agree.

Sources: E. B. Wilson 1927, JASA 22 (the interval); Rajpurkar et al. 2016, arXiv 1606.05250
(normalisation, EM, F1).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from zofx.tasks.losses import predictions
from zofx.tasks.types import Example, references
from zofx.zo.types import FloatArray

NORMAL_95 = 1.959963984540054
ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Accuracy:
    """A share of examples answered correctly."""

    correct: int
    total: int

    def __add__(self, other: "Accuracy") -> "Accuracy":
        return Accuracy(self.correct + other.correct, self.total + other.total)

    @property
    def value(self) -> float:
        """Between 0 and 1."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval."""
        return wilson(self.correct, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] ({self.correct}/{self.total})"


@dataclass(frozen=True)
class TextMatch:
    """How well texts agree with their references.

    Attributes:
        exact: how many are one of their references, normalised.
        overlap: the sum of their F1.
        total: how many texts.
    """

    exact: int
    overlap: float
    total: int

    def __add__(self, other: "TextMatch") -> "TextMatch":
        return TextMatch(
            self.exact + other.exact, self.overlap + other.overlap, self.total + other.total
        )

    @property
    def f1(self) -> float:
        """The mean, between 0 and 1."""
        return self.overlap / self.total

    @property
    def f1_interval(self) -> tuple[float, float]:
        """StepSelector 95 %."""
        return wilson(self.overlap, self.total)

    @property
    def exact_match(self) -> Accuracy:
        """The share of exact ones."""
        return Accuracy(self.exact, self.total)

    def __str__(self) -> str:
        low, high = self.f1_interval
        return f"F1 {self.f1:.3f} [{low:.3f}, {high:.3f}], exact match {self.exact_match}"


def wilson(correct: float, total: int, z: float = NORMAL_95) -> tuple[float, float]:
    """The Wilson score interval of a share; inside [0, 1] and of use at shares near 0 and 1."""
    p, spread = correct / total, z * z / total
    centre = p + spread / 2
    half = z * math.sqrt(p * (1 - p) / total + spread / (4 * total))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    return (0.0 if correct == 0 else low, 1.0 if correct == total else high)


def accuracy(scores: FloatArray, examples: Sequence[Example]) -> Accuracy:
    """How often the best candidate is a right one.

    Args:
        scores: f32[B, M], of one probe.
        examples: the B examples; those that accept several candidates count any of them.
    """
    chosen = predictions(scores[None])[0]
    right = [e.accepted or (e.answer,) for e in examples]
    correct = sum(int(c) in options for c, options in zip(chosen, right, strict=True))
    return Accuracy(correct, len(examples))


def text_match(texts: Sequence[str], examples: Sequence[Example]) -> TextMatch:
    """How one probe's B texts agree with the references of their examples."""
    judged = [(text, references(e)) for text, e in zip(texts, examples, strict=True)]
    return TextMatch(
        exact=sum(exact_match(text, gold) == 1 for text, gold in judged),
        overlap=math.fsum(f1(text, gold) for text, gold in judged),
        total=len(judged),
    )


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces.

    What would leave nothing is not taken away: an answer may be the letter A, or a full stop.
    """
    whole = " ".join(text.lower().split())
    plain = " ".join(whole.translate(WITHOUT_PUNCTUATION).split()) or whole
    return " ".join(ARTICLES.sub(" ", plain).split()) or plain


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the normalised prediction is one of the normalised references."""
    return float(normalised(prediction) in map(normalised, references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """The best word-overlap F1 over the references."""
    return max(_f1(normalised(prediction).split(), normalised(r).split()) for r in references)


def _f1(prediction: list[str], reference: list[str]) -> float:
    """F1 of two bags of words; two empty ones agree."""
    if not prediction or not reference:
        return float(prediction == reference)
    common = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * common / (len(prediction) + len(reference))

"""How a classification was answered, class by class: what an accuracy hides.

    counts[g, a]         examples of class g that were answered with class a
    precision[c]         counts[c, c] / Σ_g counts[g, c]       0 where c was never answered
    recall[c]            counts[c, c] / Σ_a counts[c, a]       0 where c never occurs
    F1[c]                2 · counts[c, c] / (Σ_g counts[g, c] + Σ_a counts[c, a])
    macro-F1             mean of F1 over the classes that occur or were answered
    majority baseline    max_g Σ_a counts[g, a] / Σ counts      what one constant answer gets

The definitions, and what happens where a denominator is 0, are scikit-learn's
(`precision_recall_fscore_support`, `zero_division=0`). Reports of two parts add up to that of both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zofx.tasks.metrics import Accuracy
from zofx.tasks.types import Example
from zofx.zo.types import IntArray

MOST_SHOWN: Final = 12
"""Classes whose confusion matrix is printed: a wider one does not fit a terminal."""


@dataclass(frozen=True)
class ClassReport:
    """Counts of (gold class, answer), and what follows from them.

    Attributes:
        labels: K names, as the candidates are written.
        counts: K rows of K; row g, column a: examples of class g that were answered with a.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def __add__(self, other: "ClassReport") -> "ClassReport":
        return _report(self.labels, self.matrix + other.matrix)

    @property
    def matrix(self) -> IntArray:
        """The confusion matrix, i64[K, K]."""
        return np.array(self.counts, dtype=np.int64)

    @property
    def support(self) -> IntArray:
        """Examples of each class, i64[K]."""
        return np.asarray(self.matrix.sum(axis=1))

    @property
    def answered(self) -> IntArray:
        """How often each class was the answer, i64[K]."""
        return np.asarray(self.matrix.sum(axis=0))

    @property
    def accuracy(self) -> Accuracy:
        """Examples answered rightly."""
        return Accuracy(int(np.trace(self.matrix)), int(self.matrix.sum()))

    @property
    def majority(self) -> tuple[str, float]:
        """The most frequent class and its share: the accuracy of always answering that."""
        index = int(self.support.argmax())
        return self.labels[index], float(self.support[index] / self.support.sum())

    @property
    def precision(self) -> NDArray[np.float64]:
        """f64[K]."""
        return _ratio(np.diag(self.matrix), self.answered)

    @property
    def recall(self) -> NDArray[np.float64]:
        """f64[K]."""
        return _ratio(np.diag(self.matrix), self.support)

    @property
    def f1(self) -> NDArray[np.float64]:
        """f64[K]."""
        return _ratio(2 * np.diag(self.matrix), self.answered + self.support)

    @property
    def macro_f1(self) -> float:
        """Mean of F1 over the classes that occur or were answered."""
        return float(self.f1[(self.answered + self.support) > 0].mean())

    @property
    def collapsed(self) -> str | None:
        """The one class that every example was answered with, where there are several classes."""
        several = np.count_nonzero(self.support) > 1
        one = np.count_nonzero(self.answered) == 1
        return self.labels[int(self.answered.argmax())] if several and one else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the accuracy alone would hide; empty where nothing is wrong."""
        label, share = self.majority
        low, high = self.accuracy.interval
        if self.collapsed is not None:
            return (
                f"every one of the {self.accuracy.total} answers is {self.collapsed!r}: the "
                f"accuracy is that of a constant (the majority, {label!r}, is {share:.3f})",
            )
        if np.count_nonzero(self.support) > 1 and low <= share:
            return (
                f"the accuracy's interval [{low:.3f}, {high:.3f}] is not above the majority "
                f"baseline: always answering {label!r} gives {share:.3f}",
            )
        return ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        label, share = self.majority
        columns = (self.support, self.answered, self.precision, self.recall, self.f1)
        rows = zip(self.labels, *(column.tolist() for column in columns), strict=True)
        names = ("label", "support", "answered", "precision", "recall", "f1")
        total = self.accuracy.total
        return {
            "macro_f1": self.macro_f1,
            "majority": {"label": label, "share": share},
            "classes": [
                {**dict(zip(names, row, strict=True)), "answer_share": row[2] / total}
                for row in rows
            ],
            "confusion": [list(row) for row in self.counts],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ClassReport":
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, or is none.
        """
        labels = tuple(str(row["label"]) for row in fields["classes"])
        matrix = np.array(fields["confusion"], dtype=np.int64).reshape(len(labels), len(labels))
        return _report(labels, matrix)

    def __str__(self) -> str:
        """A table by class and, of up to a dozen, the confusion matrix."""
        total = self.accuracy.total
        head = ("class", "gold", "answers", "share", "precision", "recall", "F1")
        numbers = zip(
            self.support, self.answered, self.answered / total, self.precision, self.recall,
            self.f1, strict=True,
        )  # fmt: skip
        rows = [
            (repr(label), f"{s}", f"{a}", f"{share:.3f}", f"{p:.3f}", f"{r:.3f}", f"{f:.3f}")
            for label, (s, a, share, p, r, f) in zip(self.labels, numbers, strict=True)
        ]
        table = _aligned([head, *rows])
        if len(self.labels) > MOST_SHOWN:
            return f"{table}\nthe confusion matrix of {len(self.labels)} classes is in --json"
        crossed = [(repr(label), *map(str, row)) for label, row in zip(self.labels, self.counts)]  # noqa: B905  K rows for K labels
        confusion = _aligned([("gold \\ answer", *map(repr, self.labels)), *crossed])
        return f"{table}\n\n{confusion}"


def class_report(answers: IntArray, examples: Sequence[Example]) -> ClassReport | None:
    """The report of answers to examples of one set of classes; None where these have none.

    Args:
        answers: i64[B], the chosen candidates, each a number.
        examples: B of them. Only where all have the same candidates are these classes.
    """
    labels = classes_of(examples)
    if labels is None:
        return None
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for example, answer in zip(examples, answers.tolist(), strict=True):
        matrix[example.answer, answer] += 1
    return _report(labels, matrix)


def classes_of(examples: Sequence[Example]) -> tuple[str, ...] | None:
    """The candidates that all examples share, at least two; None where they differ."""
    shared = {example.candidates for example in examples}
    several = len(shared) == 1 and len(next(iter(shared))) > 1
    return next(iter(shared)) if several else None


def _report(labels: tuple[str, ...], matrix: IntArray) -> ClassReport:
    return ClassReport(labels, tuple(tuple(map(int, row)) for row in matrix))


def _ratio(numerator: IntArray, denominator: IntArray) -> NDArray[np.float64]:
    """0 where the denominator is."""
    return np.asarray(numerator / np.maximum(denominator, 1), dtype=np.float64)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """The first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )

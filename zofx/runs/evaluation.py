"""The result of evaluating a split, and which of two results is the better one.

    Evaluation ──rank(select_by)──▶ (metric, −loss)     the greater is better

`select_by` names the metric; a run that was made before it existed is ranked as it was then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zofx.errors import ArtifactError, UsageError
from zofx.tasks.class_report import ClassReport, classes_of
from zofx.tasks.metrics import Accuracy, TextMatch
from zofx.tasks.reward import PREFIX
from zofx.tasks.types import Example, Kind

SELECTIONS: Final = ("accuracy", "macro-f1", "loss", "f1")
"""What "best on dev" can mean."""


@dataclass(frozen=True)
class Evaluation:
    """How a split was answered.

    Attributes:
        accuracy: the share answered correctly; None for a generation task.
        loss: mean of the objective, in its units.
        objective: its name.
        examples: how many.
        seconds: wall clock.
        text: how greedy text agrees with the references of a generation task; None if none was
            written.
        classes: the answers class by class; None where the examples share no classes.
    """

    accuracy: Accuracy | None
    loss: float
    objective: str
    examples: int
    seconds: float
    text: TextMatch | None = None
    classes: ClassReport | None = None

    def rank(self, select_by: str | None) -> tuple[float, float]:
        """Greater is better: a metric first, the loss where that ties.

        Args:
            select_by: one of SELECTIONS; None is the rule of runs that name none: the accuracy or
                F1, and of a run that maximises a reward that reward.

        Raises:
            UsageError: this evaluation has no such metric.
        """
        metrics: Mapping[str | None, float | None] = {
            "accuracy": self.accuracy.value if self.accuracy else None,
            "macro-f1": self.classes.macro_f1 if self.classes else None,
            "f1": self.text.f1 if self.text else None,
            "loss": -self.loss,
            None: self._first_metric,
        }
        metric = metrics[select_by]
        if metric is None:
            raise UsageError(f"an evaluation without {select_by} cannot be ranked by it")
        return (metric, -self.loss)

    @property
    def _first_metric(self) -> float:
        if self.objective.startswith(PREFIX):
            return -self.loss
        return self.accuracy.value if self.accuracy else self.text.f1 if self.text else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As `--json` and a run's evaluations have it."""
        fields: dict[str, Any] = {
            "examples": self.examples,
            "objective": self.objective,
            "loss": self.loss,
        }
        if self.accuracy is not None:
            fields |= {
                "accuracy": self.accuracy.value,
                "correct": self.accuracy.correct,
                "interval95": list(self.accuracy.interval),
            }
        if self.classes is not None:
            fields |= self.classes.to_dict()
        if self.text is not None:
            exact = self.text.exact_match
            fields |= {
                "f1": self.text.f1,
                "f1_interval95": list(self.text.f1_interval),
                "exact_match": exact.value,
                "exact": exact.correct,
                "exact_match_interval95": list(exact.interval),
            }
        return {**fields, "seconds": round(self.seconds, 3)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Evaluation":
        """Read it back.

        Raises:
            ArtifactError: a field is missing.
        """
        try:
            examples = int(fields["examples"])
            accuracy = Accuracy(int(fields["correct"]), examples) if "correct" in fields else None
            text = _text_match(fields, examples) if "f1" in fields else None
            classes = ClassReport.from_dict(fields) if "confusion" in fields else None
            loss, seconds = float(fields["loss"]), float(fields["seconds"])
            return cls(accuracy, loss, fields["objective"], examples, seconds, text, classes)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"an evaluation is damaged ({type(error).__name__}: {error}); delete its line"
            ) from error

    def __str__(self) -> str:
        parts = [f"accuracy {self.accuracy}"] if self.accuracy else []
        if self.classes is not None:
            _, share = self.classes.majority
            parts.append(f"macro-F1 {self.classes.macro_f1:.3f}, majority {share:.3f}")
        if self.text is not None:
            parts.append(str(self.text))
        return ", ".join([*parts, f"{self.objective} {self.loss:.4f}"])


def _text_match(fields: Mapping[str, Any], examples: int) -> TextMatch:
    return TextMatch(int(fields["exact"]), float(fields["f1"]) * examples, examples)


def selection(kind: Kind, objective: str, dev: Sequence[Example], asked: str | None) -> str:
    """What "best on dev" means in a run.

    Args:
        kind: of its task.
        objective: of the run, by name.
        dev: its dev examples; macro-F1 needs one set of classes.
        asked: one of SELECTIONS; None leaves it to the task: macro-F1 for classes, the accuracy for
            other choices, F1 where that is the objective, the loss for everything else.

    Raises:
        UsageError: there is no such metric, or its evaluations will not have it.
    """
    writes = objective == "f1" or objective.startswith(PREFIX)
    available = {
        "macro-f1": kind == "classification" and classes_of(dev) is not None,
        "accuracy": kind != "generation",
        "f1": kind == "generation" and writes,
        "loss": True,
    }
    possible = [name for name, there in available.items() if there]
    if asked is None:
        return "loss" if objective.startswith(PREFIX) else possible[0]
    if asked not in possible:
        raise UsageError(
            f"--select-by {asked}: the evaluations of this run can be ranked by "
            f"{', '.join(possible)}"
            + ("; f1 needs --objective f1" if asked == "f1" and kind == "generation" else "")
        )
    return asked

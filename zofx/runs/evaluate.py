"""The verb: how well does θ answer a split of a task.

    examples ──by length──▶ chunks ──encode──▶ session, no probe ──▶ scores ──▶ accuracy, loss
                                   ──decoder──▶ greedy texts ──▶ F1, exact match, loss

Texts cost a forward per token: they are written where a decoder is given, or the objective reads
them. Chunks add up: how the examples are ordered and cut changes the result only by the rounding of
the forward. This module needs numpy only.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, TypeAlias

from zofx.errors import ArtifactError, DivergenceError, UsageError
from zofx.session import Session, unperturbed
from zofx.tasks.decode import Decoder
from zofx.tasks.encode import Encoded, Encoder
from zofx.tasks.metrics import Accuracy, TextMatch, accuracy, text_match
from zofx.tasks.objectives import Loss, Objective, TextObjective
from zofx.tasks.reward import PREFIX
from zofx.tasks.types import Example, Task

Progress: TypeAlias = Callable[[int, int], None]  # (examples done, of how many)


def no_progress(done: int, total: int) -> None:
    """Report nothing."""


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
    """

    accuracy: Accuracy | None
    loss: float
    objective: str
    examples: int
    seconds: float
    text: TextMatch | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Greater is better: the task's metric first, the loss where that ties.

        Who gives a reward wants that instead: there the loss comes first.
        """
        metric = self.accuracy.value if self.accuracy else self.text.f1 if self.text else 0.0
        if self.objective.startswith(PREFIX):
            return (-self.loss, metric)
        return (metric, -self.loss)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` and a run's evaluations hold."""
        said: dict[str, Any] = {
            "examples": self.examples,
            "objective": self.objective,
            "loss": self.loss,
        }
        if self.accuracy is not None:
            said |= {
                "accuracy": self.accuracy.value,
                "correct": self.accuracy.correct,
                "interval95": list(self.accuracy.interval),
            }
        if self.text is not None:
            exact = self.text.exact_match
            said |= {
                "f1": self.text.f1,
                "f1_interval95": list(self.text.f1_interval),
                "exact_match": exact.value,
                "exact": exact.correct,
                "exact_match_interval95": list(exact.interval),
            }
        return {**said, "seconds": round(self.seconds, 3)}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> "Evaluation":
        """Read it back.

        Raises:
            ArtifactError: a field is missing.
        """
        try:
            examples = int(said["examples"])
            judged = Accuracy(int(said["correct"]), examples) if "correct" in said else None
            text = _text_match(said, examples) if "f1" in said else None
            loss, seconds = float(said["loss"]), float(said["seconds"])
            return cls(judged, loss, said["objective"], examples, seconds, text)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"an evaluation is damaged ({type(error).__name__}: {error}); delete its line"
            ) from error

    def __str__(self) -> str:
        judged = f"accuracy {self.accuracy}, " if self.accuracy else ""
        written = f"{self.text}, " if self.text else ""
        return f"{judged}{written}{self.objective} {self.loss:.4f}"


def _text_match(said: dict[str, Any], examples: int) -> TextMatch:
    return TextMatch(int(said["exact"]), float(said["f1"]) * examples, examples)


@dataclass(frozen=True)
class _Part:
    """What a chunk adds to an evaluation."""

    accuracy: Accuracy
    text: TextMatch | None
    loss: Loss

    def __add__(self, other: "_Part") -> "_Part":
        text = self.text + other.text if self.text and other.text else None
        return _Part(self.accuracy + other.accuracy, text, self.loss + other.loss)


def evaluate(  # noqa: PLR0913  who asks decides what is measured, and how
    session: Session,
    encoder: Encoder,
    task: Task,
    examples: Sequence[Example],
    objective: Objective,
    *,
    decoder: Decoder | None = None,
    batch_size: int = 16,
    step: int = 0,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score examples under the session's θ, and write answers where these are judged.

    Args:
        session: holds θ.
        encoder: examples → rows.
        task: tells whether an accuracy or an F1 has a meaning.
        examples: at least one.
        objective: whose loss is reported.
        decoder: writes the texts of a generation task; None leaves it at the loss, unless the
            objective has one.
        batch_size: examples per forward.
        step: how many steps led to this θ, for messages.
        progress: called after every batch.

    Raises:
        UsageError: the batch size is not positive, or an example cannot be encoded.
        DivergenceError: the loss, or a score of the candidates, is not a number.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: at least one example is evaluated at a time")
    if not examples:
        raise UsageError("there are no examples to evaluate on")
    start = time.perf_counter()
    writes = objective.decoder if isinstance(objective, TextObjective) else decoder
    # Rows of one forward are padded to the longest: neighbours in length waste the least.
    ordered = sorted(examples, key=lambda example: len(example.prompt))
    parts = []
    for place in range(0, len(ordered), batch_size):
        chunk = ordered[place : place + batch_size]
        # What is said of texts is said of their probabilities, too, and these have to be whole.
        encoded = encoder.encode(chunk, relative=objective.relative and writes is None)
        parts.append(_chunk(session, encoded, objective, writes, step))
        progress(place + len(chunk), len(ordered))
    whole = reduce(add, parts)
    generation = task.kind == "generation"
    return Evaluation(
        None if generation else whole.accuracy,
        float(whole.loss.mean[0]),
        objective.name,
        len(ordered),
        time.perf_counter() - start,
        whole.text if generation else None,
    )


def _chunk(
    session: Session, encoded: Encoded, objective: Objective, decoder: Decoder | None, step: int
) -> _Part:
    examples = encoded.examples
    scores = encoded.scores(session.evaluate(encoded.batch, [], unperturbed()))
    if decoder is not None:
        _require_finite("log-probability", float(scores.max()), step)
    texts = [] if decoder is None else decoder.answers(session, examples)
    if isinstance(objective, TextObjective):
        loss = objective.loss(texts, examples)
    else:
        loss = objective.of(scores, encoded)
    _require_finite(objective.name, float(loss.mean[0]), step)
    return _Part(
        accuracy(scores[0], examples), text_match(texts[0], examples) if texts else None, loss
    )


def _require_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise DivergenceError(
            f"the {what} of the weights after step {step} is {value}: training has destroyed them, "
            "or the compiled model overflows; go back to an earlier step",
            step,
        )

"""The verb: how well does θ answer a split of a task.

    examples ──by length──▶ chunks ──encode──▶ session, no probe ──▶ scores
    scores   ──▶ loss; the best candidate ──▶ accuracy, report by class, predictions
    chunks   ──decoder──▶ greedy texts ──▶ F1, exact match, loss

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

from zofx.errors import DivergenceError, UsageError
from zofx.runs.evaluation import Evaluation
from zofx.session import Session, unperturbed
from zofx.tasks.class_report import ClassReport, class_report, classes_of
from zofx.tasks.decode import Decoder
from zofx.tasks.encode import Encoder
from zofx.tasks.losses import Loss
from zofx.tasks.losses import predictions as best_candidates
from zofx.tasks.metrics import Accuracy, TextMatch, accuracy, text_match
from zofx.tasks.objectives import Objective, TextObjective
from zofx.tasks.rows import Encoded
from zofx.tasks.types import Example, Task, references

Progress: TypeAlias = Callable[[int, int], None]  # (examples done, of how many)


def no_progress(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Prediction:
    """How one example was answered.

    Attributes:
        example: what was asked.
        scores: mean log-probability of each candidate, nats per token.
        answer: index of the best candidate.
        text: the greedy text; None where none was written.
    """

    example: Example
    scores: tuple[float, ...]
    answer: int
    text: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A line of `--predictions`."""
        example = self.example
        fields: dict[str, Any] = {"id": example.id, "prompt": example.prompt}
        if len(example.candidates) > 1:
            right = example.accepted or (example.answer,)
            fields |= {
                "candidates": list(example.candidates),
                "scores": list(self.scores),
                "answer": example.candidates[self.answer],
                "gold": example.candidates[example.answer],
                "correct": self.answer in right,
            }
        else:
            fields |= {"scores": list(self.scores), "gold": list(references(example))}
        return fields if self.text is None else {**fields, "text": self.text}


@dataclass(frozen=True)
class _Part:
    """What a chunk adds to an evaluation."""

    accuracy: Accuracy
    text: TextMatch | None
    loss: Loss
    classes: ClassReport | None

    def __add__(self, other: "_Part") -> "_Part":
        text = self.text + other.text if self.text and other.text else None
        classes = self.classes + other.classes if self.classes and other.classes else None
        return _Part(self.accuracy + other.accuracy, text, self.loss + other.loss, classes)


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
    predictions: list[Prediction] | None = None,
) -> Evaluation:
    """Score examples under the session's θ, and write answers where these are judged.

    Args:
        session: holds θ.
        encoder: examples → rows.
        task: decides whether an accuracy or an F1 has a meaning.
        examples: at least one.
        objective: whose loss is reported.
        decoder: writes the texts of a generation task; None leaves it at the loss, unless the
            objective has one.
        batch_size: examples per forward.
        step: how many steps led to this θ, for messages.
        progress: called after every batch.
        predictions: gets the answer to every example, in the order of the examples.

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
    parts, wants_rows = [], predictions is not None
    answered: list[Prediction] = []
    for place in range(0, len(ordered), batch_size):
        chunk = ordered[place : place + batch_size]
        # Predictions list probabilities of candidates, and a relative score is none.
        relative = objective.relative and writes is None and not wants_rows
        encoded = encoder.encode(chunk, relative=relative)
        part, answers = _chunk(session, encoded, objective, writes, step)
        parts.append(part)
        answered += answers
        progress(place + len(chunk), len(ordered))
    if predictions is not None:
        predictions += _reordered(answered, examples)
    whole = reduce(add, parts)
    generation = task.kind == "generation"
    one_set = task.kind == "classification" and classes_of(examples) is not None
    return Evaluation(
        None if generation else whole.accuracy,
        float(whole.loss.mean[0]),
        objective.name,
        len(ordered),
        time.perf_counter() - start,
        whole.text if generation else None,
        whole.classes if one_set else None,
    )


def _chunk(
    session: Session, encoded: Encoded, objective: Objective, decoder: Decoder | None, step: int
) -> tuple[_Part, list[Prediction]]:
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
    answers = best_candidates(scores)[0]
    if (answers < 0).any():
        _require_finite("score of every candidate", math.nan, step)
    part = _Part(
        accuracy(scores[0], examples),
        _text_match(texts[0], examples, decoder) if decoder is not None else None,
        loss,
        class_report(answers, examples),
    )
    written = texts[0] if texts else [None] * len(examples)
    columns = zip(examples, scores[0], answers, written, strict=True)
    return part, [
        Prediction(e, tuple(map(float, row[: len(e.candidates)])), int(answer), text)
        for e, row, answer, text in columns
    ]


def _text_match(texts: Sequence[str], examples: Sequence[Example], decoder: Decoder) -> TextMatch:
    return text_match(texts, [decoder.judged(example) for example in examples])


def _reordered(answered: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
    """Predictions in the order of the examples; equal examples have equal answers."""
    by_example = {id(prediction.example): prediction for prediction in answered}
    return [by_example[id(example)] for example in examples]


def _require_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise DivergenceError(
            f"the {what} of the weights after step {step} is {value}: training has destroyed them, "
            "or the compiled model overflows; go back to an earlier step",
            step,
        )

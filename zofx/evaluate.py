"""The verb: how well does θ answer a split of a task.

    examples ──by length──▶ chunks ──encode──▶ session, no probe ──▶ scores ──▶ accuracy, loss

Chunks add up: how the examples are ordered and cut changes the result only by the rounding of the
forward. This module needs numpy only.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from zofx.errors import ArtifactError, DivergenceError, UsageError
from zofx.runtime import Session, unperturbed
from zofx.tasks import Accuracy, Encoder, Example, Loss, Objective, Task, accuracy

Progress: TypeAlias = Callable[[int, int], None]  # (examples done, of how many)

NO_GENERATION = (
    "generation is not supported here, so no text is compared: this is the teacher-forced negative "
    "log-likelihood per token of the gold completion"
)


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
    """

    accuracy: Accuracy | None
    loss: float
    objective: str
    examples: int
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Greater is better: accuracy first, the loss where that ties."""
        return (self.accuracy.value if self.accuracy else 0.0, -self.loss)

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
            return cls(
                judged, float(said["loss"]), said["objective"], examples, float(said["seconds"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"an evaluation is damaged ({type(error).__name__}: {error}); delete its line"
            ) from error

    def __str__(self) -> str:
        judged = f"accuracy {self.accuracy}, " if self.accuracy else ""
        return f"{judged}{self.objective} {self.loss:.4f}"


def evaluate(
    session: Session,
    encoder: Encoder,
    task: Task,
    examples: Sequence[Example],
    objective: Objective,
    *,
    batch_size: int = 16,
    step: int = 0,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score examples under the session's θ.

    Args:
        session: holds θ.
        encoder: examples → rows.
        task: tells whether an accuracy has a meaning.
        examples: at least one.
        objective: whose loss is reported.
        batch_size: examples per forward.
        step: how many steps led to this θ, for messages.
        progress: called after every forward.

    Raises:
        UsageError: the batch size is not positive, or an example cannot be encoded.
        DivergenceError: the loss is not finite.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: at least one example is evaluated at a time")
    start = time.perf_counter()
    # Rows of one forward are padded to the longest: neighbours in length waste the least.
    ordered = sorted(examples, key=lambda example: len(example.prompt))
    judged, loss = Accuracy(0, 0), None
    for place in range(0, len(ordered), batch_size):
        chunk = ordered[place : place + batch_size]
        right, part = _chunk(session, encoder, chunk, objective)
        judged += right
        loss = part if loss is None else loss + part
        progress(place + len(chunk), len(ordered))
    if loss is None:
        raise UsageError("there are no examples to evaluate on")
    mean = float(loss.mean[0])
    if not math.isfinite(mean):
        raise DivergenceError(
            f"the {objective.name} of the weights after step {step} is {mean}: training has "
            "destroyed them, or the compiled model overflows; go back to an earlier step",
            step,
        )
    return Evaluation(
        judged if task.kind != "generation" else None,
        mean,
        objective.name,
        len(ordered),
        time.perf_counter() - start,
    )


def _chunk(
    session: Session, encoder: Encoder, examples: Sequence[Example], objective: Objective
) -> tuple[Accuracy, Loss]:
    encoded = encoder.encode(examples)
    scores = encoded.scores(session.evaluate(encoded.batch, [], unperturbed()))
    return accuracy(scores[0], examples), objective.of(scores, encoded)

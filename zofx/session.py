"""What a runtime is to the rest of zofx: it checks that it can run an artifact, and opens sessions.

A session holds θ (the trainables, fp32) and answers two questions: what does this batch score under
these probes, and what is θ after these rays. It knows no method, no objective and no optimizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zofx.zo.theta import Theta
from zofx.zo.types import FloatArray, IntArray, Key, LossFn, Objective

IGNORED = -100
MULTIPLE = 8  # few lengths, so few shapes for an engine to plan for
RESIDUAL_POSITIONS = 192
"""Tokens and padding of the rows that are in a forward with residuals at a time, unless a row has
more: this bounds the memory of exact gradients, whatever the batch."""


@dataclass(frozen=True)
class Batch:
    """What a program reads: N rows of T tokens, S scored positions, C alternatives per position.

    Attributes:
        input_ids: i64[N, T].
        attention_mask: i64[N, T], 1 for tokens, 0 for padding.
        positions: i64[N, S], the index whose output distribution is scored: for a causal model the
            token before the one being predicted, for a masked model the mask itself.
        targets: i64[N, S, C], token ids to score there; IGNORED (-100) marks unused entries.
        relative: whether only differences between alternatives of a row count: then their scores
            may lack what they have in common, which takes a product with the whole vocabulary.
    """

    input_ids: IntArray
    attention_mask: IntArray
    positions: IntArray
    targets: IntArray
    relative: bool = False

    def rows(self, chosen: IntArray | slice) -> "Batch":
        """Some of its rows, or all in another order."""
        return replace(self, **{name: array[chosen] for name, array in self.named().items()})  # type: ignore[arg-type]  # relative is none of them

    def named(self) -> dict[str, IntArray]:
        """The arrays under the names of the program's inputs, axis 0 their rows."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "positions": self.positions,
            "targets": self.targets,
        }


Weigh: TypeAlias = Callable[[FloatArray], NDArray[np.floating[Any]]]
"""logprob f32[N, C] → derivative of a loss by each of them, [N, C]."""


class Session(Theta, Protocol):
    """One loaded artifact with its own θ, and the forwards of an engine."""

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        """Score a batch under P probes in one forward.

        Args:
            batch: N rows.
            keys: Q directions; none means no perturbation.
            coefficients: f32[P, Q]; row p evaluates θ + Σ_q C[p, q] · z(key_q).

        Returns:
            f32[P, N, C]: mean over the row's scored positions of the log-probability (nats) of each
            alternative; of a relative batch, up to a number for each probe and row.
        """
        ...

    def close(self) -> None:
        """Release the engine's memory; the session is of no use afterwards."""
        ...


@runtime_checkable
class SharedSession(Protocol):
    """A session whose forwards are shared among workers."""

    def rows_per_second(self) -> dict[str, float]:
        """Rows × probes per second of every worker that was measured."""
        ...

    @property
    def speedup(self) -> float:
        """Seconds that workers computed, over seconds that were waited for them."""
        ...

    def messages(self) -> list[str]:
        """What happened to workers since this was last asked."""
        ...


class ExactSession(Session, Protocol):
    """A session on an engine with backward passes."""

    def gradient(self, batch: Batch, weigh: Weigh) -> dict[str, FloatArray]:
        """The exact gradient of a loss at θ, for the tensors that train by it."""
        ...


@dataclass(frozen=True)
class Support:
    """Whether a runtime can run an artifact on this machine.

    Attributes:
        reasons: every reason why not; empty means it can.
    """

    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.reasons


class Runtime(Protocol):
    """An engine."""

    @property
    def name(self) -> str:
        """As in `--runtime NAME`."""
        ...

    def support(self, artifact: Path) -> Support:
        """Ask before loading: are the libraries here, is what the engine needs in the artifact."""
        ...

    def load(
        self, artifact: Path, *, device: str = "cpu", threads: int | None = None, rows: int = 1
    ) -> Session:
        """Open a session on an artifact folder.

        Args:
            artifact: the folder.
            device: "cpu" or "cuda".
            threads: of the engine; None lets it choose.
            rows: of a batch, as a rule. Any batch may have more or fewer; this is for speed.
        """
        ...


def rounded_up(lengths: IntArray) -> IntArray:
    """Lengths of rows as batches have them: the next multiple of 8."""
    return -(-lengths // MULTIPLE) * MULTIPLE


def unperturbed() -> FloatArray:
    """The probe matrix of a plain evaluation: one probe, no direction, f32[1, 0]."""
    return np.zeros((1, 0), dtype=np.float32)


def scored(session: Session, batch: Batch, objective: Objective) -> LossFn:
    """Losses that are a function of a batch's scores: one forward."""
    return lambda keys, matrix: objective(session.evaluate(batch, keys, matrix))

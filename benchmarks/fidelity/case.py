"""What is compared: a public trainer, a compiled method, and the textbook that says what both do.

    public     the trainer's own step methods                      float64, and float32
    zofx       METHODS[method], compiled and driven                float32
    textbook   `tests.methods.reference` and `shaped`              float64

Where public code has a fault, the textbook of the case is that of its paper with the fault put in,
and `Fault` says at which steps the fault shows: there zofx must differ from public code, and the
textbook must not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fidelity.public import PublicRun
from benchmarks.fidelity.subject import Trajectory
from tests.methods.reference import Method
from zofx.zo.settings import Settings


@dataclass(frozen=True)
class Fault:
    """How public code is known to differ from its paper.

    Attributes:
        why: in a sentence.
        at: (settings, step) → whether it shows in θ.
        losses: evaluations, in public order, whose points it moves.
    """

    why: str
    at: Callable[[Settings, int], bool]
    losses: frozenset[int] = frozenset()


def few_roundings(settings: Settings, t: int) -> int:
    """Of θ + coefficient · z: of c, η, coefficient, product and sum."""
    return 5


def momenta(settings: Settings, t: int) -> int:
    """Of θ − η·m: g takes c and a product; β, product and sum a step; then η, product and sum.

    A refresh, but the first, takes the overlap's rounding, and a product and a sum per column of
    rank two.
    """
    refreshes = t // settings.refresh if settings.refresh else 0
    return 2 + 3 * (t + 1) + 3 + 5 * refreshes


def moments(settings: Settings, t: int) -> int:
    """Of θ − η·m̂ / (√v̂ + δ).

    Both moments as above; then 1 − βᵗ and the division by it, twice, the root, δ, the quotient, η,
    its product and the sum. An error of v counts by half under the root, that of g² twice.
    """
    return 2 * (3 + 3 * (t + 1)) + 10


@dataclass(frozen=True, eq=False)
class Case:
    """One comparison.

    Attributes:
        label: what is compared.
        method: of `METHODS`.
        public: (checkout, trajectory, dtype) → the public run, at the checkpoint's weights.
        textbook: the textbook run.
        numbers: what differs from the method's settings.
        order: public evaluation e is zofx's loss order[e].
        textbook_order: textbook evaluation e is zofx's loss textbook_order[e].
        roundings: (settings, step) → how many a path from a term to θ has in zofx, at most.
        coordinates: (textbook, step, weight, c) → Σ |terms| of a low-rank trainable A.
        fault: of the public code.
    """

    label: str
    method: str
    public: Callable[[Path, Trajectory, torch.dtype], PublicRun]
    textbook: Callable[[Trajectory], Method]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    order: Sequence[int] = (0, 1)
    textbook_order: Sequence[int] = (0, 1)
    roundings: Callable[[Settings, int], int] = few_roundings
    coordinates: Callable[[Method, int, str, Tensor], Tensor] | None = None
    fault: Fault | None = None


@dataclass(frozen=True, eq=False)
class Peer:
    """A public repository.

    Attributes:
        option: of the command line, that says where its checkout is.
        repository: where to get it.
        commit: what the comparison was written for.
        cases: what is compared with it.
        evidence: (checkout, trajectory of the first case) → what else is measured.
    """

    option: str
    repository: str
    commit: str
    cases: Sequence[Case]
    evidence: Callable[[Path, Trajectory], dict[str, Any]] | None = None

    @property
    def how(self) -> str:
        """How to get it, and to say where it is."""
        name = self.repository.rpartition("/")[2]
        return (
            f"git clone {self.repository} && git -C {name} checkout {self.commit[:7]}   "
            f"then --{self.option} {name}"
        )


def textbook(kind: Callable[..., Method], run: Trajectory, **own: Any) -> Method:
    """A textbook method before the first step of a trajectory, along its directions."""
    theta = run.weights(run.steps[0].before)
    return kind(theta, run.z, lr=run.settings.lr, eps=run.settings.eps, **own)

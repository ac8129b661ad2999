"""How far a compiled step may be from the textbook's: rounding, and nothing else.

    |l₃₂ − l|   ≤ Σᵢ |∂l/∂vᵢ|·localᵢ + u·|l| + 4u·(max l − min l)     of each loss: δ
    |θ'₃₂ − θ'| ≤ γₖ·(|θ| + Σ |terms|)                                at the same losses

The first is the derivation of `tests.runtimes.reference`, taken to the loss. The driver rounds that
once more; and the probe matrix rounds its entries, which are up to four operations from ε, η and c,
so that a probe lies off by that share of its distance from θ. The scores are made into a loss here
as they are in `zofx.tasks.objectives`, to have its derivative. In the second every weight is the
sum of what it was and of terms (η·c·z, or some), and no path from a term to θ' has more than k
roundings (Higham 2002, chapter 3).

Both together bound c by (δ₊ + δ₋) / 2ε, and θ' by η·|z| times that where each is left to its own
losses; `tests.methods.free_run` carries it through a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.methods.reference import Loss, Method, Tensors
from tests.runtimes import reference
from zofx.session import Batch
from zofx.tasks.rows import Encoded
from zofx.zo.types import FloatArray, Key

UNIT = reference.UNIT


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A forward that a session was asked for.

    Attributes:
        theta: what moves, as it was.
        batch: what was read.
        keys: Q directions.
        matrix: f32[P, Q].
    """

    theta: dict[str, FloatArray]
    batch: Batch
    keys: Sequence[Key]
    matrix: FloatArray


@dataclass(frozen=True, eq=False)
class Descent:
    """The exact gradients of a step, by name; empty where nothing trains by them.

    Attributes:
        slopes: as measured.
        signs: ±1 for every component.
        allowed: f64[], what the rounding of Σ signs · slopes may be.
    """

    slopes: Tensors = field(default_factory=dict)
    signs: Tensors = field(default_factory=dict)
    allowed: Tensors = field(default_factory=dict)


@dataclass
class Forced:
    """A loss that was measured elsewhere: answers with that, and notes its own at the same weights.

    So every evaluation of a step is compared where the measured ones before it lead.

    Attributes:
        loss: what it is by itself.
        measured: f64[P], evaluation e of the step is measured[e].
        slopes: by name, the measured gradient.
        own: the values of `loss`.
        own_slopes: its gradient.
    """

    loss: Loss
    measured: Tensor
    slopes: Tensors = field(default_factory=dict)
    own: list[Tensor] = field(default_factory=list)
    own_slopes: Tensors = field(default_factory=dict)

    def __call__(self, weights: Tensors) -> Tensor:
        """The next one."""
        self.own.append(self.loss(weights))
        return self.measured[len(self.own) - 1]

    def slope(self, weights: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        """The next two: a loss and its slope."""
        self.own += self.loss.slope(weights, along)
        return self.measured[len(self.own) - 2], self.measured[len(self.own) - 1]

    def gradient(self, weights: Tensors, names: Sequence[str]) -> Tensors:
        """The measured one."""
        self.own_slopes |= self.loss.gradient(weights, names)
        return {name: self.slopes[name] for name in names}


def rounding_of_losses(
    folder: Path, made: Evaluation, encoded: Encoded, *, slopes: bool = False
) -> Tensor:
    """δ f64[P]: how far the losses of a forward may be from their meaning.

    Args:
        folder: the artifact.
        made: the forward.
        encoded: its batch, and whose candidates the scores are.
        slopes: whether the scores are those at θ and then their derivatives, [1 + P, N, C].
    """
    scores, rounding = reference.trace(folder, made.batch, made.keys, made.matrix, made.theta)
    losses = losses_and_slopes(scores, encoded) if slopes else cross_entropy(scores, encoded)
    known = losses.detach()
    return rounding.bound(losses) + UNIT * (known.abs() + 4 * (known.max() - known.min()))


def losses_and_slopes(scores: Tensor, encoded: Encoded) -> Tensor:
    """f64[1 + P]: the loss, then mean of Σ softmax(s)·ṡ − ṡ_gold for every derivative ṡ."""
    weight = _table(scores[:1], encoded, -torch.inf).softmax(-1)
    along = _table(scores[1:], encoded, 0)
    slopes = ((weight * along).sum(-1) - _gold(along, encoded)).mean(-1)
    return torch.cat([cross_entropy(scores[:1], encoded), slopes])


def cross_entropy(scores: Tensor, encoded: Encoded) -> Tensor:
    """f64[P] of f64[P, N, C]: mean of −log softmax over each question's candidates."""
    return -_gold(_table(scores, encoded, -torch.inf).log_softmax(-1), encoded).mean(-1)


def _table(scores: Tensor, encoded: Encoded, missing: float) -> Tensor:
    """f64[P, B, M]: each candidate's score, from the rows that have it."""
    rows, columns = (torch.from_numpy(i) for i in np.nonzero(encoded.row_candidate >= 0))
    question = torch.from_numpy(encoded.row_example)[rows]
    candidate = torch.from_numpy(encoded.row_candidate)[rows, columns]
    table = torch.full((len(scores), *encoded.counts.shape), missing, dtype=torch.float64)
    probe = torch.arange(len(scores))[:, None]
    return table.index_put((probe, question, candidate), scores[:, rows, columns])


def _gold(table: Tensor, encoded: Encoded) -> Tensor:
    """f64[P, B] of f64[P, B, M]."""
    gold = torch.from_numpy(encoded.gold)
    return table[:, torch.arange(len(gold)), gold]


def rounding_of_move(before: Tensors, method: Method, roundings: int) -> Tensors:
    """γₖ·(|θ| + Σ |terms|) of the step the method just took.

    Args:
        before: θ before it, or what adds up to it, absolutely.
        method: after it.
        roundings: k.
    """
    gamma = roundings * UNIT / (1 - roundings * UNIT)
    return {n: gamma * (before[n].abs() + terms) for n, terms in method.terms.items()}

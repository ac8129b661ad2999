"""Stand-ins for public trainers: the loops their papers print, in plain PyTorch.

    perturb    θ ← θ + εz       l₊
               θ ← θ − 2εz      l₋
               θ ← θ + εz       c = (l₊ − l₋) / 2ε
    MeZO       θ ← θ − ηc·z                          z drawn again from its seed in every sweep
    LOZO       z = U·Vᵀ of a matrix, V kept for ν steps
    ZO-SGD     the move is made by torch.optim, weight by weight

The loss is theirs as well: logits of the whole vocabulary at every position of every row. They are
what is compared where no checkout is given, and say so; nothing of public code is in them.
Sources: Malladi et al. 2023 (arXiv 2305.17333), algorithm 1; Chen et al. 2025 (arXiv 2410.07698),
algorithm 1; Zhang et al. 2024 (arXiv 2402.11592), §3.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.step.rows import Inputs

Draw: TypeAlias = Callable[[tuple[int, ...]], Tensor]
"""Shape → the next standard normals of a seeded sequence."""
Seeded: TypeAlias = Callable[[int], Draw]

RANK: Final = 2
REFRESH: Final = 50
"""LOZO's r and ν, as its row of methods has them."""


def seeded(seed: int) -> Draw:
    """Torch's own generator, from its beginning."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def candidate_loss(model: nn.Module, inputs: Inputs) -> Tensor:
    """Cross-entropy over candidates, or of the option's tokens; f32[].

    A candidate's score is the mean log-probability of its tokens.
    """
    ids, option = inputs["input_ids"], inputs["option_len"]
    logits = model(input_ids=ids, attention_mask=inputs["attention_mask"]).logits[:, :-1]
    chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    scored = torch.arange(chosen.shape[1]) >= chosen.shape[1] - option[:, None]
    sums = (chosen * scored).sum(-1)
    if "num_options" not in inputs:
        mean: Tensor = -sums.sum() / option.sum()
        return mean
    return _over_candidates(sums / option, inputs["labels"], inputs["num_options"].tolist())


def _over_candidates(scores: Tensor, answers: Tensor, counts: list[int]) -> Tensor:
    """Mean over examples of the cross-entropy over their candidates; each f32 or i64[R]."""
    losses, first = [], 0
    while first < len(counts):
        last = first + counts[first]
        losses.append(cross_entropy(scores[first:last], answers[first]))
        first = last
    return torch.stack(losses).mean()


class Mezo:
    """MeZO.

    Args:
        model: whose parameters all train.
        lr: η.
        eps: ε.
        seeded: where directions come from.
    """

    def __init__(self, model: nn.Module, lr: float, eps: float, seeded: Seeded = seeded) -> None:
        self.model = model.eval()
        self.lr, self.eps, self.seeded = lr, eps, seeded
        self.t = 0

    @torch.no_grad()
    def step(self, inputs: Inputs) -> list[Tensor]:
        """One step; returns l₊ and l₋."""
        self.begin()
        self.sweep(self.eps)
        plus = candidate_loss(self.model, inputs)
        self.sweep(-2 * self.eps)
        minus = candidate_loss(self.model, inputs)
        self.sweep(self.eps)
        self.move(float((plus - minus) / (2 * self.eps)))
        self.t += 1
        return [plus, minus]

    def begin(self) -> None:
        """Before the first sweep of a step."""

    def sweep(self, by: float) -> None:
        """θ ← θ + by · z, every z drawn anew."""
        draw = self.seeded(self.t)
        for name, weight in self.model.named_parameters():
            weight.data = weight.data + by * self.direction(name, weight, draw)

    def direction(self, name: str, weight: Tensor, draw: Draw) -> Tensor:
        """The next z."""
        return draw(tuple(weight.shape))

    def move(self, c: float) -> None:
        """The update."""
        self.sweep(-self.lr * c)


class Lozo(Mezo):
    """LOZO."""

    def begin(self) -> None:
        """A new V every ν steps, from a sequence of its own."""
        if self.t % REFRESH == 0:
            draw = self.seeded(-1 - self.t)
            self.v = {
                name: draw((weight.shape[1], RANK))
                for name, weight in self.model.named_parameters()
                if weight.ndim == 2
            }

    def direction(self, name: str, weight: Tensor, draw: Draw) -> Tensor:
        """Of a matrix U·Vᵀ; else as MeZO's."""
        if name not in self.v:
            return draw(tuple(weight.shape))
        return draw((weight.shape[0], RANK)) @ self.v[name].T


class ZoSgd(Mezo):
    """ZO-SGD as ZO-Bench steps it."""

    def move(self, c: float) -> None:
        """A gradient and a step of SGD per weight, so that one gradient is in memory at a time."""
        draw = self.seeded(self.t)
        for name, weight in self.model.named_parameters():
            weight.grad = c * self.direction(name, weight, draw)
            torch.optim.SGD([weight], lr=self.lr).step()
            weight.grad = None

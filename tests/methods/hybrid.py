"""Two ways in one step: probes for some weights, exact gradients for the others, in float64.

    θ = (x, y)    c = (f(x + εz, y) − f(x − εz, y)) / 2ε     x ← x − η·c·z
                  g = ∂f/∂y (x, y)                           y ← y − η_y·g

Source: Zhang et al. 2024 (arXiv 2402.11592), §5: the last layers by backpropagation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tests.methods.reference import Loss, Mezo, Tensors


@dataclass
class Hybrid(Mezo):
    """See the module.

    Attributes:
        exact: the names in y, which no probe perturbs; `trained` are those in x.
        exact_lr: η_y.
    """

    exact: Sequence[str] = ()
    exact_lr: float = 0.0

    def update(self, t: int, loss: Loss) -> None:
        """Both at the same θ."""
        slopes = self.slopes(loss)
        super().update(t, loss)
        self.descend(slopes)

    def slopes(self, loss: Loss) -> Tensors:
        """∂f/∂y."""
        return loss.gradient(self.build(self.theta), self.exact)

    def descend(self, slopes: Tensors) -> None:
        """The step of y."""
        self.terms |= {name: torch.zeros_like(values) for name, values in slopes.items()}
        self.move(slopes, -self.exact_lr)

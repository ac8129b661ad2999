"""The recipe: the driven half of a method, as data.

    losses ── estimator ──▶ coefficients ── rays ──▶ coefficients ── tensors? ──▶ θ ← θ − rate · …

The compiled half, noise and selection, is in the artifact.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zofx.zo.estimators import Estimator
from zofx.zo.journal import Header
from zofx.zo.rays import RayRule, chain
from zofx.zo.schedule import Schedule
from zofx.zo.tensors import TensorRule
from zofx.zo.types import FloatArray

Objective: TypeAlias = Callable[[FloatArray], NDArray[np.floating[Any]]]
"""logprob f32[P, N, C] → one loss per probe [P], lower is better; any host function will do."""


@dataclass(frozen=True)
class Recipe:
    """How a run turns losses into movement: data, the driven half of a method.

    Attributes:
        estimator: which probes, and the gradient they tell.
        learning_rate: per step; multiplies what the rules return.
        rays: rule on the coefficients.
        tensors: rule on the materialised gradient; None moves along the rays themselves.
    """

    estimator: Estimator
    learning_rate: Schedule
    rays: RayRule[Any] = field(default_factory=chain)
    tensors: TensorRule[Any] | None = None

    def __str__(self) -> str:
        parts = (str(self.estimator), self.rays.text, str(self.learning_rate), self.tensors_text)
        return " | ".join(part for part in parts if part)

    @property
    def tensors_text(self) -> str:
        """How the rule on tensors is spelled; empty when there is none."""
        return self.tensors.text if self.tensors else ""

    def header(self, artifact: str, seed: int, **settings: str) -> Header:
        """The header of a new run's journal."""
        estimator = self.estimator
        return Header(
            artifact=artifact,
            seed=seed,
            recipe=str(self),
            tensors=self.tensors_text,
            queries=estimator.queries,
            evaluations=estimator.evaluations,
            settings=settings,
        )

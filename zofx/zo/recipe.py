"""The recipe: the driven half of a method, as data.

    losses ── estimator ──▶ coefficients ── rays ──▶ coefficients ── tensors? ──▶ θ ← θ − rate · …

The compiled half, noise and selection, is in the artifact.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zofx.errors import UsageError
from zofx.zo.estimate import Coefficients, Estimator
from zofx.zo.journal.format import Header
from zofx.zo.rules.coefficient_rules import RayRule, chain
from zofx.zo.rules.gradient_rules import TensorRule
from zofx.zo.rules.schedule import Schedule
from zofx.zo.types import FloatArray


@dataclass(frozen=True)
class Trial:
    """Try the step before taking it: of θ + m·step for each m, the one with the smallest loss.

    The order of the multipliers breaks ties.
    Source: Zhang et al. 2024, ZO-Bench, arXiv 2402.11592 (ZO-SGD-Cons, with m = −1, 1, 0).
    """

    multipliers: tuple[float, ...] = (-1.0, 1.0, 0.0)

    def matrix(self, step: FloatArray) -> FloatArray:
        """The trial points as probes, f32[M, Q], of a step f32[Q] along the directions."""
        return np.outer(np.array(self.multipliers, np.float32), step)

    def choose(self, step: Coefficients, losses: FloatArray) -> Coefficients:
        """The step that did best."""
        return self.multipliers[int(np.argmin(losses))] * step


@dataclass(frozen=True)
class Recipe:
    """How a run turns losses into movement: data, the driven half of a method.

    Attributes:
        estimator: which probes, and the gradient estimated from their losses.
        learning_rate: per step; multiplies what the rules return.
        rays: rule on the coefficients.
        tensors: rule on the materialised gradient; None moves along the rays themselves.
        trial: points to try before a step along rays is taken; None takes it.
        refresh: steps between two bases of low-rank trainables; 0 for none.
        exact: learning rate of tensors with exact gradients, in units of `learning_rate`.
        exact_rule: rule on exact gradients; None goes along them.
    """

    estimator: Estimator
    learning_rate: Schedule
    rays: RayRule[Any] = field(default_factory=chain)
    tensors: TensorRule[Any] | None = None
    trial: Trial | None = None
    refresh: int = 0
    exact: float = 0.0
    exact_rule: TensorRule[Any] | None = None

    def __post_init__(self) -> None:
        if self.trial and (self.tensors or self.rays.window > 1):
            raise UsageError(
                "a trial tries a step along this step's own directions; it does not go with a rule "
                "on tensors or on past rays: drop the trial, or "
                f"{self.tensors_text or self.rays.text}"
            )
        if self.trial and len(self.estimator.probes(0, 0).matrix) != self.estimator.evaluations:
            raise UsageError(
                f"a trial compares losses, and {self.estimator} measures more than these: drop one"
            )
        self._require_basis()
        self._require_curvature()
        self._require_no_rays()

    def _require_basis(self) -> None:
        """What is remembered of the past can follow a new basis, where there is to be one."""
        if self.refresh < 0:
            raise UsageError(f"refresh={self.refresh}: a number of steps, or 0 for none")
        if self.rays.window > 1 and self.refresh:
            raise UsageError(
                f"{self.rays.text} goes along past rays, and refresh={self.refresh} replaces the "
                "basis that those are coordinates in: drop one of them, or average with "
                "low_rank_momentum()"
            )
        if self.tensors and self.tensors.refreshed is None and self.refresh:
            raise UsageError(
                f"{self.tensors_text} remembers coordinates of the past, and "
                f"refresh={self.refresh} replaces the basis that those are in: drop one of them, "
                "or average with low_rank_momentum(), which is carried over to the new basis"
            )

    def _require_curvature(self) -> None:
        """Measured where a rule on tensors reads it, and only there."""
        takes = self.tensors is not None and self.tensors.curved
        if (self.estimator.rays > self.estimator.queries) != takes:
            raise UsageError(
                f"{self.estimator} with tensors='{self.tensors_text}': the estimator "
                "`SpsaWithCurvature` measures curvature beside the slope, and the rule "
                "diagonal_hessian() takes it; use both or neither"
            )
        if takes and self.rays.text:
            raise UsageError(
                f"{self.rays.text} would change the curvature that diagonal_hessian() takes, as if "
                "it were a slope: drop one of them"
            )

    def _require_no_rays(self) -> None:
        """An exact gradient is a tensor; it has no rays and no curvature."""
        rule = self.exact_rule
        if rule and (rule.window > 1 or rule.curved):
            raise UsageError(
                f"{rule.text} reads the rays of probes, and an exact gradient has none: take "
                "adam(), momentum(), decay() or sign_coordinates()"
            )

    @property
    def evaluations(self) -> int:
        """How many losses a step records."""
        tried = len(self.trial.multipliers) if self.trial else 0
        return self.estimator.evaluations + tried

    def __str__(self) -> str:
        parts = (
            str(self.estimator), self.rays.text, str(self.learning_rate), self.tensors_text,
            str(self.trial or ""), f"refresh({self.refresh})" if self.refresh else "",
            f"exact({', '.join(map(str, self._exact_text))})" if self.exact else "",
        )  # fmt: skip
        return " | ".join(part for part in parts if part)

    @property
    def _exact_text(self) -> tuple[object, ...]:
        return (self.exact, self.exact_rule.text) if self.exact_rule else (self.exact,)

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
            queries=estimator.rays,
            evaluations=self.evaluations,
            window=self.rays.window,
            refresh=self.refresh,
            exact=self.exact,
            settings=settings,
        )

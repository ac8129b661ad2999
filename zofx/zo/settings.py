"""Settings of a run: the driven half of a method as data, and the recipe they make.

row of a method ─command line─▶ Settings ─artifact's directions─▶ fitted ──▶ Recipe

Settings are words and numbers; the driver, and numpy with it, is imported where they become a
recipe.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from zofx.errors import UsageError
from zofx.options import option

if TYPE_CHECKING:
    from zofx.zo.estimate import Estimator
    from zofx.zo.random.direction_spec import Noise
    from zofx.zo.recipe import Recipe

LEAST: Final = 2.0**-126
"""The least normal number in float32; what is smaller moves nothing."""

GREATEST: Final = 1e30

ESTIMATORS: Final = (
    "two-point", "one-sided", "two-point-curvature", "forward-gradient", "gauss-newton",
    "forward-gauss-newton", "exact",
)  # fmt: skip
FORWARD_MODE_ESTIMATORS: Final = ("forward-gradient", "forward-gauss-newton")
"""Those that take exact derivatives, from a program in forward mode."""
GAUSS_NEWTON_ESTIMATORS: Final = ("gauss-newton", "forward-gauss-newton")
"""Those that solve for the coefficients of all directions at once."""
SCORE_ESTIMATORS: Final = (*FORWARD_MODE_ESTIMATORS, "gauss-newton")
"""Those that read every score, and the derivatives of the objective by them."""


@dataclass(frozen=True)
class Settings:
    """The driven half of a method, as data: defaults in its row, overridden on the command line.

    Fields made by `option` are options of `zofx tune`; a new one is such a field.

    Attributes:
        steps: of the run.
        batch_size: examples per step.
        lr: learning rate at its peak.
        eps: distance of a probe, in units of z.
        queries: directions per step.
        estimator: "two-point" (±ε along each direction), "one-sided" (θ and +ε),
            "two-point-curvature" (±ε and θ), "forward-gradient" (exact derivatives, of a program
            in forward mode), "gauss-newton" (θ and +ε, every candidate's score),
            "forward-gauss-newton" (the same from exact derivatives) or "exact" (no probes:
            everything trains by exact gradients).
        rays: rules on the coefficients, as text.
        tensors: rules on the materialised gradient, as text.
        refresh: steps between two bases of low-rank trainables; 0 for none.
        schedule: "constant", "linear" or "cosine" decay to zero.
        average: whether the slopes of the queries are averaged, or stand each for its own
            trainables.
        trial: whether the step is tried forwards, backwards and not at all, and the best kept.
        exact_lr: learning rate of tensors that train by exact gradients; 0 for none. Without probes
            it is `lr`.
        exact_rule: rules on exact gradients, as text.
        hold: steps on the same batch.
    """

    steps: int = option(1000, help="Steps of the run.", metavar="N", minimum=1)
    batch_size: int = option(16, help="Examples per step.", metavar="B", minimum=1)
    lr: float = option(1e-6, help="Learning rate at its peak.", metavar="LR")
    eps: float = option(1e-3, help="Distance of a probe, in units of z.", metavar="EPS")
    queries: int = option(1, help="Directions per step.", metavar="Q", minimum=1)
    estimator: str = option(
        "two-point",
        help="two-point, one-sided, two-point-curvature or gauss-newton.",
        metavar="NAME",
    )
    rays: str = option(
        "", help="On projected gradients: 'clip(100) > sign()', or ''.", metavar="RULES"
    )
    tensors: str = option(
        "", help="On the gradient: 'momentum(0.9)', 'adam()', or ''.", metavar="RULES"
    )
    refresh: int = option(0, help="Steps between low-rank bases.", metavar="N", minimum=0)
    schedule: Literal["constant", "linear", "cosine"] = option(
        "constant", help="constant, linear or cosine.", metavar="SHAPE"
    )
    average: bool = True
    trial: bool = False
    exact_lr: float = option(
        0.0, help="Learning rate of tensors that train by exact gradients.", metavar="LR"
    )
    exact_rule: str = option(
        "", help="On exact gradients: 'adam()', 'momentum(0.9)', or ''.", metavar="RULES"
    )
    hold: int = 1

    def __post_init__(self) -> None:
        for name, value in (("lr", self.lr), ("eps", self.eps)):
            if not LEAST <= value <= GREATEST:
                raise UsageError(
                    f"{name}={value}: must be positive and a normal number in float32, in which θ "
                    f"moves; give one from {LEAST:g} to {GREATEST:g}"
                )
        if not self.lr > 0 or self.steps < 1 or self.batch_size < 1 or self.hold < 1:
            raise UsageError(
                f"lr={self.lr}, steps={self.steps}, batch_size={self.batch_size}, "
                f"hold={self.hold}: all must be positive"
            )
        if self.estimator not in ESTIMATORS:
            raise UsageError(
                f"there is no estimator '{self.estimator}'; there are: {', '.join(ESTIMATORS)}"
            )
        if self.estimator in GAUSS_NEWTON_ESTIMATORS and self.batch_size < 2:
            raise UsageError(
                f"batch_size={self.batch_size}: a Gauss–Newton step chooses its damping by leaving "
                "one example of the batch out, which takes at least two"
            )
        if self.estimator == "two-point-curvature" and self.queries != 1:
            raise UsageError(
                f"queries={self.queries}: the estimator 'two-point-curvature' looks along one "
                "direction a step"
            )

    @classmethod
    def from_mapping(cls, stored: Mapping[str, Any]) -> Self:
        """Read back what `asdict` wrote."""
        return cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})

    def with_given(self, **given: Any) -> Self:
        """Override by everything that is not None."""
        return replace(self, **{key: value for key, value in given.items() if value is not None})

    def fitted(self, noise: "Noise") -> Self:
        """For an artifact: where trainables take turns, a round of them is one step of the method.

        Raises:
            UsageError: the estimator or a rule does not go with its directions.
        """
        self._require_past(noise)
        turn = noise.turns
        if turn is None:
            return self
        if turn.by == "step":
            return replace(self, hold=turn.groups)
        if self.estimator != "two-point":
            raise UsageError(
                f"--estimator {self.estimator}: this artifact moves each group of trainables by a "
                "query of its own (alternate-blocks{by=query}), which takes two points per query; "
                "leave --estimator out"
            )
        return replace(self, queries=turn.groups, average=False)

    def _require_past(self, noise: "Noise") -> None:
        """A rule on past rays makes their directions again: they must be what they were."""
        from zofx.zo.rules.syntax import ray_rule, tensor_rule

        for rule in (ray_rule(self.rays), tensor_rule(self.tensors)):
            if rule and rule.window > 1 and noise.depends_on_state:
                raise UsageError(
                    f"{rule.text} makes the directions of past steps again, and this artifact's "
                    "depend on what has moved since (the size of θ, or a scale): they would be "
                    "others. Leave it out, or keep the past as a tensor: momentum() or adam()"
                )

    def cursor(self, step: int) -> int:
        """Where the data stream stands before a step, in examples."""
        return step // self.hold * self.batch_size

    def recipe(self) -> "Recipe":
        """The driver's recipe; it names the steps where the schedule depends on them."""
        from zofx.zo.recipe import Recipe, Trial
        from zofx.zo.rules.schedule import Schedule
        from zofx.zo.rules.syntax import ray_rule, tensor_rule

        steps = 0 if self.schedule == "constant" else self.steps
        return Recipe(
            self._estimator(),
            Schedule(self.schedule, self.lr, steps),
            ray_rule(self.rays),
            tensor_rule(self.tensors),
            Trial() if self.trial else None,
            self.refresh,
            1.0 if self.estimator == "exact" else self.exact_lr / self.lr,
            tensor_rule(self.exact_rule),
        )

    def _estimator(self) -> "Estimator":
        from zofx.zo.estimators import ForwardGradient, NoProbes, OneSided, Spsa, SpsaWithCurvature
        from zofx.zo.gauss_newton import GaussNewton

        match self.estimator:
            case "one-sided":
                return OneSided(self.eps, self.queries)
            case "two-point-curvature":
                return SpsaWithCurvature(self.eps)
            case "forward-gradient":
                return ForwardGradient(self.queries)
            case "gauss-newton" | "forward-gauss-newton":
                exact = self.estimator in FORWARD_MODE_ESTIMATORS
                return GaussNewton(self.eps, self.queries, exact)
            case "exact":
                return NoProbes()
            case _:
                return Spsa(self.eps, self.queries, self.average)

    def __str__(self) -> str:
        plain = Settings()
        always = ("estimator", "eps", "lr", "schedule", "steps", "batch_size")
        return ", ".join(
            f"{key}={value}"
            for key, value in asdict(self).items()
            if key in always or value != getattr(plain, key)
        )

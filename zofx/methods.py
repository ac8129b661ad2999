"""Methods as data: what to compile, how to drive it, where it comes from.

Noise and selection are compiled in (pipeline text); estimator and update rule are driven (recipe).
A new method is a row here and, at most, one pass and one rule.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from zofx.errors import UsageError
from zofx.registry import Table
from zofx.zo.estimators import Estimator, OneSided, Spsa
from zofx.zo.recipe import Recipe
from zofx.zo.schedule import Schedule


@dataclass(frozen=True)
class Settings:
    """The numbers of a run; a method brings defaults, the command line overrides them.

    Attributes:
        estimator: "two-point" (±ε along each direction) or "one-sided" (θ and +ε).
        eps: distance of a probe, in units of z.
        queries: directions averaged per step.
        lr: learning rate at its peak.
        schedule: "constant", "linear" or "cosine" decay to zero.
        steps: of the run.
        batch_size: examples per step.
    """

    estimator: Literal["two-point", "one-sided"] = "two-point"
    eps: float = 1e-3
    queries: int = 1
    lr: float = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    steps: int = 1000
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.steps < 1 or self.batch_size < 1:
            raise UsageError(
                f"lr={self.lr}, steps={self.steps}, batch_size={self.batch_size}: "
                "all must be positive"
            )

    @classmethod
    def from_mapping(cls, said: Mapping[str, Any]) -> Self:
        """Read back what `asdict` wrote."""
        return cls(**{f.name: said[f.name] for f in fields(cls) if f.name in said})

    def with_given(self, **given: Any) -> Self:
        """Override by everything that is not None."""
        return replace(self, **{key: value for key, value in given.items() if value is not None})

    def recipe(self) -> Recipe:
        """The driver's recipe; it names the steps where the schedule depends on them."""
        kinds: dict[str, type[Spsa | OneSided]] = {"two-point": Spsa, "one-sided": OneSided}
        if self.estimator not in kinds:
            raise UsageError(
                f"there is no estimator '{self.estimator}'; there are: {', '.join(kinds)}"
            )
        estimator: Estimator = kinds[self.estimator](self.eps, self.queries)
        steps = 0 if self.schedule == "constant" else self.steps
        return Recipe(estimator, Schedule(self.schedule, self.lr, steps))

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in asdict(self).items())


@dataclass(frozen=True)
class Method:
    """A zeroth-order method.

    Attributes:
        name: as in `--method NAME`.
        summary: one line.
        source: citation and link.
        pipeline: pass text; options visible, overridable by `--set PASS.OPTION=VALUE`.
        settings: defaults of a run.
    """

    name: str
    summary: str
    source: str
    pipeline: str
    settings: Settings


SENSZOQ = Method(
    name="senszoq",
    summary=(
        "train the 0.1 % most sensitive weights as a sparse slice by two probes in one forward; "
        "the rest is frozen and quantized"
    ),
    source=(
        "Guo et al. 2025, Zeroth-Order Fine-Tuning of LLMs with Transferable Static Sparsity, "
        "ICLR, arXiv 2406.02913"
    ),
    pipeline=(
        "canonicalize, narrow-positions, select-sensitive{fraction=0.001 scope=global}, "
        "split-sparse, quantize-frozen{format=nf4}, insert-perturbation{noise=gaussian}, "
        "stack-probes"
    ),
    # Measured on SmolLM2-135M and TREC (106,168 trained weights), where 3e-4 diverges. The more
    # weights train, the less a step may move: a larger model wants a smaller rate.
    settings=Settings(eps=1e-3, lr=1e-4, schedule="linear", steps=1000, batch_size=16),
)

METHODS: Table[Method] = Table("method", "methods", {"senszoq": lambda: SENSZOQ})

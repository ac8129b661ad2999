"""Which compiled methods are compared with which textbook: one row each.

    Row(method, reference)    METHODS[method] ─compile─▶ artifact        what zofx runs
                              reference(start) ─▶ Subject(method, theta) what the paper runs

To add a method: a function of a `Start` that returns a `Subject`, in `tests.methods.subjects`, and
a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tests.methods.reference import (
    Adam,
    Conservative,
    ForwardGradient,
    Momentum,
    ScalarSign,
    VectorSign,
)
from tests.methods.shaped import Hizoo, LozoMomentum
from tests.methods.start import Start, Subject
from tests.methods.subjects import (
    adapters,
    blocks,
    dense,
    fzoo,
    hybrid,
    low_rank,
    random_part,
    random_subspace,
    scales,
    small_part,
    sparse,
)
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.zo.random.noise import Kind
from zofx.zo.settings import Settings

EPS = 2.0**-6
"""The standard deviation of the weights: the gap of two probes is far above their rounding."""


def few_roundings(settings: Settings, t: int) -> int:
    """Of θ + Σ coefficient · z: of ε, η, coefficient and product, and one sum per query."""
    return 4 + settings.queries


def moments(settings: Settings, t: int) -> int:
    """Of θ − η·m / (√v + δ), of one query.

    Coefficient and product make g; β, product and sum make each moment, once a step; then 1 − βᵗ
    and the division by it, twice, the root, δ, the quotient, η, its product and the sum. The error
    of v counts by half under the root, and what g² has twice thereby once.
    """
    return 2 * (3 + 3 * (t + 1)) + 10


def folded(settings: Settings, t: int) -> int:
    """Of base + gain·U·A·V: those of A, twice as `Subject.size` says; nine more on the way.

    When A is folded, of rank 2: the gain, twice a product and two sums. U and V are stored.
    """
    return 2 * few_roundings(settings, t) + 9


def averaged(settings: Settings, t: int) -> int:
    """Of an average of gradients, kept in a basis and folded.

    A step multiplies both terms and adds them; a basis after at least four more of these costs an
    overlap, and a product and two sums.
    """
    return folded(settings, t) + 4 * (t + 1)


@dataclass(frozen=True)
class Row:
    """A compiled method and its textbook.

    Attributes:
        method: of `METHODS`.
        reference: makes the textbook run.
        label: what distinguishes rows of one method.
        options: how it is compiled.
        settings: what differs from the method's defaults and `RUN`.
        noise: the distribution of z.
        order: evaluation e of the textbook is loss order[e] of a step's log; empty for the same.
        roundings: (settings, step) → how many a path from a term of a step to θ has at most; those
            of a method with memory grow with the steps.
        slack: what the losses' bound is multiplied by: 2 where the textbook's weights are rounded
            once on the way (dequantized, folded, moved), as the bound lets an engine do.
        free: whether the step is θ − η·Σ c·z / Q along directions that do not depend on θ, so that
            a whole run has a bound (`tests.methods.free_run`).
        layers: of the model.
    """

    method: str
    reference: Callable[[Start], Subject]
    label: str = ""
    options: Options = field(default_factory=Options)
    settings: Mapping[str, Any] = field(default_factory=dict)
    noise: Kind = "gaussian"
    order: tuple[int, ...] = ()
    roundings: Callable[[Settings, int], int] = few_roundings
    slack: int = 1
    free: bool = False
    layers: int = 1

    def __str__(self) -> str:
        return "-".join(part for part in (self.method, self.label) if part)

    @property
    def run(self) -> Settings:
        """The numbers of the run."""
        return METHODS[self.method].settings.with_given(**{**RUN, **self.settings})


RUN = {"eps": EPS, "lr": 0.01, "schedule": "constant"}


PLAIN = Options(quant="none", fraction=0.05)
SIGNS = replace(PLAIN, settings=["insert-perturbation.noise=rademacher"])

WINDOW = 5
"""Steps that a mask or a basis is kept: a run sees four."""
LAZY = {"lr": 1e-4, "refresh": WINDOW}

ROWS = (
    Row("senszoq", sparse, "plain", PLAIN, free=True),
    Row("senszoq", sparse, "int4", replace(PLAIN, quant="int4"), slack=2),
    Row("senszoq", sparse, "queries", PLAIN, {"queries": 2}),
    Row("senszoq", sparse, "signs", SIGNS, {"eps": 1e-3}, noise="rademacher"),
    Row("mezo", dense, settings={"lr": 1e-4}, free=True),
    Row("zo-sgd-sign", partial(dense, kind=ScalarSign), settings={"lr": 1e-4}),
    Row(
        "zo-sgd-sign",
        partial(dense, kind=VectorSign),
        "coordinates",
        settings={"lr": 1e-4, "rays": "", "tensors": "sign_coordinates()"},
    ),
    Row(
        "zo-sgd-momentum",
        partial(dense, kind=Momentum),
        settings={"lr": 1e-4},
        roundings=moments,
    ),
    Row("zo-adam", partial(dense, kind=Adam), settings={"lr": 1e-3}, roundings=moments),
    Row(
        "zo-sgd-conservative",
        partial(dense, kind=Conservative),
        settings={"lr": 1e-3},
        order=(0, 1, 3, 2, 4),
    ),
    Row(
        "hizoo",
        partial(dense, kind=Hizoo, smooth=1e-3),
        settings={"lr": 1e-3, "tensors": "diagonal_hessian(1e-3)"},
        order=(2, 0, 1),
        roundings=moments,
    ),
    Row("fzoo", fzoo, settings={"queries": 4}, noise="rademacher"),
    Row("forward-grad", partial(dense, kind=ForwardGradient), settings={"lr": 1e-4}),
    Row("zo-blockwise", partial(blocks, by="step"), settings={"lr": 1e-4}, slack=2),
    Row(
        "zo-blockwise",
        partial(blocks, by="query"),
        "at-once",
        Options(settings=["alternate-blocks.by=query"]),
        {"lr": 1e-4},
    ),
    Row(
        "zo-sparse-grad",
        partial(random_part, keep=0.8, interval=WINDOW),
        options=Options(settings=[f"mask-directions.interval={WINDOW}"]),
        settings={"lr": 1e-4},
    ),
    Row("zo-hybrid", hybrid, settings={"lr": 1e-4, "exact_lr": 0.01}, layers=2),
    Row("sparse-mezo", partial(small_part, share=0.2), settings={"lr": 1e-4}),
    Row("lozo", low_rank, settings=LAZY, roundings=folded, slack=2),
    Row(
        "lozo-momentum",
        partial(low_rank, kind=LozoMomentum),
        settings=LAZY,
        roundings=averaged,
        slack=2,
    ),
    Row("lora-fa", partial(adapters, scale=16 / 8)),
    Row("qzo", partial(scales, limit=0.5), settings={"lr": 1e-4, "rays": "clip(0.5)"}),
    Row(
        "subzero",
        random_subspace,
        options=Options(settings=["insert-low-rank.rank=2"]),
        settings=LAZY,
        roundings=folded,
        slack=2,
    ),
)

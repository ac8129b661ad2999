"""Which compiled methods are compared with which textbook: one row each.

    Row(method, reference)    METHODS[method] ─compile─▶ artifact        what zofx runs
                              reference(start) ─▶ Subject(method, theta) what the paper runs

To add a method: a function of a `Start` that returns a `Subject`, and a row. The function says how
the artifact's slices are read as the method's θ, and where its directions come from; it uses the
classes of `tests.methods.reference` and `tests.methods.shaped`, and nothing that computes a step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.methods.directions import on_index
from tests.methods.model import Model
from tests.methods.reference import (
    Adam,
    Conservative,
    Method,
    Mezo,
    Momentum,
    ScalarSign,
    Tensors,
    VectorSign,
)
from tests.methods.shaped import Fzoo, Hizoo
from zofx import artifact
from zofx.artifact import Manifest
from zofx.assembly import Options
from zofx.merge import merged_tensors
from zofx.methods import METHODS, Settings
from zofx.runtime import Session
from zofx.zo.noise import Kind, Stream, sample
from zofx.zo.types import FloatArray, Key

Values: TypeAlias = Mapping[str, FloatArray]

SEED = 11
EPS = 2.0**-6
"""The standard deviation of the weights: the gap of two probes is far above their rounding."""


@dataclass(frozen=True, eq=False)
class Start:
    """What a textbook run starts from.

    Attributes:
        folder: the artifact.
        model: the checkpoint it was compiled from, in float64.
        settings: of the run.
        noise: the distribution the method's paper draws from.
        session: to read state beside θ, such as a basis; its θ moves with the run.
    """

    folder: Path
    model: Model
    settings: Settings
    noise: Kind
    session: Session

    @property
    def manifest(self) -> Manifest:
        """Which tensors there are, and where they come from."""
        return artifact.read_manifest(self.folder)

    def named(self, form: str) -> dict[str, str]:
        """Weight → the artifact's tensor of this form ("slice", "index", …)."""
        return {str(row.origin): row.name for row in self.manifest.tensors if row.form == form}

    def frozen(self, name: str) -> Tensor:
        """A tensor of the artifact that does not move."""
        tensor: Tensor = load_file(self.folder / artifact.WEIGHTS)[name]
        return tensor

    def initial(self) -> dict[str, FloatArray]:
        """What moves, before the first step."""
        return artifact.read_slices(self.folder)

    def draw(self, step: int, query: int, name: str, stream: Stream = Stream.Z) -> Tensor:
        """The values of a direction of the slice `name`, f64, as the slice is shaped."""
        shape = self.session.slices[name]
        values = sample(self.noise, Key(SEED, step, query), name, shape, stream)
        return torch.from_numpy(values).double()

    def weights(self, values: Values) -> Tensors:
        """The model's weights by name, f64, as the artifact holds them at these slices."""
        merged = {n: w.double() for n, w in merged_tensors(self.folder, values)}
        return {name: merged[name].contiguous() for name in self.model.weights}

    def common(self) -> dict[str, Any]:
        """The numbers every method takes, as the compiled one has them.

        ε is what the probe matrix holds, a float32; what dividing by the other does is among the
        roundings of a move.
        """
        eps = float(torch.tensor(self.settings.eps, dtype=torch.float32))
        return {"lr": self.settings.lr, "eps": eps, "queries": self.settings.queries}


@dataclass(frozen=True, eq=False)
class Subject:
    """A textbook run, and how it reads a session.

    Attributes:
        method: at the artifact's initial values.
        theta: what `Session.read` gives → the method's θ, exactly.
    """

    method: Method
    theta: Callable[[Values], Tensors]


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
        hold: how many steps of the driver are one of the textbook, all on one batch.
        slack: what the losses' bound is multiplied by: 2 where the textbook's weights are rounded
            once on the way (dequantized, folded), as the bound lets an engine do.
        free: whether the step is θ − η·Σ c·z / Q along directions that do not depend on θ, so that
            a whole run has a bound (`tests.methods.free_run`).
    """

    method: str
    reference: Callable[[Start], Subject]
    label: str = ""
    options: Options = field(default_factory=Options)
    settings: Mapping[str, Any] = field(default_factory=dict)
    noise: Kind = "gaussian"
    order: tuple[int, ...] = ()
    roundings: Callable[[Settings, int], int] = few_roundings
    hold: int = 1
    slack: int = 1
    free: bool = False

    def __str__(self) -> str:
        return "-".join(part for part in (self.method, self.label) if part)

    @property
    def run(self) -> Settings:
        """The numbers of the run."""
        return METHODS[self.method].settings.with_given(**{**RUN, **self.settings})


RUN = {"eps": EPS, "lr": 0.01, "schedule": "constant"}


def sparse(start: Start, kind: Callable[..., Method] = Mezo, **own: Any) -> Subject:
    """SensZOQ: a method at the chosen coordinates of the weights, everything else frozen.

    Args:
        start: what it starts from.
        kind: the method, which for SensZOQ is MeZO.
        own: its own numbers, such as a momentum's β.
    """
    slices = start.named("slice")
    index = {weight: start.frozen(name).long() for weight, name in start.named("index").items()}
    initial = start.initial()
    rest = start.weights({**initial, **{name: 0 * initial[name] for name in slices.values()}})

    def theta(values: Values) -> Tensors:
        full = {name: weight.clone() for name, weight in rest.items()}
        for weight, name in slices.items():
            full[weight].view(-1)[index[weight]] += torch.from_numpy(values[name]).double()
        return full

    shapes = {name: weight.shape for name, weight in rest.items()}
    z = on_index(lambda t, query, name: start.draw(t, query, slices[name]), index, shapes)
    method = kind(theta(initial), z, trained=tuple(slices), **{**start.common(), **own})
    return Subject(method, theta)


def dense(start: Start, kind: Callable[..., Method] = Mezo, **own: Any) -> Subject:
    """A method on whole weights: the slices are the weights themselves.

    Args:
        start: what it starts from.
        kind: the method.
        own: its own numbers.
    """
    trained = tuple(start.session.slices)
    rest = start.weights(start.initial())

    def theta(values: Values) -> Tensors:
        whole = {name: torch.from_numpy(values[name]).double() for name in trained}
        return {name: whole.get(name, weight).clone() for name, weight in rest.items()}

    numbers = {**start.common(), **own}
    return Subject(kind(theta(start.initial()), start.draw, trained=trained, **numbers), theta)


def fzoo(start: Start) -> Subject:
    """FZOO; its η is ε times the compiled one, which divides slopes by their spread, not losses."""
    return dense(start, Fzoo, lr=start.settings.lr * start.common()["eps"])


PLAIN = Options(quant="none", fraction=0.05)
SIGNS = replace(PLAIN, settings=["insert-perturbation.noise=rademacher"])

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
)

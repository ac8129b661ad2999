"""One case, twice: in step, where a bound is derived, and freely, where differences add up.

    in step   before every step all start from zofx's θ and hear zofx's losses; moments go on
              |l_public − l| ≤ δ                              at the same θ: rounding of a loss
              |θ'_public − θ'| ≤ γₖ·(|θ| + Σ |terms|) + d     of the same losses: that of a move
              |θ'_public − θ'_textbook| ≤ d                   both float64
    freely    from the same weights on their own losses

δ is that of `tests.methods.bounds`: every rounding of the compiled graph on this batch, carried to
the loss. No path from a term to θ' has more than k roundings in zofx, γₖ = k·u / (1 − k·u),
u = 2⁻²⁴ (Higham 2002, chapter 3); a low-rank W = base + A·V has those of A, times |V|. The two runs
in float64 add up the same in another order, with three sweeps of ±εz besides:
d = (2k + 16)·2⁻⁵³·(|θ| + 4ε|z| + Σ |terms|).
A step that shows a known fault must break the second bound and keep the third.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from benchmarks.fidelity.case import Case
from benchmarks.fidelity.public import PublicRun
from benchmarks.fidelity.subject import Step, Tensors, Trajectory, double
from tests.methods.reference import Method

Row: TypeAlias = dict[str, Any]

UNIT32: Final = 2.0**-24
UNIT64: Final = 2.0**-53


@dataclass
class Told:
    """A loss that says what was measured, evaluation by evaluation."""

    losses: Tensor
    place: int = 0

    def __call__(self, weights: Tensors) -> Tensor:
        """The next one."""
        self.place += 1
        return self.losses[self.place - 1]

    def slope(self, weights: Tensors, along: Tensors) -> tuple[Tensor, Tensor]:
        """No method here asks for one."""
        raise NotImplementedError


@dataclass(frozen=True)
class Gap:
    """How far two sets of tensors are apart, and how far they may be.

    Attributes:
        difference: the largest, relative to the largest value.
        tolerance: the largest allowed.
        share: the largest ratio of the two in one place; more than 1 is too far.
    """

    difference: float
    tolerance: float
    share: float

    @classmethod
    def between(cls, actual: Tensors, wanted: Tensors, allowed: Tensors) -> "Gap":
        """Over all tensors."""
        apart, size, may = (
            torch.cat([part.flatten() for part in parts])
            for parts in (
                [(actual[name] - wanted[name]).abs() for name in wanted],
                [wanted[name].abs() for name in wanted],
                [allowed[name] for name in wanted],
            )
        )
        share = apart / may.clamp(min=torch.finfo(torch.float64).tiny)
        largest = float(size.max())
        return cls(float(apart.max()) / largest, float(may.max()) / largest, float(share.max()))

    def row(self) -> Row:
        """Three digits say enough."""
        return {name: float(f"{value:.3g}") for name, value in vars(self).items()}


def compared(case: Case, checkout: Path, run: Trajectory) -> Row:
    """Everything about one case; `as_expected` is the verdict."""
    steps = in_step(case, checkout, run)
    fault = case.fault
    return {
        "case": case.label,
        "method": case.method,
        "numbers": {"eps": run.settings.eps, **case.numbers},
        "fault": fault.why if fault else None,
        "as_expected": all(row["as_expected"] for row in steps),
        "in_step": steps,
        "freely": freely(case, checkout, run),
    }


def in_step(case: Case, checkout: Path, run: Trajectory) -> list[Row]:
    """Every step from zofx's θ, on zofx's losses, in float64."""
    public, method = case.public(checkout, run, torch.float64), case.textbook(run)
    return [_step(case, run, public, method, step) for step in run.steps]


def _step(case: Case, run: Trajectory, public: PublicRun, method: Method, step: Step) -> Row:
    t, before, fault = step.t, run.weights(step.before), case.fault
    public.load(before)
    reported = step.losses[list(case.order)]
    own = public.step(t, step.asked.inputs, reported)
    method.theta = {name: weight.clone() for name, weight in before.items()}
    method.step(t, Told(step.losses[list(case.textbook_order)]))

    here = [e for e in range(len(reported)) if not (fault and e in fault.losses)]
    allowed = step.allowed[list(case.order)]
    losses = Gap.between({"": own[here]}, {"": reported[here]}, {"": allowed[here]})
    k, own_rounding = case.roundings(run.settings, t), _double_rounding(case, run, method, step)
    moved = _rounding(case, run, method, step)
    gamma = k * UNIT32 / (1 - k * UNIT32)
    may = {name: gamma * size + own_rounding[name] for name, size in moved.items()}
    weights = Gap.between(run.weights(step.after), public.weights, may)
    textbook = Gap.between(method.theta, public.weights, own_rounding)
    shows = bool(fault and fault.at(run.settings, t))
    return {
        "step": t,
        "losses": losses.row(),
        "weights": weights.row(),
        "textbook": textbook.row(),
        "fault_shows": shows,
        "as_expected": losses.share <= 1 and textbook.share <= 1 and (weights.share > 1) == shows,
    }


def _rounding(case: Case, run: Trajectory, method: Method, step: Step) -> Tensors:
    """|θ| + Σ |terms|, by weight: what γₖ multiplies.

    The terms are the textbook's; where that has a fault, zofx's own move counts, too.
    """
    sizes = {}
    for name in run.names:
        part, basis = run.bases.get(name, (name, None))
        size = double(step.before[part]).abs()
        size += method.terms[name] if basis is None else _coordinates(case, method, step, name)
        if case.fault:
            size += (double(step.after[part]) - double(step.before[part])).abs()
        sizes[name] = size if basis is None else size @ double(step.before[basis.right]).abs()
    return sizes


def _double_rounding(case: Case, run: Trajectory, method: Method, step: Step) -> Tensors:
    """What two runs in float64 may differ by."""
    units = (2 * case.roundings(run.settings, step.t) + 16) * UNIT64
    sizes = {}
    for name, weight in run.weights(step.before).items():
        z, terms = run.z(step.t, 0, name).abs(), method.terms[name]
        if name in run.bases:
            right = double(step.before[run.bases[name][1].right]).abs()
            z, terms = z @ right, _coordinates(case, method, step, name) @ right
        sizes[name] = units * (weight.abs() + 4 * method.eps * z + terms)
    return sizes


def _coordinates(case: Case, method: Method, step: Step, name: str) -> Tensor:
    assert case.coordinates is not None
    c = (step.losses[0] - step.losses[1]) / (2 * method.eps)
    return case.coordinates(method, step.t, name, c)


def freely(case: Case, checkout: Path, run: Trajectory) -> Row:
    """Public code on its own losses, in float64 and in float32, against zofx and each other.

    Each is a list, step by step: `loss` the largest relative difference, `path` the distance of θ
    relative to how far θ has moved.
    """
    double_run, single_run = (
        _own(case.public(checkout, run, dtype), run) for dtype in (torch.float64, torch.float32)
    )
    ours = [(step.losses[list(case.order)], run.weights(step.after)) for step in run.steps]
    origin = run.weights(run.steps[0].before)
    pairs = {
        "zofx_from_float64": (ours, double_run),
        "zofx_from_float32": (ours, single_run),
        "float32_from_float64": (single_run, double_run),
    }
    return {
        name: {
            "loss": [_digits(_loss_gap(a, b)) for (a, _), (b, _) in zip(*pair, strict=True)],
            "path": [
                _digits(_norm(a, b) / _norm(b, origin))
                for (_, a), (_, b) in zip(*pair, strict=True)
            ],
        }
        for name, pair in pairs.items()
    }


def _own(public: PublicRun, run: Trajectory) -> list[tuple[Tensor, Tensors]]:
    """(losses, θ) after every step."""
    return [(public.step(step.t, step.asked.inputs), public.weights) for step in run.steps]


def _loss_gap(actual: Tensor, wanted: Tensor) -> float:
    return float(((actual - wanted) / wanted).abs().max())


def _norm(actual: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(((actual[n] - w) ** 2).sum()) for n, w in wanted.items()))


def _digits(value: float) -> float:
    return float(f"{value:.3g}")

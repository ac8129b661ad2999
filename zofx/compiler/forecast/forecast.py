"""What a training step will take, in memory and time, before a weight is read.

    memory   = what stays + the most that comes and goes
    stays    = process + tokenizer + weights + copies of them + θ + directions + rules' state
    comes    = max(forward, gradient, update)
    forward  = order · peak of the graph, of the rows that share a forward   (`liveness`)
    gradient = that of tensors with exact ones, of a part of the batch       (`exact_gradient`)
    update   = θ, and temporaries of the largest trainable, where a rule on tensors makes them
    time     = 2 · multiply-adds / rates + normals / rate + bytes moved / bandwidth

Sizes are exact where they are of the program: it is captured and rewritten as `compile` does it,
and never written. Measured instead are an engine's own share (`engine_memory`), a
tokenizer's bytes per token, and how many temporaries rules make. Time is a rough figure: products
run at two rates, that of floats and that of integers. Rows are N · T rectangles; `zofx tune` cuts
padding, so rows of mixed length take less.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from zofx.compiler.forecast.engine_memory import ENGINES, Footprint
from zofx.compiler.forecast.exact_gradient import ExactGradientCost
from zofx.compiler.forecast.machine_speed import Rates
from zofx.compiler.forecast.op_costs import F32, Axes, Shapes
from zofx.errors import UsageError
from zofx.ir.directions import noise_of
from zofx.ir.partition import split
from zofx.ir.program import Program
from zofx.ir.requirements import products_of
from zofx.ir.schema import FROZEN_ROLES, UPDATED_ROLES, VOCABULARY, Role
from zofx.runtimes.host.batching import BatchingPolicy, cpu_batching_policy, cuts
from zofx.runtimes.host.theta import keeps
from zofx.zo.recipe import Recipe
from zofx.zo.rules.gradient_rules import Gradient, TensorRule
from zofx.zo.settings import Settings
from zofx.zo.types import Key, Ray

TEMPORARIES: Final = 5
"""Arrays of a trainable that a rule on tensors makes at once, beside its state: measured."""

TOKEN: Final = 850
"""Bytes of a tokenizer per token of its vocabulary."""


@dataclass(frozen=True)
class Part:
    """One line of a forecast.

    Attributes:
        name: of what takes it.
        amount: bytes, or seconds.
        note: how it comes about.
    """

    name: str
    amount: float
    note: str = ""


@dataclass(frozen=True)
class Forecast:
    """What a step will take.

    Attributes:
        rows: of its batch.
        axes: of what is in work at a time: its largest forward, or that of each worker.
        stays: bytes kept from step to step.
        comes: bytes kept within a step, one after the other.
        step: seconds.
        flops: of all products of a step; two per multiply-add.
    """

    rows: int
    axes: Axes
    stays: tuple[Part, ...]
    comes: tuple[Part, ...]
    step: tuple[Part, ...]
    flops: int

    @property
    def memory(self) -> int:
        """The largest resident set, in bytes."""
        passing = max((part.amount for part in self.comes), default=0)
        return round(sum(part.amount for part in self.stays) + passing)

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(part.amount for part in self.step)


def forecast(  # noqa: PLR0913  a step has many conditions
    program: Program,
    settings: Settings,
    *,
    joint: Program | None = None,
    tokens: int,
    scored: int = 1,
    alternatives: int = 1,
    vocabulary: int = 0,
    runtime: str = "ort",
    threads: int | None = None,
    rates: Rates,
) -> Forecast:
    """Predict a step.

    Args:
        program: compiled, with probes, unless everything trains by exact gradients.
        settings: of the run; `batch_size` rows.
        joint: scores and exact gradients, if some tensors have them (`reverse-mode`).
        tokens: T.
        scored: S.
        alternatives: C; where there are several, only their differences count.
        vocabulary: of the tokenizer.
        runtime: "ort" or "torch".
        threads: of the engine; None stands for all processors.
        rates: of the machine.

    Raises:
        UsageError: no such runtime, or settings that do not go with the program.
    """
    require_known(runtime)
    settings = settings.fitted(noise_of(program))
    recipe = settings.recipe()
    probes, directions = recipe.estimator.probes(0, 0).matrix.shape
    probed = bool(program.trainables)
    batch = settings.batch_size
    prefix, remainder = split(program)  # a frozen prefix is computed once, before the first step
    cut = prefix is not None
    on_cpu = runtime == "ort"
    batching = (
        cpu_batching_policy(products_of(program.graph), cut, batch, threads)
        if on_cpu
        else BatchingPolicy()
    )
    moving = sum(spec.nbytes for spec in program.tensors.values() if spec.role in UPDATED_ROLES)
    trained = sum(spec.nbytes for spec in program.trainables)
    still = sum(spec.nbytes for spec in program.tensors.values() if spec.role in FROZEN_ROLES)
    cost_model = batching.cost_model(trained, still, probes)
    groups = cuts(np.full(batch, tokens), np.ones(batch, np.int64), cost_model)
    # A forward of each worker, at once: the largest come first.
    rows = sum(end - start for start, end in groups[: batching.workers])
    known = _vocabulary(program, batch * tokens, batch * scored * alternatives, alternatives > 1)
    axes = Axes(rows, tokens, scored, alternatives, probes, directions, known)
    shapes = Shapes(program, axes)
    whole = Footprint(program, shapes, runtime)
    cost = Footprint(remainder, shapes, runtime)
    work = Footprint(remainder, Shapes(program, replace(axes, rows=batch)), runtime)
    state = _state_bytes(recipe, program)
    evaluations = 1 + (len(recipe.trial.multipliers) / probes if recipe.trial else 0)
    stays = list(_stays(whole, vocabulary, moving, trained, state))
    if prefix is not None and on_cpu:
        stays.append(Part("tables of the prefix", _tables(prefix), "mapped whole, read by rows"))
    comes: list[Part] = []
    step: list[Part] = []
    flops = 0.0
    if probed:
        comes += _comes(cost, recipe, moving, trained, state)
        step += _step(work, rates, evaluations, len(groups), trained)
        flops += 2 * evaluations * work.multiply_adds
    if joint is not None:
        exact = ExactGradientCost(joint, replace(axes, rows=batch), runtime)
        stays += _stays_for_gradient(exact, probed, _exact_state_bytes(recipe, joint))
        comes.append(Part("gradient", exact.passing(), f"{exact.rows} rows at a time"))
        step += _gradient(exact, rates)
        flops += 2 * exact.multiply_adds
    return Forecast(batch, axes, tuple(stays), tuple(comes), tuple(step), round(flops))


def _tables(program: Program) -> int:
    """Bytes of the tables that a program reads."""
    return sum(spec.nbytes for spec in program.tensors.values() if spec.role in VOCABULARY)


def _stays_for_gradient(exact: ExactGradientCost, probed: bool, state: int) -> Iterator[Part]:
    """What exact gradients keep from step to step."""
    yield Part("weights of the gradient", exact.weights(probed), "of its graphs, packed")
    yield Part("gradients", 2 * exact.trained, "of a part, and their sum")
    yield Part("state of their rule", state)


def _gradient(exact: ExactGradientCost, rates: Rates) -> Iterator[Part]:
    """Seconds of the exact gradients of a step."""
    floats = exact.multiply_adds - exact.integer
    yield Part("gradient, products", 2 * floats / rates.flops, "of matrices of floats")
    yield Part("gradient, integers", 2 * exact.integer / rates.integers, "forward and backward")
    yield Part("gradient, values", exact.moved / rates.bandwidth, "read and written by other ops")


def require_known(runtime: str) -> None:
    """Refuse a runtime of which nothing is measured.

    Raises:
        UsageError: names those that there are.
    """
    if runtime not in ENGINES:
        raise UsageError(f"no forecast for runtime '{runtime}'; there are: {', '.join(ENGINES)}")


def _vocabulary(program: Program, read: int, scored: int, relative: bool) -> int:
    """How many rows of its tables a batch is given, at most: a row for every token, or all."""
    tables = [spec for spec in program.tensors.values() if spec.role in VOCABULARY]
    size = min((spec.shape[0] for spec in tables), default=0)
    heads = any(spec.role is Role.HEAD for spec in tables)
    if heads and not relative:
        return size
    return min(size, read + scored if heads else read)


def _stays(
    cost: Footprint, vocabulary: int, moving: int, trained: int, state: int
) -> Iterator[Part]:
    """Memory that is kept from step to step."""
    yield Part("process", cost.engine.process, "interpreter and engine, measured")
    yield Part("tokenizer", vocabulary * TOKEN, f"{vocabulary:,} tokens")
    yield Part("frozen weights", cost.still(Role.FROZEN, Role.INDEX), "as in weights.safetensors")
    yield Part("tables", cost.still(*VOCABULARY), f"{cost.shapes.axes.vocabulary:,} rows")
    yield Part("copies of weights", cost.copies(), "expanded to f32")
    yield Part("trainables", moving, "as in trainables.safetensors")
    yield Part("directions", _held_directions(cost, trained), f"z, Q = {cost.queries}")
    yield Part("state of rules", state)


def _held_directions(cost: Footprint, trained: int) -> int:
    """Bytes of z between the forward and the move: as drawn, and stacked where there are several.

    An engine that is not fed draws within its graph, slice by slice.
    """
    if not cost.engine.fed:
        return 0
    return trained * cost.queries * (1 if cost.queries == 1 else 2)


def _state_bytes(recipe: Recipe, program: Program) -> int:
    """What the rule on tensors keeps of what probes train."""
    ones = {spec.name: np.ones(1, np.float32) for spec in program.trainables}
    rays = (Ray(Key(0, 0), 1.0),) * recipe.estimator.rays
    return _kept_by(recipe.tensors, program, Gradient(rays, (), lambda key: ones))


def _exact_state_bytes(recipe: Recipe, joint: Program) -> int:
    """What the rule on exact gradients keeps."""
    exact = [spec.name for spec in joint.tensors.values() if spec.role is Role.EXACT]
    ones = {name: np.ones(1, np.float32) for name in exact}
    return _kept_by(recipe.exact_rule, joint, Gradient((), (), lambda key: {}, ones))


def _kept_by(rule: TensorRule[Any] | None, program: Program, gradient: Gradient) -> int:
    """Bytes of a rule's state after a step: asked of the rule, on tensors of one element."""
    if rule is None:
        return 0
    sizes = {s.name: s.nbytes for s in program.tensors.values() if s.role in UPDATED_ROLES}
    theta = {name: np.ones(1, np.float32) for name in sizes}
    _, state = rule.update(gradient, theta, rule.init(theta))
    return sum(sizes[name] for name in _names(state))


def _names(state: Any) -> Iterator[str]:
    """The trainables of every tensor in a state: mappings by name, however they are nested."""
    if isinstance(state, dict):
        yield from state
    elif isinstance(state, tuple):
        for part in state:
            yield from _names(part)


def _comes(
    cost: Footprint, recipe: Recipe, moving: int, trained: int, state: int
) -> Iterator[Part]:
    """Memory that is kept within a step only."""
    note = "values between weights and result"
    if cost.order != 1:
        note += f", {cost.order:g} times the peak of the graph's order"
    yield Part("forward", cost.forward(), note)
    if recipe.tensors is not None:
        largest = max(spec.nbytes for spec in cost.program.trainables)
        within = round(largest * (TEMPORARIES + state / trained))
        yield Part("update", moving + within, "a copy of θ; gradient, step, state of a trainable")


def _step(
    work: Footprint, rates: Rates, evaluations: float, forwards: int, trained: int
) -> Iterator[Part]:
    """Seconds of a step: `work` is that of its whole batch."""
    drawn = work.queries * trained / F32
    kept = work.engine.fed and keeps(work.queries, trained)
    weights = forwards * work.still(*FROZEN_ROLES)
    floats = work.multiply_adds - work.integer
    yield Part("products", evaluations * 2 * floats / rates.flops, "of matrices of floats")
    integers = evaluations * 2 * work.integer / rates.integers
    yield Part("integers", integers, "of matrices of integers")
    yield Part(
        "directions",
        drawn * (1 if kept else 2) / rates.normals,
        f"drawn {'once' if kept else 'for the forward and for the move'}",
    )
    moved = evaluations * work.moved() / rates.bandwidth
    yield Part("values", moved, "read and written by other ops")
    often = "once a forward" if forwards == 1 else f"in each of {forwards} forwards"
    yield Part("weights", evaluations * weights / rates.bandwidth, f"read {often}")

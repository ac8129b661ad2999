"""How many of the last layers can train by exact gradients within some memory.

    smallest L with   memory(layers L … n−1 exact, those before frozen) ≤ budget

By bisection: memory falls as L grows. Layers before L are a frozen prefix, computed once per
example and kept on disk: they have no residuals and no backward graph. Every L that is tried is
compiled on shapes.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from zofx.compiler.exact import ALL, rewrite, settings_for
from zofx.compiler.forecast.forecast import forecast
from zofx.compiler.forecast.machine_speed import Rates
from zofx.compiler.frontend import captured
from zofx.compiler.methods import Method
from zofx.compiler.options import Options, pipeline_for, without_scores
from zofx.errors import UsageError
from zofx.ir.patterns import block_of
from zofx.ir.program import Program
from zofx.ir.schema import Role
from zofx.models.checkpoint import Checkpoint

AUTO: Final = "auto"
UNTIMED: Final = Rates(1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class MemoryBudget:
    """What a training step may take.

    Attributes:
        limit: bytes of the largest resident set.
        tokens: T, of the longest row.
        alternatives: C, candidates scored in one row: of several, only differences count, and the
            head needs their rows alone.
        batch_size: rows of a step; None takes the method's.
    """

    limit: int
    tokens: int = 128
    alternatives: int = 1
    batch_size: int | None = None


def require_budget(options: Options, budget: MemoryBudget | None) -> None:
    """A budget and what it decides come together.

    Raises:
        UsageError: one comes without the other.
    """
    automatic = options.exact_layers == AUTO
    if automatic != (budget is not None):
        raise UsageError(
            "--exact-layers auto takes as many layers as fit into --memory SIZE: give both, or a "
            "number of layers (or all) and no --memory"
        )
    if automatic and options.from_layer is not None:
        raise UsageError(
            "--exact-layers auto chooses the first layer that trains: leave --train-from-layer out"
        )


def most_exact_layers(
    checkpoint: Checkpoint,
    method: Method,
    options: Options,
    budget: MemoryBudget,
    message: Callable[[str], None] = lambda _: None,
) -> Options:
    """The options with as many of the last layers trained as fit into a budget, on ONNX Runtime.

    Args:
        checkpoint: of the model.
        method: that is compiled.
        options: for exact gradients of everything that trains.
        budget: what a step may take.
        message: is called with what is tried, and with what was chosen.

    Raises:
        UsageError: the last layer alone takes more.
    """
    program = captured(checkpoint, options)
    vocabulary = checkpoint.tokenizer.get_vocab_size() if checkpoint.tokenization else 0
    settings = settings_for(method.settings, options.exact_layers, options.train)
    settings = settings.with_given(batch_size=budget.batch_size)

    def with_first(layer: int) -> Options:
        return replace(options, from_layer=layer) if layer else options

    def compiled(first: int) -> tuple[Program, Program | None]:
        message(f"predicting the memory of training from layer {first} on")
        return rewrite(without_scores(pipeline_for(method, with_first(first))), program)

    @cache
    def memory(first: int) -> int:
        made, joint = compiled(first) if first else everything
        return forecast(
            made, settings, joint=joint, tokens=budget.tokens, alternatives=budget.alternatives,
            vocabulary=vocabulary, rates=UNTIMED,
        ).memory  # fmt: skip

    everything = compiled(0)
    layers = _last_block(everything[0]) + 1
    first = first_that_fits(layers, memory, budget.limit)
    if first is None:
        raise UsageError(
            "--memory: exact gradients of the last layer alone take "
            f"{memory(layers - 1) / 1e6:.0f} MB with rows of {budget.tokens} tokens, and "
            f"{budget.limit / 1e6:.0f} MB are allowed; allow more, or say shorter rows (--tokens), "
            "or that candidates share one (--alternatives)"
        )
    message(
        f"exact gradients for {layers - first} of {layers} layers: "
        f"{memory(first) / 1e6:.0f} MB predicted, {budget.limit / 1e6:.0f} MB allowed"
    )
    return with_first(first)


def first_that_fits(layers: int, memory: Callable[[int], int], limit: int) -> int | None:
    """The smallest L in 0 … layers − 1 with memory(L) ≤ limit; None if there is none.

    Args:
        layers: at least one.
        memory: bytes by L, which do not grow with it.
        limit: bytes.
    """
    if memory(0) <= limit:
        return 0
    if memory(layers - 1) > limit:
        return None
    return bisect_left(range(layers), True, lo=1, key=lambda first: memory(first) <= limit)


def whole(options: Options) -> Options:
    """The options with everything exact, where a budget is yet to decide."""
    return replace(options, exact_layers=ALL) if options.exact_layers == AUTO else options


def _last_block(program: Program) -> int:
    """The number of the last block that has something that trains; 0 where none is numbered."""
    training = (Role.TRAINABLE, Role.EXACT)
    names = [s.origin or s.name for s in program.tensors.values() if s.role in training]
    return max((block[1] for name in names if (block := block_of(name))), default=0)

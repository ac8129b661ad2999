"""How many of the last layers can train by exact gradients within some memory.

    smallest L with   memory(layers L … n−1 exact, those below kept as they are) ≤ budget

By bisection: memory falls with L. What is below L is computed once per example and kept on disk, so
it has no residuals and no backward graph. Every L that is looked at is compiled on shapes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from zofx.compiler.exact import rewrite, settings_for
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

    def memory(made: Program, joint: Program | None) -> int:
        return forecast(
            made, settings, joint=joint, tokens=budget.tokens, alternatives=budget.alternatives,
            vocabulary=vocabulary, rates=UNTIMED,
        ).memory  # fmt: skip

    whole = compiled(0)
    layers = _last_block(whole[0]) + 1
    needed = {0: memory(*whole)}
    low, high = 0, layers - 1  # the smallest first layer that fits is in low … high, if any does
    while low < high:
        middle = (low + high) // 2
        if middle not in needed:
            needed[middle] = memory(*compiled(middle))
        if needed[middle] <= budget.limit:
            high = middle
        else:
            low = middle + 1
    if low not in needed:
        needed[low] = memory(*compiled(low))
    if needed[low] > budget.limit:
        raise UsageError(
            f"--memory: exact gradients of the last layer alone take {needed[low] / 1e6:.0f} MB "
            f"with rows of {budget.tokens} tokens, and {budget.limit / 1e6:.0f} MB are allowed; "
            "allow more, or say shorter rows (--tokens), or that candidates share one "
            "(--alternatives)"
        )
    message(
        f"exact gradients for {layers - low} of {layers} layers: "
        f"{needed[low] / 1e6:.0f} MB predicted, {budget.limit / 1e6:.0f} MB allowed"
    )
    return with_first(low)


def _last_block(program: Program) -> int:
    """The number of the last block that has something that trains; 0 where none is numbered."""
    training = (Role.TRAINABLE, Role.EXACT)
    names = [s.origin or s.name for s in program.tensors.values() if s.role in training]
    return max((block[1] for name in names if (block := block_of(name))), default=0)

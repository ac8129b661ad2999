"""What a program's derivatives are, in float64, and how far float32 may be from them.

    f(θ), ∂f/∂θ·v_p                torch's forward mode on the program before `forward-mode`
    |y₃₂ − y| ≤ Σᵢ |∂y/∂vᵢ|·localᵢ    the roundings of every op of the program after it

The bound is that of `tests.runtimes.reference`, with the ops that tangents are made of.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg

from tests.golden import Inputs, values
from tests.runtimes import reference
from tests.runtimes.reference import FUNCTION, Note, Rounding
from zofx.ir.ops import zofx_ops
from zofx.ir.program import Program, output_node

aten = torch.ops.aten

EXACT = reference.EXACT | {
    aten.clamp, aten.clone, aten.relu, aten.sign, aten.split, aten.type_as, aten.where,
}  # fmt: skip
ROUNDED = reference.ROUNDED | {aten.reciprocal}
FUNCTIONS = reference.FUNCTIONS | {aten.erf, aten.exp, aten.sigmoid}


def exactly(value: Tensor, magnitude: Tensor, roundings: int) -> Tensor:
    """In place of a `Rounding` where none is to be noted."""
    return value


def evaluate(graph: fx.Graph, given: Mapping[str, Tensor], rounding: Note) -> Any:
    """The result in float64, noting what each op rounds."""
    values_of: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values_of[node] = given[str(node.target)]
        elif node.op == "call_function":
            args = map_arg(node.args, values_of.__getitem__)
            kwargs = map_aggregate(map_arg(node.kwargs, values_of.__getitem__), _wide)
            values_of[node] = _call(node.target, args, kwargs, rounding)
    return values_of[output_node(graph).all_input_nodes[0]]


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _call(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], rounding: Note) -> Any:
    if target in MEANINGS:
        return MEANINGS[target](rounding, *args, **kwargs)
    value = target(*args, **kwargs)
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return value
    kind = getattr(target, "overloadpacket", None)
    if kind in ROUNDED:
        return rounding(value, value.abs(), reference.ARITHMETIC)
    if kind in FUNCTIONS:
        return rounding(value, args[0].abs().clamp(min=1), FUNCTION)
    assert kind is None or kind in EXACT, f"say what {target} rounds, in {__file__}"
    return value


def sparse_linear(rounding: Note, x: Tensor, theta: Tensor, index: Tensor, *rest: int) -> Tensor:
    """One matrix, or one per direction."""
    return reference.sparse_linear(rounding, x, theta.reshape(-1, len(index)), index, *rest)


MEANINGS: Mapping[Any, Callable[..., Any]] = {
    **reference.MEANINGS,
    zofx_ops.sparse_linear.default: sparse_linear,
}


def wide(program: Program, inputs: Inputs) -> dict[str, Tensor]:
    """All that a program reads, what is a float as f64."""
    everything = {name: program.load(name) for name in program.tensors} | dict(inputs)
    return {n: v.double() if v.is_floating_point() else v for n, v in everything.items()}


def directions(program: Program, inputs: Inputs) -> dict[str, Tensor]:
    """z of every trainable: [Q, *k]."""
    values_of = values(program, inputs)
    return {
        str(node.args[0].target): values_of[node.args[1]]
        for node in program.graph.find_nodes(op="call_function", target=zofx_ops.combine.default)
    }


def scorer(before: Program, inputs: Inputs) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """θ ↦ f(θ), [N, C] in float64, for a program with trainables that nothing perturbs."""
    given = wide(before, inputs)
    return lambda theta: evaluate(before.graph, {**given, **theta}, exactly)


def slopes(before: Program, inputs: Inputs, z: Mapping[str, Tensor]) -> Tensor:
    """f(θ), and its derivative along every row of C: [1 + P, N, C] in float64.

    Args:
        before: as for `scorer`.
        inputs: a batch, with `coefficients` [P, Q].
        z: directions of the trainables.
    """
    score = scorer(before, inputs)
    theta = {name: before.load(name).double() for name in z}
    rows = [score(theta)]
    for row in inputs["coefficients"]:
        rows.append(torch.func.jvp(score, (theta,), (along(row, z),))[1])
    return torch.stack(rows)


def along(row: Tensor, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """v = Σ_q c_q·z_q of every trainable."""
    wide_row = row.double()
    return {name: torch.einsum("q,q...->...", wide_row, each.double()) for name, each in z.items()}


def rounding_bound(after: Program, inputs: Inputs) -> Tensor:
    """How far float32 may be from what the rewritten program means: [1 + P, N, C]."""
    given = wide(after, inputs)
    rounding = Rounding()

    def noted(value: Tensor, magnitude: Tensor, roundings: int) -> Tensor:
        counts = not value.requires_grad  # made of integers alone: nothing is rounded
        return value if counts else rounding(value, magnitude, roundings)

    floats = {n: v.requires_grad_() for n, v in given.items() if v.is_floating_point()}
    return rounding.bound(evaluate(after.graph, {**given, **floats}, noted)).detach()

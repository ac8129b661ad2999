"""Derive the joint graph: the scores, and the gradient of every tensor that trains by it.

    logprob f32[N, C]        →   logprob, g_1, g_2, …
    inputs  …                →   …, cotangent f32[N, C]
    g_i = Σ_nc cotangent[n, c] · ∂logprob[n, c]/∂θ_i

The cotangent is the derivative of any loss by the scores, which the host computes between the two
halves of the graph (`zofx.ir.residuals`): so one graph serves every objective with a derivative.
From the last op to the first, each passes the cotangent of its result on to its operands by its
vector-Jacobian product (`zofx.ir.vjps`: torch's own autograd for aten, a rule for what torch has no
derivative of). The walk is traced once, on shapes. Only ops between an exact tensor and the scores
take part, and batch and length stay free.

Exact up to rounding, for the program as it stands. `quantize-activations` comes later: rounding is
taken for the identity (straight-through), and a product of integers for one with the dequantized
matrix, at the activations of the rounded forward.
Source: Griewank and Walther 2008, Evaluating Derivatives, §3.2 (reverse mode as a program);
straight-through, Bengio et al. 2013, arXiv 1308.3432.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from zofx.errors import UnsupportedError
from zofx.ir.facts import CANONICAL, EXACT, NARROWED
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, is_call, output_node, placeholders, results_of
from zofx.ir.rewrite import Editor, same_type
from zofx.ir.schema import COTANGENT, INPUTS, Role, Stage
from zofx.ir.symbols import decomposition_table, enable_python_dispatcher
from zofx.ir.vjps import Call, Cotangents, Place, pull_back

aten = torch.ops.aten


@dataclass(frozen=True)
class ReverseMode(Pass):
    """See the module."""

    name: ClassVar[str] = "reverse-mode"
    stage = Stage.PARTITION
    requires = (CANONICAL, EXACT)
    destroys = (NARROWED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Trace the pullback and join it to the graph."""
        exact = [spec.name for spec in program.tensors.values() if spec.role is Role.EXACT]
        edit = Editor(program)
        (scores,) = output_node(edit.graph).all_input_nodes
        value = scores.meta["val"]
        cotangent = edit.add_input(COTANGENT, value.shape, value.dtype)
        pullback = _Pullback(edit, [edit.placeholder(name) for name in exact])
        gradients = pullback.join(scores, cotangent)
        output_node(edit.graph).args = ((scores, *gradients),)
        remark("joint graph", "applied", f"{len(exact)} gradients, {pullback.size} more ops")
        return edit.done()


class _Pullback:
    """From the cotangent of the scores to those of some tensors."""

    def __init__(self, edit: Editor, exact: Sequence[fx.Node]) -> None:
        self._edit, self._exact = edit, exact
        self._moves = _downstream(exact)
        self.size = 0

    def join(self, scores: fx.Node, cotangent: fx.Node) -> list[fx.Node]:
        """Append the pullback to the graph; returns the gradients."""
        values = [n for n in self._edit.nodes if isinstance(n.meta.get("val"), Tensor)]
        # A size is read off the first value that has it: let that be an input.
        values.sort(key=lambda n: n.op != "placeholder")
        path = [n for n in self._edit.nodes if n in self._moves and n.op == "call_function"]

        def pullback(*given: Tensor) -> list[Tensor]:
            known = dict(zip(values, given, strict=True))
            return self._pulled(path, scores, known, known[cotangent])

        with enable_python_dispatcher():
            traced = make_fx(pullback, decomposition_table=_derivatives())(
                *(node.meta["val"] for node in values)
            )
        return self._inlined(traced.graph, values)

    def _pulled(
        self, path: Sequence[fx.Node], scores: fx.Node, known: dict[fx.Node, Tensor], seed: Tensor
    ) -> list[Tensor]:
        """One rule after another, from the last op to the first."""
        cotangents: dict[fx.Node, Any] = {scores: seed}
        for node in reversed(path):
            if node not in cotangents:
                continue
            cotangent = cotangents.pop(node)
            if is_call(node, getitem):
                parent, number = node.args
                cotangents.setdefault(parent, {})[number] = cotangent  # type: ignore[arg-type]  # a node
                continue
            for place, value in self._shares(node, known, cotangent).items():
                operand = _at(node.args, place)
                before = cotangents.get(operand)
                cotangents[operand] = value if before is None else before + value
        return [cotangents.get(node, torch.zeros_like(known[node])) for node in self._exact]

    def _shares(self, node: fx.Node, known: dict[fx.Node, Tensor], cotangent: Any) -> Cotangents:
        """What one op passes on."""
        try:
            return pull_back(self._call(node, known), cotangent)
        except (NotImplementedError, RuntimeError) as error:
            raise UnsupportedError(
                "reverse-mode cannot differentiate this program",
                [f"{node.target}: {error}", "leave --exact-layers out, or train by probes there"],
            ) from error

    def _call(self, node: fx.Node, known: dict[fx.Node, Tensor]) -> Call:
        wanted = frozenset(
            place for place, operand in _operands(node.args) if operand in self._moves
        )

        def value(operand: fx.Node) -> Any:
            return known[operand] if operand in known else operand.meta["val"]

        args, kwargs = map_arg(node.args, value), map_arg(node.kwargs, value)
        return Call(node.target, args, kwargs, wanted)  # type: ignore[arg-type]  # of a call_function

    def _inlined(self, graph: fx.Graph, values: Sequence[fx.Node]) -> list[fx.Node]:
        """Copy a traced graph in front of the output, each value once."""
        output = output_node(self._edit.graph)
        moved = dict(zip(placeholders(graph), values, strict=True))
        sizes = self._sizes()
        made: dict[Any, fx.Node] = {}
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            if str(node.meta["val"]) in sizes:
                moved[node] = sizes[str(node.meta["val"])]
                continue
            if _is_same(node):
                moved[node] = moved[node.all_input_nodes[0]]
                continue
            key = _key(node, moved)
            if key not in made:
                with self._edit.graph.inserting_before(output):
                    made[key] = self._edit.graph.node_copy(node, moved.__getitem__)
                made[key].meta = {"val": node.meta["val"]}
                self.size += 1
            moved[node] = made[key]
        return [moved[node] for node in results_of(graph)]

    def _sizes(self) -> dict[str, fx.Node]:
        """The sizes of the inputs, by symbol, each read off the first input that has it."""
        calls: dict[str, fx.Node] = {}
        first = next(n for n in self._edit.nodes if n.op == "call_function")
        for name in INPUTS:
            node = self._edit.placeholder(name)
            for axis, size in enumerate(node.meta["val"].shape):
                if str(size) not in calls:
                    call = self._edit.call(first, aten.sym_size.int, node, axis)
                    call.meta["val"] = size
                    calls[str(size)] = call
        for node in self._edit.graph.find_nodes(op="call_function", target=aten.sym_size.int):
            same = calls.get(str(node.meta["val"]))
            if same not in (None, node):
                self._edit.replace(node, same)
        return calls


def _derivatives() -> dict[Any, Callable[..., Any]]:
    """Torch's derivatives that are ops of their own → what they are made of."""
    return {op: rule for op, rule in decomposition_table.items() if "backward" in str(op)}


def _is_same(node: fx.Node) -> bool:
    """Whether a call gives its operand back."""
    if is_call(node, aten.detach.default, aten.alias.default):
        return True
    expands = is_call(node, aten.expand.default)
    return expands and same_type(node.meta["val"], node.all_input_nodes[0].meta["val"])


def _key(node: fx.Node, moved: Mapping[fx.Node, fx.Node]) -> Any:
    """What a call computes, as text: two with the same are one."""
    args, kwargs = map_arg((node.args, node.kwargs), moved.__getitem__)
    return str(node.target), repr(args), repr(kwargs)


def _downstream(sources: Sequence[fx.Node]) -> set[fx.Node]:
    """These, and what depends on them."""
    reached, waiting = set(sources), list(sources)
    while waiting:
        for user in waiting.pop().users:
            if user not in reached and user.op != "output":
                reached.add(user)
                waiting.append(user)
    return reached


def _operands(
    values: Any, place: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], fx.Node]]:
    for number, value in enumerate(values):
        if isinstance(value, fx.Node):
            yield (*place, number), value
        elif isinstance(value, (list, tuple)):
            yield from _operands(value, (*place, number))


def _at(values: Any, place: Place) -> fx.Node:
    """The node at a place."""
    for number in place:
        values = values[number]
    node: fx.Node = values
    return node

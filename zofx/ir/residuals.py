"""Take a joint graph apart: a forward graph with residuals, a backward graph that reads them.

    joint(x, dy) = logprob, g    →    forward(x) = logprob, r        backward(x, r, dy) = g

Two graphs, so that the host can turn scores into cotangents between them, and nothing that takes
long is computed twice. Residuals are the cheapest values that the backward graph can be computed
from: a minimum cut, by bytes, between what it reads and the products with matrices and attention.
The rest (norms, activation functions, masks) is computed again, right before it is read. Inputs and
tensors are free to both graphs.
Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174; as a
minimum cut, torch's own partitioner of joint graphs (`torch._functorch.partitioners`).
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Final

import networkx  # type: ignore[import-untyped]  # of torch's requirements; it has no types
import torch
from torch import Tensor, fx

from zofx.ir.ops import zofx_ops
from zofx.ir.program import Program, placeholders, results_of
from zofx.ir.schema import COTANGENT, RESIDUAL
from zofx.ir.symbols import size_at, symbols
from zofx.ir.traits import Trait, ops_with

aten = torch.ops.aten


ONCE: Final = (
    ops_with(Trait.WEIGHT_PRODUCT)
    | ops_with(Trait.MATMUL)
    | {aten.scaled_dot_product_attention.default, zofx_ops.sparse_linear.default}
)
"""What takes too long to be computed twice."""

TYPICAL: Final = 128
"""What a size that is known only at run time counts as, when values are compared."""


def partition(joint: Program) -> tuple[Program, Program]:
    """Take a joint program apart.

    Args:
        joint: of `reverse-mode`; its results are the scores and the gradients.

    Returns:
        The forward program, with results logprob, residual 0, 1, …; and the backward program, with
        inputs `residual.0`, `residual.1`, … and the gradients as results.
    """
    scores, *gradients = results_of(joint.graph)
    late = _downstream(joint.graph)
    residuals = _least_cut(joint.graph, late, scores)
    forward = _extract(joint, [scores, *residuals], {}, set())
    names = {node: f"{RESIDUAL}.{number}" for number, node in enumerate(residuals)}
    return forward, _extract(joint, gradients, names, late)


def _downstream(graph: fx.Graph) -> set[fx.Node]:
    """What depends on the cotangent."""
    backward = {node for node in placeholders(graph) if node.target == COTANGENT}
    for node in graph.nodes:
        if node.op == "call_function" and not backward.isdisjoint(node.all_input_nodes):
            backward.add(node)
    return backward


def _least_cut(graph: fx.Graph, late: set[fx.Node], scores: fx.Node) -> list[fx.Node]:
    """The values to keep, in the order they are made."""
    network = networkx.DiGraph()
    network.add_nodes_from(("made", "read"))
    early = [n for n in graph.nodes if n.op == "call_function" and n not in late]
    for node in early:
        network.add_edge((node, 0), (node, 1), capacity=_bytes(node))
        if node.target in ONCE:
            network.add_edge("made", (node, 0))
        for user in node.users:
            if user in late:
                network.add_edge((node, 1), "read")
            elif user.op == "call_function":
                network.add_edge((node, 1), (user, 0))
    _, (above, _below) = networkx.minimum_cut(network, "made", "read")
    return [node for node in early if (node, 0) in above and (node, 1) not in above]


def _bytes(node: fx.Node) -> float:
    """Of a value, as far as it is known; what is no tensor cannot be kept."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return float("inf")
    return prod(map(_number, value.shape)) * value.dtype.itemsize


def _number(size: int | torch.SymInt) -> int:
    return size_at(size, dict.fromkeys(symbols(size), TYPICAL))


def _extract(
    joint: Program, results: Sequence[fx.Node], given: Mapping[fx.Node, str], late: set[fx.Node]
) -> Program:
    """The part of a program that computes some values, where some others are inputs."""
    graph = fx.Graph()
    moved: dict[fx.Node, fx.Node] = {}
    inputs = [n for n in placeholders(joint.graph) if n.target not in joint.tensors]
    for node in inputs:
        if node.target != COTANGENT or given:
            moved[node] = graph.node_copy(node)
    for node, name in given.items():
        moved[node] = graph.create_node("placeholder", name)
        moved[node].meta["val"] = node.meta["val"]
    needed = _needed(results, given)
    for node in placeholders(joint.graph):
        if node in needed and node not in moved:
            moved[node] = graph.node_copy(node)
    for node in _just_in_time(joint.graph, needed, late):
        if node not in moved:
            moved[node] = graph.node_copy(node, moved.__getitem__)
    graph.output(tuple(moved[node] for node in results))
    read = {str(node.target) for node in placeholders(graph)}
    tensors = {name: spec for name, spec in joint.tensors.items() if name in read}
    data = {name: joint.data[name] for name in tensors}
    return joint.with_(graph=graph, tensors=tensors, data=data, facts=frozenset())


def _needed(results: Sequence[fx.Node], given: Mapping[fx.Node, str]) -> set[fx.Node]:
    """What some values are computed from."""
    needed, waiting = set[fx.Node](), list(results)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += [] if node in given else node.all_input_nodes
    return needed


def _just_in_time(graph: fx.Graph, needed: set[fx.Node], late: set[fx.Node]) -> Iterator[fx.Node]:
    """The calls in an order in which what is computed again comes right before what reads it."""
    made: set[fx.Node] = set()

    def make(node: fx.Node) -> Iterator[fx.Node]:
        if node in made or node not in needed or node.op != "call_function":
            return
        made.add(node)
        for operand in node.all_input_nodes:
            yield from make(operand)
        yield node

    for node in graph.nodes:
        if not late or node in late:
            yield from make(node)

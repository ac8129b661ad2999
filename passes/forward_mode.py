"""Compute directional derivatives beside the program: forward-mode AD as a rewrite.

    c: f32[Q] → f32[P, Q]       logprob f32[N, C] → f32[1 + P, N, C]
    row 0       f(x, θ)
    row 1 + p   ∂f/∂θ · v_p,    v_p = Σ_q C[p, q]·z_q

Every value v that depends on a trainable gets a tangent v̇: [P, *v.shape], made by the rule of its
op (`zofx.ir.tangents`) from the tangents of its operands, right after it; a trainable θ has θ̇ =
C·z. Zeros are not computed: what no trainable reaches has no tangent. An op that has no rule is
refused, with all others like it.
Row 0 is bit-equal to the program without perturbation. The derivatives are exact up to rounding:
there is no ε, so nothing is cut off. Below the trainables a product becomes at most 1 + 2P of its
size; nothing is kept for a backward pass.
Source: Baydin et al. 2022, Gradients without Backpropagation, arXiv 2202.08587; the rules are those
of Wengert 1964, A Simple Automatic Derivative Evaluation Program, CACM 7(8).
"""

import operator
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.fx.proxy import GraphAppendingTracer

from zofx.errors import UnsupportedError
from zofx.ir.facts import FORWARD_MODE, PERTURBED
from zofx.ir.pipeline import Pass, Remarker
from zofx.ir.program import Program, is_call, output_node, shape_of
from zofx.ir.rewrite import Editor
from zofx.ir.schema import COEFFICIENTS, Stage
from zofx.ir.tangents import RULES, Tangents, Value, carry

aten = torch.ops.aten
combine = torch.ops.zofx.combine.default
perturb = torch.ops.zofx.perturb.default

# What rules write as operators, in aten's names.
SPELLINGS = {
    operator.add: aten.add.Tensor, operator.mul: aten.mul.Tensor, operator.neg: aten.neg.default,
    operator.sub: aten.sub.Tensor, operator.truediv: aten.div.Tensor,
}  # fmt: skip


@dataclass(frozen=True)
class ForwardMode(Pass):
    """See the module."""

    name: ClassVar[str] = "forward-mode"
    stage = Stage.BATCH
    requires = (PERTURBED,)
    establishes = (FORWARD_MODE,)
    destroys = (PERTURBED,)

    def run(self, program: Program, remark: Remarker) -> Program:
        """Give trainables their tangents, carry them down, and show them in the result."""
        edit = Editor(program)
        directions = edit.placeholder(COEFFICIENTS).meta["val"].shape[0]
        coefficients = edit.change_input(COEFFICIENTS, (edit.new_axis(), directions))
        walk = _Walk(edit, coefficients)
        for node in edit.nodes:
            walk.visit(node)
        output = output_node(edit.graph)
        (result,) = output.all_input_nodes
        reasons = list(walk.reasons)
        if not reasons and result not in walk.tangents:
            reasons = ["no trainable reaches the result"]
        if reasons:
            raise UnsupportedError("forward-mode cannot differentiate this program", reasons)
        value = edit.call(output, aten.unsqueeze.default, result, 0)
        both = [value, walk.tangents[result].node]
        output.args = (edit.call(output, aten.cat.default, both),)
        remark("trainables", "applied", f"{len(walk.tangents)} values have tangents")
        return edit.done()


class _Walk:
    """One walk down the graph.

    Attributes:
        tangents: by the node of their value.
        reasons: why some values have none that we know, each once.
    """

    def __init__(self, edit: Editor, coefficients: fx.Node) -> None:
        self.tangents: dict[Hashable, Value] = {}
        self.reasons: dict[str, None] = {}
        self._blocked: set[fx.Node] = set()
        self._edit = edit
        self._tracer = _Tracer(edit.graph)
        first = next(n for n in edit.nodes if n.op == "call_function")
        count = edit.call(first, aten.sym_size.int, coefficients, 0)
        self._d = Tangents(self._value(count), self.tangents)  # grows with them

    def visit(self, node: fx.Node) -> None:
        """Make the tangent of one value."""
        known = node.meta.get("val")
        with self._edit.graph.inserting_before(node.next):
            if is_call(node, perturb):
                self._begin(node)
            elif isinstance(known, torch.SymInt):
                self._tracer.sizes.setdefault(str(known), node)
            elif (
                node.op == "call_function"
                and _varies(known)
                and any(a in self.tangents or a in self._blocked for a in node.all_input_nodes)
            ):
                self._carry(node)

    def _begin(self, node: fx.Node) -> None:
        """θ̇ = C·z; the program goes on with θ itself."""
        theta, z, coefficients = node.all_input_nodes
        self.tangents[theta] = self._value(
            self._edit.call(node.next, combine, theta, z, coefficients)
        )
        self._edit.replace(node, theta)

    def _carry(self, node: fx.Node) -> None:
        """By the rule of its op; behind a gap, only look whether there is one."""
        if node.target in RULES and not self._blocked.isdisjoint(node.all_input_nodes):
            self._blocked.add(node)
            return
        args, kwargs = map_arg((node.args, node.kwargs), self._value)
        try:
            tangent = carry(node.target, self._d, self._value(node), args, kwargs)
        except NotImplementedError as why:
            self.reasons[f"{node.target}: {why}"] = None
            self._blocked.add(node)
            return
        if tangent is not None:
            self.tangents[node] = tangent

    def _value(self, node: fx.Node) -> Value:
        return fx.Proxy(node, self._tracer)


class _Tracer(GraphAppendingTracer):
    """Makes a node of each op a rule calls; a size that the graph has is not asked for again.

    Attributes:
        sizes: nodes, by the size in letters.
    """

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__(graph)
        self.sizes: dict[str, fx.Node] = {}

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, *named: Any, **typed: Any
    ) -> fx.Node:
        """A new node in aten's spelling, or the one there is."""
        target = SPELLINGS.get(target, target)
        if target is not aten.sym_size.int:
            return super().create_node(kind, target, args, kwargs, *named, **typed)
        x, axis = args
        size = str(shape_of(x)[axis])
        if size not in self.sizes:
            self.sizes[size] = super().create_node(kind, target, args, kwargs, *named, **typed)
        return self.sizes[size]


def _varies(value: Any) -> bool:
    """Whether a value is made of numbers that can have a slope."""
    if isinstance(value, (list, tuple)):
        return any(map(_varies, value))
    return isinstance(value, torch.Tensor) and value.is_floating_point()

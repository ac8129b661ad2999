"""A program on an engine: the bytes it holds, and what a forward takes and does.

    Program, Shapes, engine ─▶ bytes of weights and their copies, peak of a forward, multiply-adds

Sizes are the program's own. What is not of the program is measured once per engine (ENGINES): what
a process has before it opens an artifact, and how much more than the peak of the graph's own order
(`zofx.compiler.forecast.liveness`) the engine's order of ops keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from torch import fx

from zofx.compiler.forecast.liveness import peak
from zofx.compiler.forecast.op_costs import F32, Shapes, ort_scratch, products, torch_scratch
from zofx.ir.directions import DRAWS
from zofx.ir.formats import format_of
from zofx.ir.ops import zofx_ops
from zofx.ir.program import Program, placeholders
from zofx.ir.schema import UPDATED_ROLES, Role
from zofx.ir.traits import Trait, has

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Engine:
    """What is known of a runtime, the first three by measuring.

    Attributes:
        process: bytes of a process that has run a forward of a model without weights.
        order: how much more than the graph's order its own order of ops keeps.
        rounded: the same of programs that round activations.
        scratch: bytes taken within an op.
        views: trait of the ops whose result is in the memory of their first operand.
        integers: products it has kernels of 8-bit integers for.
        fed: whether z is drawn outside the graph and fed.
    """

    process: int
    order: float
    rounded: float
    scratch: Callable[[fx.Node, Shapes], int]
    views: Trait
    integers: frozenset[Any]
    fed: bool


ENGINES: Final = {
    "ort": Engine(
        90 * MIB, 1.7, 2.45, ort_scratch, Trait.FLAT,
        frozenset({zofx_ops.linear_rounded.default, zofx_ops.linear_rounded_transpose.default}),
        fed=True,
    ),
    "torch": Engine(330 * MIB, 1.5, 1.5, torch_scratch, Trait.VIEW, frozenset(), fed=False),
}  # fmt: skip


class Footprint:
    """A program on an engine.

    Args:
        program: compiled.
        shapes: its sizes in numbers.
        runtime: a name of ENGINES.

    Attributes:
        multiply_adds: of the products of a forward.
        integer: how many of these are of 8-bit integers.
        order: what the engine's order of ops keeps, of the peak of the graph's own.
    """

    def __init__(self, program: Program, shapes: Shapes, runtime: str) -> None:
        self.program, self.shapes = program, shapes
        self.engine, self._name = ENGINES[runtime], runtime
        self.calls = [node for node in program.graph.nodes if node.op == "call_function"]
        self.multiply_adds = sum(products(node, shapes) for node in self.calls)
        integers = (node for node in self.calls if node.target in self.engine.integers)
        self.integer = sum(products(node, shapes) for node in integers)
        self.order = self.engine.rounded if self.integer else self.engine.order

    def still(self, *roles: Role) -> int:
        """Bytes of frozen tensors that a forward reads."""
        return sum(
            self.shapes.bytes(node)
            for node in placeholders(self.program.graph)
            if (spec := self.program.tensors.get(str(node.target))) and spec.role in roles
        )

    def copies(self) -> int:
        """Bytes kept beside the file's own: codes that no kernel reads become f32.

        Of a matrix that is packed for its products the original is dropped: that is no copy.
        """
        total = 0
        for node in placeholders(self.program.graph):
            spec = self.program.tensors.get(str(node.target))
            if spec is None or spec.role in UPDATED_ROLES:
                continue
            if any(self._expands(user) and user.args[1] is node for user in node.users):
                total += F32 * prod(spec.origin_shape or ()) - spec.nbytes
        return total

    def _expands(self, product: fx.Node) -> bool:
        """Whether the engine has no kernel for a product with codes."""
        stored = format_of(product)
        return stored is not None and not stored.notes(self._name).kernel

    @property
    def queries(self) -> int:
        """Q; 0 of a program without probes."""
        keys = next((n for n in placeholders(self.program.graph) if n.target == "keys"), None)
        return 0 if keys is None else self.shapes.of(keys)[0]

    def size(self, node: fx.Node) -> int:
        """Bytes of a result; what is fed is none."""
        return 0 if self.engine.fed and node.target in DRAWS else self.shapes.bytes(node)

    def scratch(self, node: fx.Node) -> int:
        """Bytes taken within an op."""
        return self.engine.scratch(node, self.shapes)

    def peak(self) -> int:
        """The most that is alive at once, in the graph's own order."""
        return peak(self.program, self.size, self.scratch, self.engine.views)

    def forward(self) -> int:
        """The most that a forward takes."""
        return round(self.order * self.peak())

    def moved(self) -> int:
        """Bytes that ops other than products read and write, beside tensors of the table."""
        made = set(self.calls)
        return sum(
            self.size(node) + sum(self.size(a) for a in node.all_input_nodes if a in made)
            for node in self.calls
            if not products(node, self.shapes) and not has(node, Trait.FLAT)
        )

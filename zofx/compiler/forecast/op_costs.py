"""What the ops of a program cost: multiply-adds, and memory beside operands and result.

    Axes (N, T, S, C, P, Q, V)  ─bind─▶  every annotated shape as numbers
    products   multiply-adds of an op
    scratch    bytes an engine takes within an op, and gives back

Nothing is computed: shapes are those the capture and the passes annotated. What an engine takes
within an op follows from its kernels (ONNX Runtime) or from the meaning in `zofx.ir.ops` (torch).
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from zofx.ir.formats import format_of
from zofx.ir.ops import zofx_ops
from zofx.ir.program import Program, placeholders
from zofx.ir.schema import COEFFICIENTS, INPUTS, KEYS, VOCABULARY
from zofx.ir.sparse_cost import as_block, rows_at_once
from zofx.ir.symbols import expression, size_at
from zofx.ir.traits import Trait, has

aten = torch.ops.aten

F32 = 4
ATTENTION = aten.scaled_dot_product_attention.default
SPARSE = zofx_ops.sparse_linear.default
TRANSPOSES = frozenset(
    getattr(zofx_ops, f"linear_{form}_transpose").default
    for form in ("nf4", "int", "int8", "codebook", "rounded")
)
"""Products of cotangents with stored matrices: [..., out] → [..., in]."""


@dataclass(frozen=True)
class Axes:
    """The sizes of one forward.

    Attributes:
        rows: N.
        tokens: T, padding included.
        scored: S, positions of a row that are scored.
        alternatives: C.
        probes: P.
        directions: Q.
        vocabulary: V, rows of tables that may bring fewer than they have.
    """

    rows: int
    tokens: int
    scored: int
    alternatives: int
    probes: int
    directions: int
    vocabulary: int


class Shapes:
    """The annotated shapes of a program as numbers.

    Args:
        program: captured; may have probes.
        axes: what its free axes are.
    """

    def __init__(self, program: Program, axes: Axes) -> None:
        self.axes = axes
        self._symbols = _symbols(program, axes)
        self._known: dict[Any, int] = {}

    def of(self, node: Any) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(map(self._number, node.meta["val"].shape))

    def bytes(self, node: fx.Node) -> int:
        """Of a value: a tensor, several, or a size, which takes none."""
        value = node.meta.get("val")
        parts = value if isinstance(value, (tuple, list)) else (value,)
        return sum(
            prod(map(self._number, part.shape)) * part.dtype.itemsize
            for part in parts
            if isinstance(part, Tensor)
        )

    def _number(self, size: int | torch.SymInt) -> int:
        if isinstance(size, int):
            return size
        expr = expression(size)
        if expr not in self._known:
            self._known[expr] = size_at(size, self._symbols)
        return self._known[expr]


def _symbols(program: Program, axes: Axes) -> dict[Any, int]:
    """The symbol of every free axis → its size."""
    shapes = dict(
        zip(
            INPUTS,
            (
                (axes.rows, axes.tokens), (axes.rows, axes.tokens), (axes.rows, axes.scored),
                (axes.rows, axes.scored, axes.alternatives),
            ),
            strict=True,
        )
    )  # fmt: skip
    shapes |= {KEYS: (axes.directions, 2), COEFFICIENTS: (axes.probes, axes.directions)}
    tables = {s.name: s.shape[1:] for s in program.tensors.values() if s.role in VOCABULARY}
    shapes |= {name: (axes.vocabulary, *width) for name, width in tables.items()}
    sizes = {}
    for node in placeholders(program.graph):
        if node.target not in shapes:
            continue
        annotated = node.meta["val"].shape
        wanted = shapes[str(node.target)][-len(annotated) :]  # C may have no axis of probes
        for size, number in zip(annotated, wanted, strict=True):
            if isinstance(size, torch.SymInt):
                sizes[expression(size)] = number
    return sizes


def products(node: fx.Node, shapes: Shapes) -> int:
    """Multiply-adds of an op; 0 for one that multiplies no matrices."""
    if node.target is zofx_ops.product.default:
        turned: Any = node.args[2]
        return prod(shapes.of(node)) * shapes.of(node.args[0])[-2 if turned else -1]
    if node.target in TRANSPOSES or has(node, Trait.WEIGHT_PRODUCT) or has(node, Trait.MATMUL):
        return prod(shapes.of(node)) * shapes.of(node.args[0])[-1]
    if node.target is ATTENTION:
        return 2 * prod(shapes.of(node.args[0])) * shapes.of(node.args[1])[-2]
    if node.target is SPARSE:
        sparse = _Sparse(node, shapes)
        return sparse.rows * (sparse.columns * sparse.out if sparse.block else sparse.entries)
    return 0


@dataclass(frozen=True)
class _Sparse:
    """The sizes of a sparse product."""

    node: fx.Node
    shapes: Shapes

    @cached_property
    def entries(self) -> int:
        """Of S."""
        return self.shapes.of(self.node.args[2])[0]

    @cached_property
    def width(self) -> int:
        """Of x."""
        return self.shapes.of(self.node.args[0])[-1]

    @cached_property
    def rows(self) -> int:
        """Of x, those of all probes."""
        return prod(self.shapes.of(self.node.args[0])[:-1])

    @cached_property
    def probes(self) -> int:
        """How many S there are."""
        return prod(self.shapes.of(self.node.args[1])) // self.entries

    @property
    def out(self) -> int:
        """Rows of S."""
        out: Any = self.node.args[3]
        return int(out)

    @property
    def columns(self) -> int:
        """Of S, those with entries."""
        columns: Any = self.node.args[4]
        return int(columns)

    @property
    def deepest(self) -> int:
        """Of S, the most entries in a row."""
        deepest: Any = self.node.args[5]
        return int(deepest)

    @property
    def block(self) -> bool:
        """Which way it is multiplied."""
        return as_block(self.entries, self.columns, self.deepest, self.out, self.width)


def ort_scratch(node: fx.Node, shapes: Shapes) -> int:
    """Bytes that ONNX Runtime takes within an op."""
    if node.target is SPARSE:
        s = _Sparse(node, shapes)
        if s.block:  # x at the columns, and the block before and after its entries are in
            step = rows_at_once(s.columns, s.out)
            parts = s.rows * s.out if step < s.out else 0
            return F32 * (s.rows * s.columns + 2 * s.probes * s.columns * step + parts)
        # one entry of every row at a time
        x, gathered, y = s.rows * s.width, s.rows * s.entries // s.deepest, s.rows * s.out
        return F32 * (x + gathered + y)
    if node.target is ATTENTION:  # the scores, their softmax and its NaNs; keys turned
        q, k = shapes.of(node.args[0]), shapes.of(node.args[1])
        return F32 * (2 * prod(q[:-1]) * k[-2] + prod(k)) + prod(q[:-1]) * k[-2]
    if node.target is aten.silu.default:  # x · sigmoid(x)
        return shapes.bytes(node)
    return _format_scratch(node, shapes, "ort")


def torch_scratch(node: fx.Node, shapes: Shapes) -> int:
    """Bytes that PyTorch takes within an op: its meaning, value by value."""
    if node.target is SPARSE:
        s = _Sparse(node, shapes)
        if s.block:
            return F32 * (s.rows * s.columns + s.probes * s.columns * s.out)
        return F32 * s.rows * s.out
    if node.target is zofx_ops.linear_rounded.default:  # codes of x and of the matrix as numbers
        return 2 * F32 * _elements(node, shapes)
    return _format_scratch(node, shapes, "torch")


def _format_scratch(node: fx.Node, shapes: Shapes, engine: str) -> int:
    """Of a product with codes, what their format notes; 0 of another op."""
    stored = format_of(node)
    return stored.notes(engine).scratch * _elements(node, shapes) if stored else 0


def _elements(node: fx.Node, shapes: Shapes) -> int:
    """Of the weight that a linear multiplies by."""
    return shapes.of(node)[-1] * shapes.of(node.args[0])[-1]

"""The program: a pure function in data form, an fx graph and a table of its tensors.

    graph     functional aten and zofx:: ops; weights are inputs; meta["val"] has shape and dtype
    tensors   name → what it is (role, shape, dtype, what it was derived from)
    data      name → a recipe that makes the bytes when asked; shared, never written in place

Invariants (checked by `verify`): a placeholder's target is an input name or a tensor name; every
tensor of the table is read and has data; every call carries its shape; the graph is functional and
forward-only. Passes build new programs, without dead code (`rewrite`); nothing here mutates.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from zofx.ir.schema import Form, Role
from zofx.zo.random.direction_spec import Basis

Loader: TypeAlias = Callable[[], Tensor]


@dataclass(frozen=True)
class TensorSpec:
    """A row of the tensor table.

    Attributes:
        name: stable, from the module path: "model.layers.0.self_attn.q_proj.weight".
        role: what it is for.
        shape: its shape.
        dtype: its element type.
        origin: the checkpoint tensor it was derived from, if it is not one itself.
        form: a `Form`, or the frozen format whose codes it stores; `merge` undoes it.
        origin_shape: the shape of the origin, where it does not follow from the tensor.
        stored: its element type in the checkpoint, if it is there as it is.
        basis: what it stands for, if it is a low-rank trainable.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    dtype: torch.dtype
    origin: str | None = None
    form: str = Form.STORED
    origin_shape: tuple[int, ...] | None = None
    stored: torch.dtype | None = None
    basis: Basis | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Bytes in the artifact."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class Choice:
    """What is decided about a tensor before the graph shows it; made by some passes for others.

    Attributes:
        scores: makes its sensitivities, f32 of its shape.
        fixed: whether it may not train.
        whole: whether it trains whole.
        entries: its coordinates that train, i32[k] ascending flat positions.
    """

    scores: Loader | None = None
    fixed: bool = False
    whole: bool = False
    entries: Tensor | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing is decided."""
        return not (self.scores or self.fixed or self.whole or self.entries is not None)


UNDECIDED = Choice()


@dataclass(frozen=True)
class Program:
    """See the module's docstring.

    Attributes:
        graph: the computation; treated as immutable (`rewrite.Editor` copies it).
        tensors: the table.
        data: recipes for the table's tensors.
        choices: tensor → what is decided about it; inputs of passes, never of the graph.
        facts: names of the facts that hold (see `facts`).
        history: the text of every pass run so far.
    """

    graph: fx.Graph
    tensors: Mapping[str, TensorSpec]
    data: Mapping[str, Loader]
    choices: Mapping[str, Choice] = field(default_factory=dict)
    facts: frozenset[str] = frozenset()
    history: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the run-time inputs, in order."""
        names = (str(node.target) for node in placeholders(self.graph))
        return tuple(name for name in names if name not in self.tensors)

    @property
    def trainables(self) -> tuple[TensorSpec, ...]:
        """The trainable tensors, in table order."""
        return tuple(spec for spec in self.tensors.values() if spec.role is Role.TRAINABLE)

    @property
    def bases(self) -> dict[str, Basis]:
        """Low-rank trainable → what it stands for, in table order."""
        return {s.name: s.basis for s in self.tensors.values() if s.basis is not None}

    def derived(self, origin: str, form: str) -> TensorSpec | None:
        """The tensor of this form that was derived from another; None if there is none."""
        rows = (s for s in self.tensors.values() if (s.origin, s.form) == (origin, form))
        return next(rows, None)

    def choice(self, name: str) -> Choice:
        """What is decided about a tensor."""
        return self.choices.get(name, UNDECIDED)

    def choosing(self, aspect: str, values: Mapping[str, Any]) -> "Program":
        """A copy where one aspect is decided for these tensors, and open for all others.

        Args:
            aspect: a field of `Choice`.
            values: tensor → its value.
        """
        clear = getattr(UNDECIDED, aspect)
        choices = {
            name: replace(self.choice(name), **{aspect: values.get(name, clear)})
            for name in {**values, **self.choices}  # in the order of the values
        }
        return replace(self, choices={n: c for n, c in choices.items() if not c.is_open})

    def load(self, name: str) -> Tensor:
        """Make one tensor's data now."""
        value = self.data[name]()
        spec = self.tensors[name]
        if tuple(value.shape) != spec.shape or value.dtype != spec.dtype:
            raise AssertionError(
                f"{name} is declared {spec.dtype}{list(spec.shape)} "
                f"and its recipe made {value.dtype}{list(value.shape)}"
            )
        return value

    def with_(self, **changes: Any) -> "Program":
        """A copy with some fields replaced."""
        return replace(self, **changes)


def placeholders(graph: fx.Graph) -> Iterator[fx.Node]:
    """The placeholders of a graph, in order."""
    return (node for node in graph.nodes if node.op == "placeholder")


def output_node(graph: fx.Graph) -> fx.Node:
    """The graph's one output node."""
    output: fx.Node = next(iter(graph.find_nodes(op="output")))
    return output


def results_of(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """What a graph returns: one value, or several in a tuple."""
    returned: Any = output_node(graph).args[0]
    return tuple(returned) if isinstance(returned, (list, tuple)) else (returned,)


def is_call(node: Any, *targets: Any) -> bool:
    """Whether a node calls one of these ops."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def last_uses(
    graph: fx.Graph, owner: Callable[[fx.Node], fx.Node] = lambda node: node
) -> dict[fx.Node, list[fx.Node]]:
    """Which values nobody reads after a node; what the output reads stays.

    Args:
        graph: in the order it runs in.
        owner: the value whose memory another one is in.
    """
    last: dict[fx.Node, list[fx.Node]] = {}
    seen = {owner(node) for node in output_node(graph).all_input_nodes}
    for node in reversed(graph.nodes):
        for operand in map(owner, node.all_input_nodes):
            if operand not in seen:
                seen.add(operand)
                last.setdefault(node, []).append(operand)
    return last


def shape_of(node: fx.Node) -> tuple[Any, ...]:
    """The annotated shape of a node; entries are ints or SymInts."""
    return tuple(node.meta["val"].shape)


class SharedLoader:
    """Several tensors made by one computation, at the first request; dropped as each is taken.

    Quantizing a weight gives codes and scales together; a writer that asks for one after the other
    pays once and holds one layer at a time.
    """

    def __init__(self, compute: Callable[[], tuple[Tensor, ...]]) -> None:
        self._compute = compute
        self._parts: dict[int, Tensor] = {}

    def part(self, index: int) -> Loader:
        """The recipe for one of them."""

        def take() -> Tensor:
            if index not in self._parts:
                self._parts = dict(enumerate(self._compute()))
            return self._parts.pop(index)

        return take

"""The only place that edits programs: an Editor works on a copy and gives back a new Program.

Edits never touch the program they start from. Nodes made here need carry no shape; `done` drops
dead code, infers the shapes of new nodes and of everything downstream of a change, once per pass,
and drops tensors nobody reads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from zofx.ir.program import Loader, Program, TensorSpec, output_node, placeholders
from zofx.ir.schema import Role
from zofx.ir.symbols import enable_python_dispatcher, expression, new_size

aten = torch.ops.aten


class Editor:
    """A program being rewritten.

    Attributes:
        graph: the copy under edit.
        moved: nodes of the original graph → nodes of the copy.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._tensors = dict(program.tensors)
        self._data = dict(program.data)
        self.graph = fx.Graph()
        self.moved: dict[fx.Node, fx.Node] = {}
        result = self.graph.graph_copy(program.graph, self.moved)
        copied = self.graph.output(result)
        copied.meta = dict(output_node(program.graph).meta)

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The nodes now, safe to edit while iterating."""
        return list(self.graph.nodes)

    @property
    def mode(self) -> Any:
        """The world of fake tensors that the annotations belong to."""
        return _mode(self.graph)

    def placeholder(self, name: str) -> fx.Node:
        """The node of a tensor or input that the graph already has."""
        return next(n for n in placeholders(self.graph) if n.target == name)

    def has_tensor(self, name: str) -> bool:
        """Whether the table has this name."""
        return name in self._tensors

    def add_tensor(self, spec: TensorSpec, recipe: Loader) -> fx.Node:
        """A new row of the table and its placeholder."""
        if spec.name in self._tensors:
            raise AssertionError(f"the table already has a tensor '{spec.name}'")
        self._tensors[spec.name] = spec
        self._data[spec.name] = recipe
        return self._placeholder(spec.name, _fake(self.graph, spec.shape, spec.dtype))

    def replace_data(self, spec: TensorSpec, recipe: Loader) -> None:
        """Give a tensor another recipe (and row), leaving the graph alone; the shape must stay."""
        self._tensors[spec.name] = spec
        self._data[spec.name] = recipe

    def change_type(self, name: str, dtype: torch.dtype) -> fx.Node:
        """Store a tensor in another element type; what reads it is inferred again."""
        recipe = self._data[name]
        self._tensors[name] = replace(self._tensors[name], dtype=dtype)
        self._data[name] = lambda: recipe().to(dtype)
        return self._change(self.placeholder(name), self._tensors[name].shape, dtype)

    def free_rows(self, name: str, role: Role, axis: torch.SymInt) -> fx.Node:
        """Leave open how many rows of a tensor a run is given; what reads it is inferred again."""
        spec = self._tensors[name] = replace(self._tensors[name], role=role)
        return self._change(self.placeholder(name), (axis, *spec.shape[1:]), spec.dtype)

    def add_input(self, name: str, shape: Sequence[Any], dtype: torch.dtype) -> fx.Node:
        """A new run-time input, after all other placeholders."""
        return self._placeholder(name, _fake(self.graph, shape, dtype))

    def new_axis(self) -> torch.SymInt:
        """A size that is known only at run time and equals no other axis."""
        return new_size(_mode(self.graph), f"axis{len(self.graph.nodes)}")

    def change_input(self, name: str, shape: Sequence[Any]) -> fx.Node:
        """Give an input another shape; what reads it is inferred again."""
        node = self.placeholder(name)
        return self._change(node, shape, node.meta["val"].dtype)

    def _change(self, node: fx.Node, shape: Sequence[Any], dtype: torch.dtype) -> fx.Node:
        node.meta["val"] = _fake(self.graph, shape, dtype)
        for user in node.users:
            user.meta.pop("val", None)
        return node

    def _placeholder(self, name: str, value: torch.Tensor) -> fx.Node:
        last = list(placeholders(self.graph))[-1]
        with self.graph.inserting_after(last):
            node = self.graph.create_node("placeholder", name)
        node.meta["val"] = value
        return node

    def call(
        self, before: fx.Node, target: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> fx.Node:
        """A new op, placed before a node."""
        with self.graph.inserting_before(before):
            return self.graph.call_function(target, args, kwargs)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let every user of `old`, except `new` itself, read `new`."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    def set_args(self, node: fx.Node, *args: Any, **kwargs: Any) -> None:
        """Change what a node reads; its shape will be inferred again."""
        node.args, node.kwargs = args, kwargs
        node.meta.pop("val", None)

    def done(self, **changes: Any) -> Program:
        """The new program; `changes` replace further fields."""
        self._drop_dead()
        infer_shapes(self.graph)
        read = {node.target for node in placeholders(self.graph)}
        tensors = {name: spec for name, spec in self._tensors.items() if name in read}
        data = {name: self._data[name] for name in tensors}
        self.graph.lint()
        return self._program.with_(graph=self.graph, tensors=tensors, data=data, **changes)

    def _drop_dead(self) -> None:
        """Erase calls and tensors without users; inputs stay, they are the signature."""
        for node in reversed(self.nodes):
            is_input = node.op == "placeholder" and node.target not in self._tensors
            if node.op != "output" and not node.users and not is_input:
                self.graph.erase_node(node)


def _mode(graph: fx.Graph) -> Any:
    return next(n for n in placeholders(graph) if "val" in n.meta).meta["val"].fake_mode


def _fake(graph: fx.Graph, shape: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    with _mode(graph):
        return torch.empty(tuple(shape), dtype=dtype)


@contextmanager
def _on_shapes(graph: fx.Graph) -> Iterator[None]:
    """Calls compute shapes alone, by torch's rules in Python where there are some.

    A kernel in C++ may read a size as the number that it was while tracing (`constant_pad_nd`
    does), and the size is that number from then on, in the whole program.
    """
    with enable_python_dispatcher(), _mode(graph):
        yield


def infer_shapes(graph: fx.Graph, everything: bool = False) -> None:
    """Annotate nodes without a shape and those downstream of a change; all if `everything`."""
    changed: set[fx.Node] = set()
    with _on_shapes(graph):
        for node in graph.nodes:
            stale = (
                everything
                or "val" not in node.meta
                or any(a in changed for a in node.all_input_nodes)
            )
            if node.op != "call_function" or not stale:
                continue
            value = _inferred(node)
            if not same_type(value, node.meta.get("val")):
                changed.add(node)
            node.meta["val"] = value


def _inferred(node: fx.Node) -> Any:
    """The result of a call; what lies in memory as no view of it can is copied."""
    try:
        return run_node(node, lambda n: n.meta["val"])
    except ValueError:
        if node.target is not aten.view.default:
            raise
        node.target = aten.reshape.default
        return run_node(node, lambda n: n.meta["val"])


def run_node(node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
    """Evaluate one call on the values of its arguments."""
    args = map_arg(node.args, value_of)
    kwargs = map_arg(node.kwargs, value_of)
    return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function's target is callable


def value_of(node: fx.Node) -> Any:
    """A node's annotation, inferred now (and kept) where it or one before it has none."""
    if "val" not in node.meta:
        with _on_shapes(node.graph):
            for each in node.graph.nodes:
                if each.op == "call_function" and "val" not in each.meta:
                    each.meta["val"] = _inferred(each)
                if each is node:
                    break
    return node.meta["val"]


def same_type(a: Any, b: Any) -> bool:
    """Whether two annotations have the same shape and dtype."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and _sizes(a) == _sizes(b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_type, a, b))
    return str(a) == str(b)


def _sizes(value: torch.Tensor) -> list[Any]:
    """A shape, sums multiplied out: N·(m + T) and N·m + N·T are one size."""
    return [expression(s).expand() if isinstance(s, torch.SymInt) else s for s in value.shape]

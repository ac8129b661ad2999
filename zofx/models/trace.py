"""Module → graph, by torch.export on fake tensors: no weight is read, or even allocated, to trace.

    wrapper(inputs) → results          ⟶    graph(inputs, weights, buffers, constants) → results
    submodules .model, .adapter              placeholder "lm_head.weight" is .model.lm_head.weight

A wrapper is what is computed with a model. A tensor goes by its name in the submodule that owns
it, a tied one by the first of its names. Graphs are functional and hold shapes, no data: `recipes`
says how each tensor is made, and `run_lazily` holds each only while it is used.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec

from zofx.errors import CaptureError
from zofx.ir.program import Loader, output_node, placeholders
from zofx.ir.rewrite import run_node
from zofx.ir.symbols import FakeTensorMode

Axes: TypeAlias = Mapping[int, Any]  # axis → torch.export.Dim

TRACEABLE = (
    "zofx compiles what torch.export takes with dynamic batch and sequence; "
    "check `torch.export.export(model, …, strict=False)` on its own, or take another model"
)
SUGGESTED = re.compile(r"^  (\w+) = (?:Dim\('\w+', (.*)\)|(.+))$", re.MULTILINE)


class SizeError(CaptureError):
    """The model asks for other sizes than the axes allow."""


@dataclass(frozen=True)
class Traced:
    """A traced wrapper.

    Attributes:
        graph: placeholders go by the names of the inputs and tensors.
        inputs: names of the run-time inputs.
        constants: tensors that the wrapper's code made while it was traced.
    """

    graph: fx.Graph
    inputs: tuple[str, ...]
    constants: Mapping[str, Tensor]

    @property
    def tensors(self) -> tuple[fx.Node, ...]:
        """The placeholders that are no inputs."""
        return tuple(n for n in placeholders(self.graph) if n.target not in self.inputs)

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """What the wrapper returns, one value or several."""
        returned: Any = output_node(self.graph).args[0]
        return returned if isinstance(returned, tuple) else (returned,)

    def recipes(self, loaders: Mapping[str, Loader]) -> dict[str, Loader]:
        """How to make each tensor, in the dtype it has in the graph.

        Args:
            loaders: recipes, of any dtype, for what is no constant.

        Raises:
            CaptureError: a tensor that nothing makes.
        """
        known = {name: constant(value) for name, value in self.constants.items()} | dict(loaders)
        chosen: dict[str, Loader] = {}
        for node in self.tensors:
            name = str(node.target)
            if name not in known:
                raise CaptureError(
                    f"no data for '{name}': the checkpoint has no such tensor and the model "
                    "computes none"
                )
            chosen[name] = _typed(known[name], node.meta["val"].dtype)
        return chosen


def constant(value: Tensor) -> Loader:
    """The recipe of a tensor that is there."""
    return lambda: value


def _typed(recipe: Loader, dtype: torch.dtype) -> Loader:
    return lambda: recipe().to(dtype)


def make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Give every parameter and buffer a shape on the CPU and no memory; tied weights stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = _fake_like(tensor, mode)
                    table[name] = made[id(tensor)]  # type: ignore[assignment]


def _fake_like(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def trace(wrapper: nn.Module, inputs: Mapping[str, Tensor], axes: Iterable[Axes] = ()) -> Traced:
    """Trace what a wrapper computes with its `model`.

    Args:
        wrapper: its weights are fake; returns a tensor or a tuple of tensors.
        inputs: example of each argument, in order, in the weights' world.
        axes: the dynamic axes of each; none if all sizes are fixed.

    Raises:
        CaptureError: torch.export cannot trace the model.
    """
    kind = type(wrapper.model).__name__
    examples, dynamic = tuple(inputs.values()), tuple(axes) or None
    try:
        with torch.no_grad():
            exported = torch.export.export(wrapper, examples, dynamic_shapes=dynamic, strict=False)
            if _needs_functionalization(exported):
                exported = _functionalized(exported)
    except (
        Exception
    ) as error:  # torch.export raises many kinds; all of them mean the same to the user
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if needs := _asked_sizes(str(error)):
            raise SizeError(
                f"torch.export cannot trace {kind}: not any number of rows N and tokens T will "
                f"do, its code asks for {needs}\n{TRACEABLE}"
            ) from error
        raise CaptureError(f"torch.export cannot trace {kind}: {first}\n{TRACEABLE}") from error
    graph = _lift(exported, _input_names(exported, wrapper), tuple(inputs))
    constants = {f"constant.{name}": value for name, value in exported.constants.items()}
    return Traced(graph, tuple(inputs), constants)


def _asked_sizes(message: str) -> str:
    """What torch suggests for the axes, in words: "T of at most 48"; "" if it suggests nothing."""
    if "Constraints violated" not in message:
        return ""
    _, _, fixes = message.partition("Suggested fixes:")
    asked = [
        f"{axis} = {value}" if value else f"{axis} of {_bounds(bounds)}"
        for axis, bounds, value in SUGGESTED.findall(fixes)
    ]
    return ", ".join(asked) or "sizes that are no range"


def _bounds(bounds: str) -> str:
    """Of "min=9, max=47": "at least 9 and at most 47"."""
    return bounds.replace("min=", "at least ").replace("max=", "at most ").replace(", ", " and ")


def _needs_functionalization(exported: ExportedProgram) -> bool:
    return any(
        getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        for node in exported.graph.nodes
    )


def _functionalized(exported: ExportedProgram) -> ExportedProgram:
    with warnings.catch_warnings():  # torch warns of its own use of its own pytrees
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)
        functional: ExportedProgram = exported.run_decompositions({})
        return functional


def _input_names(exported: ExportedProgram, wrapper: nn.Module) -> dict[str, str]:
    """Placeholder → name."""
    every = dict(wrapper.named_parameters(remove_duplicate=False))
    first = {id(every[name]): name for name in reversed(every)}

    def name_of(spec: InputSpec) -> str:
        if spec.kind is InputKind.CONSTANT_TENSOR:
            return f"constant.{spec.target}"
        if spec.kind is InputKind.PARAMETER:
            return _own_name(first[id(every[str(spec.target)])])
        return _own_name(spec.target) if spec.target else str(spec.arg.name)

    return {str(spec.arg.name): name_of(spec) for spec in exported.graph_signature.input_specs}


def _own_name(name: str) -> str:
    """Without the submodule of the wrapper: "model.lm_head.weight" → "lm_head.weight"."""
    return name.partition(".")[2]


def _lift(exported: ExportedProgram, names: Mapping[str, str], inputs: tuple[str, ...]) -> fx.Graph:
    """The exported graph: placeholders renamed, unread weights dropped, only shapes kept."""
    graph = fx.Graph()
    moved: dict[fx.Node, fx.Node] = {}
    made: dict[str, fx.Node] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            name = names[node.name]
            if name not in made and (node.users or name in inputs):
                made[name] = graph.placeholder(name)
                made[name].meta["val"] = node.meta["val"]
            if name in made:
                moved[node] = made[name]
        elif node.op == "output":
            results = tuple(moved[result] for result in node.args[0])
            output = graph.output(results if len(results) > 1 else results[0])
            output.meta["val"] = results[0].meta["val"]
        elif node.op == "call_function":
            moved[node] = graph.node_copy(node, moved.__getitem__)
            moved[node].meta = {"val": node.meta.get("val")}
        else:
            raise CaptureError(
                f"the traced model holds a {node.op} node ({node.target}), which cannot be "
                "rewritten; "
                "control flow and nested modules inside forward are not supported"
            )
    return graph


def run_lazily(traced: Traced, values: Mapping[str, Loader]) -> tuple[Tensor, ...]:
    """Compute the results op by op; a tensor is made at its first use and dropped after its last.

    Args:
        traced: without free sizes.
        values: recipes for tensors and inputs; what no result depends on is not made.
    """
    readers: dict[fx.Node, int] = dict.fromkeys(traced.results, 1)
    for node in reversed(traced.graph.nodes):
        if node in readers:
            for operand in node.all_input_nodes:
                readers[operand] = readers.get(operand, 0) + 1
    made: dict[fx.Node, Any] = {}

    def value_of(node: fx.Node) -> Any:
        if node not in made:
            made[node] = values[str(node.target)]()
        return made[node]

    for node in traced.graph.nodes:
        if node.op == "call_function" and node in readers:
            made[node] = run_node(node, value_of)
            for operand in node.all_input_nodes:
                readers[operand] -= 1
                if not readers[operand]:
                    del made[operand]
    return tuple(made[node] for node in traced.results)

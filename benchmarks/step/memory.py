"""How much memory a step has to have: what the bound on the resident set is made of.

    weights       bytes of weights.safetensors and trainables.safetensors
    activations   the largest sum of values alive at once, op by op, of one batch under both probes

Both are read off the artifact, and nothing is computed; a contestant's own figure is measured.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofx.artifact import layout
from zofx.artifact.manifest import read_manifest
from zofx.runtimes.host.vocabulary import ROLES

if TYPE_CHECKING:
    from torch import Tensor, fx


def weight_bytes(folder: Path) -> int:
    """Bytes of an artifact's tensors."""
    return sum((folder / name).stat().st_size for name in (layout.WEIGHTS, layout.TRAINABLES))


def activation_bytes(folder: Path, shapes: Mapping[str, tuple[int, ...]], probes: int) -> int:
    """The most that all between weights and result takes at once.

    Args:
        folder: an artifact.
        shapes: of the batch, and of the tables it brings, by name.
        probes: P, all in one forward.

    Returns:
        Bytes. A value counts from the op that makes it to its last use, memory that several values
        share counts once, and what the program is given does not count.
    """
    from zofx.ir.graph_json import load_graph
    from zofx.ir.symbols import FakeTensorMode

    graph = load_graph(folder / layout.GRAPH)
    with FakeTensorMode():
        return peak_of(graph, _given(folder, shapes, probes))


def _given(folder: Path, shapes: Mapping[str, tuple[int, ...]], probes: int) -> dict[str, "Tensor"]:
    """Everything that the graph reads, without its values."""
    import torch

    from zofx.ir.schema import COEFFICIENTS, KEYS
    from zofx.models.safetensors_folder import DTYPES

    rows = read_manifest(folder, check=False).tensors
    return {
        **{name: torch.empty(shape, dtype=torch.int64) for name, shape in shapes.items()},
        **{
            row.name: torch.empty(
                shapes.get(row.name, row.shape) if row.role in ROLES else row.shape,
                dtype=DTYPES[row.dtype],
            )
            for row in rows
        },
        KEYS: torch.empty((1, 2), dtype=torch.int64),
        COEFFICIENTS: torch.empty((probes, 1)),
    }


def peak_of(graph: "fx.Graph", given: Mapping[str, "Tensor"]) -> int:
    """Run a graph on inputs by name; returns the most bytes alive at once beside them."""
    from torch.fx.node import map_arg

    values: dict[fx.Node, Any] = {}
    uses = Counter(operand for node in graph.nodes for operand in node.all_input_nodes)
    own = {_memory(value) for value in given.values()}
    most = 0
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = given[str(node.target)]
        elif node.op == "call_function":
            args = map_arg(node.args, values.__getitem__)
            kwargs = map_arg(node.kwargs, values.__getitem__)
            values[node] = node.target(*args, **kwargs)
            alive = {_memory(value) for value in values.values()} - own - {None}
            most = max(most, sum(size for _, size in alive))
        for operand in node.all_input_nodes:
            uses[operand] -= 1
            if not uses[operand]:
                del values[operand]
    return most


def _memory(value: Any) -> Any:
    """Which memory a tensor is in, and how much; None for what is none."""
    if not hasattr(value, "untyped_storage"):
        return None
    storage = value.untyped_storage()
    return storage._cdata, storage.nbytes()

"""Writing an ONNX graph node by node, where there is no graph of torch's to export.

    emit("Add", x, np.float32(1)) ──▶ "v7"      node Add(x, c3) → v7, constant c3

A value is its name; a constant is stored once, however often it is used.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Constant: TypeAlias = NDArray[Any] | np.generic | list[int]


@dataclass(frozen=True)
class Emitter:
    """Writes the nodes of one graph; values are names, unique across a model and its subgraphs.

    Attributes:
        nodes: in order.
        constants: of the whole model, each stored once; a list is int64.
        numbers: of values yet to be named.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    def inner(self) -> "Emitter":
        """For a subgraph, which sees the constants and values of this graph."""
        return replace(self, nodes=[])

    def __call__(self, op_type: str, *inputs: str | Constant, **attributes: Any) -> str:
        """Append a node with one output."""
        output = f"v{next(self.numbers)}"
        self.into([output], op_type, *inputs, **attributes)
        return output

    def into(
        self, outputs: Sequence[str], op_type: str, *inputs: str | Constant, **attributes: Any
    ) -> None:
        """Append a node whose outputs have names already."""
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(op_type, names, outputs, **attributes))

    def _constant(self, value: Constant) -> str:
        array = np.asarray(value, dtype=np.int64 if isinstance(value, list) else None)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"c{len(self.constants)}")
        name: str = self.constants[key].name
        return name

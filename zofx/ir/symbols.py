"""Sizes that are known at run time, and what else torch has under no public name.

    mode   a world of fake tensors: annotations of a graph with shapes and no memory
    size   an int, or a torch.SymInt: an expression of symbols, such as N·T + 1

Lint refuses torch's private modules everywhere else but in the ONNX exporter, so this is what to
check against a new torch.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch._decomp import decomposition_table  # noqa: TID251  the fence
from torch._dispatch.python import enable_python_dispatcher  # noqa: TID251
from torch._dynamo.source import ConstantSource  # noqa: TID251
from torch._ops import OpOverload  # noqa: TID251
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: TID251
from torch.fx.experimental.symbolic_shapes import (  # noqa: TID251
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: TID251
from torch.utils._pytree import tree_leaves  # noqa: TID251

__all__ = [
    "FakeTensorMode",
    "OpOverload",
    "TorchDispatchMode",
    "decomposition_table",
    "enable_python_dispatcher",
    "expression",
    "new_mode",
    "new_size",
    "op_names",
    "size_at",
    "symbols",
    "tree_leaves",
]

HINT: Final = 7
"""Any size that torch does not specialize on; 0 and 1 it does."""


def new_mode() -> FakeTensorMode:
    """A world of fake tensors, some of whose sizes are known only at run time."""
    return FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())


def new_size(mode: Any, name: str) -> torch.SymInt:
    """A size of this world that equals no other; `name` is its own."""
    context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext([DimDynamic.DYNAMIC])
    hint = torch.empty(HINT)
    made = mode.from_tensor(hint, symbolic_context=context, source=ConstantSource(name))
    size: torch.SymInt = made.shape[0]
    return size


def expression(size: int | torch.SymInt) -> Any:
    """A size as an expression of symbols; a number as it is."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def symbols(size: int | torch.SymInt) -> frozenset[Any]:
    """The symbols in a size."""
    return frozenset(size.node.expr.free_symbols if isinstance(size, torch.SymInt) else ())


def size_at(size: int | torch.SymInt, numbers: Mapping[Any, int]) -> int:
    """A size where each symbol has this number."""
    return int(size.node.expr.subs(numbers) if isinstance(size, torch.SymInt) else size)


def op_names() -> list[str]:
    """The name of every op that torch knows, "aten::add.Tensor"."""
    names: list[str] = torch._C._dispatch_get_all_op_names()  # noqa: TID251
    return names

"""The zofx:: ops, for what aten has no op; each with a schema, a torch meaning, a rule for shapes.

    scoring     positions and targets → scores         directions   keys → z; θ + C·z
    sparse      x·Sᵀ of a trainable                        probes       values that carry probes
    rounding    x·Ŵᵀ as a product of integers          (formats)    x·Ŵᵀ of stored codes
    cut         where a program may be taken apart     transposes   cotangents of linear ops

Axes: N rows, T tokens, S scored positions, C alternatives, V vocabulary, P probes, Q directions, k
entries of a trainable. A value that carries probes has them outermost: a trainable is [P, k], an
activation is [P·N, …] with probe p in rows p·N … p·N+N−1. Products with stored codes are defined
beside their format, in `zofx.ir.formats`.

These meanings are what every runtime is tested against; a runtime may replace a kernel, never a
meaning. Importing the package, or any of its modules, fills torch.ops.zofx, which is `zofx_ops`.
"""

import sys
from collections.abc import Callable
from typing import Any, Final

import torch

from zofx.ir.formats import FORMATS
from zofx.ir.ops import cut, directions, probes, rounding, scoring, sparse, transposes
from zofx.ir.symbols import OpOverload

zofx_ops: Final = torch.ops.zofx
"""The ops by name, registered: zofx_ops.linear_int.default."""

STORED: Final = {sys.modules[type(FORMATS[name]).__module__] for name in FORMATS}
MODULES: Final = (cut, directions, probes, rounding, scoring, sparse, transposes, *STORED)


def meaning(op: OpOverload) -> Callable[..., Any]:
    """The torch code that an op of these was defined by: that has a backward, the op has none."""
    name, _, _ = op.__name__.partition(".")  # of the op, and of the overload
    (definition,) = (vars(module)[name] for module in MODULES if name in vars(module))
    implementation: Callable[..., Any] = definition._init_fn  # torch keeps it, under no public name
    return implementation

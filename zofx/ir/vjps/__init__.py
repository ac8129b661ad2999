"""Vector-Jacobian products: the cotangents of an op's operands from the cotangent of its result.

    y = f(x_1, …, x_n)   →   dx_i = dyᵀ·∂f/∂x_i         for every x_i that is wanted

A rule is torch code on values, and is traced (`passes/reverse_mode.py`). `RULES` has the ops that
torch cannot differentiate, or differentiates into ops that engines lack. Every other op goes
through torch's own autograd, one op at a time.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from zofx.ir.vjps import elementwise, layout, products
from zofx.ir.vjps.values import Call, Cotangents, Place, Rule, by_autograd

RULES: Final[Mapping[Callable[..., Any], Rule]] = {
    **elementwise.RULES,
    **layout.RULES,
    **products.RULES,
}


def pull_back(call: Call, cotangent: torch.Tensor) -> Cotangents:
    """The cotangents of a call's operands, by place; those that are not wanted may be missing.

    Raises:
        NotImplementedError: torch has no derivative of the op.
    """
    return RULES.get(call.target, by_autograd)(call, cotangent)


__all__ = ["Call", "Cotangents", "Place", "pull_back"]

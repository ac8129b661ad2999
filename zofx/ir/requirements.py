"""What running a program takes, read off it; an artifact's manifest records it.

    products   what its frozen matrices are multiplied by
    result     log-probabilities, or these and their tangents

So a runtime knows before it opens a graph. The ops of a graph are `graph_json.op_types`.
"""

from functools import partial

import torch
from torch import fx

from zofx.ir import ops  # noqa: F401  # registers torch.ops.zofx
from zofx.ir.facts import FORWARD_MODE
from zofx.ir.program import Program
from zofx.ir.schema import Products, Result

FOUR_BITS = 4


def products_of(graph: fx.Graph) -> Products:
    """What the products with frozen matrices are of."""
    find = partial(graph.find_nodes, op="call_function")
    if find(target=torch.ops.zofx.linear_rounded.default):
        return Products.INTEGERS
    four = any(n.args[-1] == FOUR_BITS for n in find(target=torch.ops.zofx.linear_int.default))
    return Products.NIBBLES if four else Products.FLOATS


def result_of(program: Program) -> Result:
    """What the program computes of a batch."""
    return Result.TANGENTS if FORWARD_MODE.name in program.facts else Result.LOGPROB

"""What running a program takes, read off it; an artifact's manifest records it.

    products   what its frozen matrices are multiplied by
    result     log-probabilities, or these and their tangents

So a runtime knows before it opens a graph. The ops of a graph are `graph_json.op_types`.
"""

import torch
from torch import fx

from zofx.ir import ops  # noqa: F401  # registers torch.ops.zofx
from zofx.ir.facts import FORWARD_MODE
from zofx.ir.formats import format_of
from zofx.ir.program import Program
from zofx.ir.schema import Products, Result


def products_of(graph: fx.Graph) -> Products:
    """What the products with frozen matrices are of, on ONNX Runtime."""
    if graph.find_nodes(op="call_function", target=torch.ops.zofx.linear_rounded.default):
        return Products.INTEGERS
    formats = filter(None, map(format_of, graph.nodes))
    kinds = {stored.notes("ort").products for stored in formats}
    return Products.NIBBLES if Products.NIBBLES in kinds else Products.FLOATS


def result_of(program: Program) -> Result:
    """What the program computes of a batch."""
    return Result.TANGENTS if FORWARD_MODE.name in program.facts else Result.LOGPROB

"""How fast a machine is at what a training step does: four numbers, measured in a second or two.

products    f32 [512, 1024] × [1024, 1024]      2 · 512 · 1024² operations each
integers    the same of u8 and i8, by ONNX Runtime's kernel
normals     z of a slice of 2²⁰ elements
bandwidth   4 MiB copied onto others, read and written: about what ops of a forward hand on

Each is that of the median run, so that a neighbour's moment does not count.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from zofx.zo.noise import sample
from zofx.zo.types import Key

ROWS, WIDTH = 512, 1024
OPERATIONS: Final = 2 * ROWS * WIDTH * WIDTH
NORMALS: Final = 1 << 20
COPIED: Final = 1 << 22
SECONDS: Final = 0.3


@dataclass(frozen=True)
class Rates:
    """Of a machine.

    Attributes:
        flops: floating-point operations of a matrix product, per second.
        integers: operations of a matrix product of 8-bit integers, per second.
        normals: elements of a direction, per second.
        bandwidth: bytes read or written, per second.
    """

    flops: float
    integers: float
    normals: float
    bandwidth: float


def measured(
    threads: int | None = None, flops: float | None = None, *, integers: bool = False
) -> Rates:
    """Measure them now.

    Args:
        threads: for products; None takes torch's and ONNX Runtime's own choice.
        flops: the rate of all products, if it is known.
        integers: whether products of integers matter; without them, or without ONNX Runtime, they
            have the rate of floats.
    """
    if threads:
        torch.set_num_threads(threads)
    x, w = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    here, there = torch.zeros(2, COPIED // 4)
    key = Key(0, 0)
    product = None if flops or not integers else _product_of_integers(threads)
    flops = flops or OPERATIONS * _times(lambda: x @ w)
    return Rates(
        flops,
        OPERATIONS * _times(product) if product else flops,
        NORMALS * _times(lambda: sample("gaussian", key, "rate", (NORMALS,))),
        2 * COPIED * _times(lambda: there.copy_(here)),
    )


def _product_of_integers(threads: int | None) -> Callable[[], list[Any]] | None:
    """As the graph of an artifact has them; None without the engine."""
    try:
        import onnxruntime
    except ImportError:
        return None
    from onnx import TensorProto, helper, numpy_helper

    operands = ["x", "w", "one", "one", "zero"]
    graph = helper.make_graph(
        [helper.make_node("MatMulIntegerToFloat", operands, ["y"], domain="com.microsoft")],
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [ROWS, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, WIDTH])],
        [
            numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.int8), "w"),
            numpy_helper.from_array(np.float32(1), "one"),
            numpy_helper.from_array(np.uint8(128), "zero"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    engine = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"x": np.ones((ROWS, WIDTH), np.uint8)}
    return lambda: engine.run(None, feeds)


def _times(work: Callable[[], object]) -> float:
    """How often it is done in a second; the first time does not count."""
    work()
    runs: list[float] = []
    while sum(runs) < SECONDS:
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return 1 / median(runs)

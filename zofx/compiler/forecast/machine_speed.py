"""How fast a machine is at what a training step does: four numbers, measured in a second or two.

products    f32 [512, 1024] × [1024, 1024]      2 · 512 · 1024² operations each, by the engine
integers    the same of u8 and i8
normals     z of a trainable of 2²⁰ elements
bandwidth   4 MiB copied onto others, read and written: about what ops of a forward hand on

Each is that of the median run, so that a neighbour's moment does not count.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from zofx.zo.random.noise import sample
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
    threads: int | None = None, flops: float | None = None, runtime: str = "torch"
) -> Rates:
    """Measure them now.

    Args:
        threads: for products; None takes the engine's own choice.
        flops: the rate of all products, if it is known.
        runtime: whose products: "ort", if it is there, or "torch", which has none of integers and
            multiplies floats instead.
    """
    if threads:
        torch.set_num_threads(threads)
    here, there = torch.zeros(2, COPIED // 4)
    key = Key(0, 0)
    floats, integers = (flops, flops) if flops else _products(threads, runtime)
    return Rates(
        floats,
        integers,
        NORMALS * _times(lambda: sample("gaussian", key, "rate", (NORMALS,))),
        2 * COPIED * _times(lambda: there.copy_(here)),
    )


def _products(threads: int | None, runtime: str) -> tuple[float, float]:
    """Operations per second, of floats and of integers."""
    if runtime == "ort" and find_spec("onnxruntime"):
        kinds = (np.float32, np.uint8)
        floats, integers = (OPERATIONS * _times(ort_product(kind, threads)) for kind in kinds)
        return floats, integers
    x, w = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    rate = OPERATIONS * _times(lambda: x @ w)
    return rate, rate


def ort_product(
    kind: type[np.float32 | np.uint8], threads: int | None = None
) -> Callable[[], list[Any]]:
    """A product of ones with a constant of ones, as graphs of artifacts have it.

    Args:
        kind: of x. Where it is u8, the constant is i8, and x less 128 is what counts.
        threads: None takes ONNX Runtime's own choice.
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight: type[np.generic]
    if kind is np.uint8:
        operands = ["x", "w", "one", "one", "zero"]
        node = helper.make_node("MatMulIntegerToFloat", operands, ["y"], domain="com.microsoft")
        weight, dtype = np.int8, TensorProto.UINT8
    else:
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        weight, dtype = np.float32, TensorProto.FLOAT
    constants = {"w": np.ones((WIDTH, WIDTH), weight), "one": np.float32(1), "zero": np.uint8(128)}
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", dtype, [ROWS, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, WIDTH])],
        [numpy_helper.from_array(v, name) for name, v in constants.items() if name in node.input],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    engine = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.ones((ROWS, WIDTH), kind)
    return lambda: engine.run(None, {"x": x})


def _times(work: Callable[[], object]) -> float:
    """How often it is done in a second; the first time does not count."""
    work()
    runs: list[float] = []
    while sum(runs) < SECONDS:
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return 1 / median(runs)

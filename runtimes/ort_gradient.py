"""Exact gradients on ONNX Runtime: forward.onnx and backward.onnx, residuals passed on as they are.

    forward.onnx    batch, θ                            →   logprob, residual.0, residual.1, …
    backward.onnx   batch, θ, residual.…, cotangent     →   NAME.gradient

Residuals are values of the engine (`OrtValue`): no copy of them is made on the way.
"""

from typing import Any, Final

import numpy as np

from zofx.ir.schema import COTANGENT
from zofx.runtimes.host.gradient import Feeds, GradientEngine, Gradients
from zofx.zo.types import FloatArray

SUFFIX: Final = ".gradient"


class OrtGradient(GradientEngine):
    """Two engines.

    Args:
        forward: of forward.onnx.
        backward: of backward.onnx.
    """

    def __init__(self, forward: Any, backward: Any) -> None:
        self._forward, self._backward = forward, backward
        self._reads = reads_of(forward), reads_of(backward)
        self._results = [value.name for value in forward.get_outputs()]
        self._gradients = [value.name for value in backward.get_outputs()]

    def forward(self, feeds: Feeds) -> tuple[FloatArray, Feeds]:
        """One run; only the scores leave the engine's memory."""
        given = _values(feeds, self._reads[0])
        scores, *kept = self._forward.run_with_ort_values(self._results, given)
        logprob: FloatArray = scores.numpy()
        return logprob, dict(zip(self._results[1:], kept, strict=True))

    def backward(self, feeds: Feeds, residuals: Feeds, cotangent: FloatArray) -> Gradients:
        """One run."""
        given = {**_values({**feeds, COTANGENT: cotangent}, self._reads[1]), **residuals}
        gradients = self._backward.run_with_ort_values(self._gradients, given)
        names = (name.removesuffix(SUFFIX) for name in self._gradients)
        return {name: value.numpy() for name, value in zip(names, gradients, strict=True)}


def reads_of(engine: Any) -> set[str]:
    """Names of all that an engine can be fed."""
    inputs = {value.name for value in engine.get_inputs()}
    return inputs | {value.name for value in engine.get_overridable_initializers()}


def _values(feeds: Feeds, reads: set[str]) -> Feeds:
    """What an engine reads, in its own form."""
    from onnxruntime import OrtValue

    return {
        name: OrtValue.ortvalue_from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in feeds.items()
        if name in reads
    }

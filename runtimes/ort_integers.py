"""Whether ONNX Runtime multiplies u8 by i8 exactly on this processor.

Without VNNI its x86 kernels add two products in 16 bits first, and 2 · 255 · 127 does not fit: sums
saturate, silently. So it is asked for the one product that would.
"""

import base64

import numpy as np

MODEL = base64.b85decode(
    "2nP}XI$R1E3ITWu0e2Dsc_Ix>VRTJ(Y)Ni(WoKn_5&>sg6AA%%5)KLs2m%ra3IYfL3IYf~S`!KZcM=W?3<v`f2nqrSKn"
    "el~0b&yh0eKP*3JeGa5(o+c2muNL2mwL_3IGra"
)
"""MatMulInteger(x u8[1, 64], w i8[64, 1]) as an ONNX model; a test makes it anew."""

SATURATED = (
    "the integer products of this processor saturate (it has no VNNI), so an artifact of "
    "round-activations would be wrong here: compile without --activations int8"
)


def exact() -> bool:
    """Ask the engine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    engine = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    largest, weights = np.full((1, 64), 255, np.uint8), np.full((64, 1), 127, np.int8)
    (product,) = engine.run(None, {"x": largest, "w": weights})
    return bool(product.item() == 64 * 255 * 127)

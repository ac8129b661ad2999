"""Whether ONNX Runtime multiplies u8 by i8 exactly on this processor.

Without VNNI its x86 kernels add two products in 16 bits first, and 2 · 255 · 127 does not fit: sums
saturate, silently. So it is asked for the one product that would; and once more with `PRECISE`,
which has it take wider kernels.
"""

import base64
from typing import Final, TypeAlias

import numpy as np

Entry: TypeAlias = tuple[str, str]
"""A session's option, and its value."""

PRECISE: Final[Entry] = ("session.x64quantprecision", "1")

MODEL: Final = base64.b85decode(
    "2nrGaI?4eGHwpoG3ITTt0dooga|!`^5&?N46is1tO?7NZZggd5WpY$+Mr?0kbUF=VZ*4AZX=8G4b8lvJ5&>r_O9(&+0T"
    "2U10e4D3e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}e}8{}Dhm("
    "+LIHD11ONblKPm_i0zv_LN&$dc6AA%%5)KLs2m%ra3IYfL3IYf~ViO7hc@ho^3<v=d2nqrS0SW>L0YU@{01y>I5ef}sZ"
    "*4AZX=8G4b8lvJ5CH"
)
"""MatMulIntegerToFloat(x u8[1, 64], w), w = 127 · i8[64, 1] a constant, as an ONNX model; a test
makes it anew."""

EXACT: Final = 64 * (255 - 128) * 127

SATURATED = (
    "the integer products of this processor saturate (it has no VNNI, and this onnxruntime no "
    "wider kernel), so an artifact of quantize-activations would be wrong here: compile with "
    "--activations none"
)


def kernels() -> tuple[Entry, ...] | None:
    """Options of a session under which products are exact; None if they are under none.

    The engine's own kernels come first: it takes `PRECISE` at its word on x86 with VNNI as well,
    where the wide ones take twice as long and change nothing.
    """
    return next((entries for entries in ((), (PRECISE,)) if _exact(entries)), None)


def _exact(entries: tuple[Entry, ...]) -> bool:
    """Ask the engine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for entry in entries:
        options.add_session_config_entry(*entry)
    engine = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    (product,) = engine.run(None, {"x": np.full((1, 64), 255, np.uint8)})
    return bool(product.item() == EXACT)

"""Frozen formats: how the codes of a frozen matrix are stored, made, read and multiplied by.

    W: f32[out, in]  ─quantize─▶  parts  ─dequantize─▶  Ŵ ≈ W        op(x, *parts, b, …) = x·Ŵᵀ + b

One file per format, one row per name. Names are here without torch; a `Format` loads it. A package
adds formats through the entry-point group `zofx.plugins`, as `format:NAME`.
"""

from typing import TYPE_CHECKING, Final

from zofx.registry import Table, lazy

if TYPE_CHECKING:
    from torch import fx

    from zofx.ir.formats.format import Format

FORMATS: "Final[Table[Format]]" = Table(
    "format",
    "formats",
    {
        "nf4": lazy("zofx.ir.formats.nf4:NF4"),
        "int4": lazy("zofx.ir.formats.block_int:INT4"),
        "int8": lazy("zofx.ir.formats.block_int:INT8"),
        "int8-row": lazy("zofx.ir.formats.row_int8:INT8_ROW"),
        "codebook": lazy("zofx.ir.formats.codebook:CODEBOOK"),
        "q8_0": lazy("zofx.ir.formats.gguf_block:Q8_0"),
        "q4_0": lazy("zofx.ir.formats.gguf_block:Q4_0"),
    },
)


def format_of(node: "fx.Node") -> "Format | None":
    """The format whose codes a node multiplies by; None where it multiplies by none."""
    return next((f for f in map(FORMATS.__getitem__, FORMATS) if f.multiplies(node)), None)

"""The passes: one rewrite, or one tight family, per file. README.md says how to write one."""

if __name__ != "zofx.passes":  # from the repository root this folder also answers to "passes"
    raise ImportError("import zofx.passes, not passes")

from typing import TYPE_CHECKING

from zofx.registry import Table, lazy

if TYPE_CHECKING:
    from zofx.pipeline import Pass

PASSES: "Table[type[Pass]]" = Table(
    "pass",
    "passes",
    {
        "canonicalize": lazy("zofx.passes.canonicalize:Canonicalize"),
        "forward-mode": lazy("zofx.passes.forward_mode:ForwardMode"),
        "insert-perturbation": lazy("zofx.passes.insert_perturbation:InsertPerturbation"),
        "narrow-positions": lazy("zofx.passes.narrow_positions:NarrowPositions"),
        "quantize-frozen": lazy("zofx.passes.quantize_frozen:QuantizeFrozen"),
        "select-parameters": lazy("zofx.passes.select_parameters:SelectParameters"),
        "select-sensitive": lazy("zofx.passes.select_sensitive:SelectSensitive"),
        "split-dense": lazy("zofx.passes.split_dense:SplitDense"),
        "split-sparse": lazy("zofx.passes.split_sparse:SplitSparse"),
        "stack-probes": lazy("zofx.passes.stack_probes:StackProbes"),
    },
)

"""The passes: one rewrite, or one tight family, per file. README.md says how to write one."""

if __name__ != "zofx.passes":  # from the repository root this folder also answers to "passes"
    raise ImportError("import zofx.passes, not passes")

from typing import TYPE_CHECKING

from zofx.registry import Table, lazy

if TYPE_CHECKING:
    from zofx.ir.pipeline import Pass

PASSES: "Table[type[Pass]]" = Table(
    "pass",
    "passes",
    {
        "canonicalize": lazy("zofx.passes.canonicalize:Canonicalize"),
        "cut-frozen-prefix": lazy("zofx.passes.cut_frozen_prefix:CutFrozenPrefix"),
        "expose-scales": lazy("zofx.passes.expose_scales:ExposeScales"),
        "hybrid-first-order": lazy("zofx.passes.hybrid_first_order:HybridFirstOrder"),
        "forward-mode": lazy("zofx.passes.forward_mode:ForwardMode"),
        "freeze-layers": lazy("zofx.passes.freeze_layers:FreezeLayers"),
        "insert-lora": lazy("zofx.passes.insert_lora:InsertLora"),
        "insert-low-rank": lazy("zofx.passes.insert_low_rank:InsertLowRank"),
        "insert-perturbation": lazy("zofx.passes.insert_perturbation:InsertPerturbation"),
        "mask-directions": lazy("zofx.passes.mask_directions:MaskDirections"),
        "narrow-positions": lazy("zofx.passes.narrow_positions:NarrowPositions"),
        "narrow-vocabulary": lazy("zofx.passes.narrow_vocabulary:NarrowVocabulary"),
        "quantize-frozen": lazy("zofx.passes.quantize_frozen:QuantizeFrozen"),
        "split-base-probe": lazy("zofx.passes.split_base_probe:SplitBaseProbe"),
        "quantize-activations": lazy("zofx.passes.quantize_activations:QuantizeActivations"),
        "quantize-cotangents": lazy("zofx.passes.quantize_cotangents:QuantizeCotangents"),
        "reverse-mode": lazy("zofx.passes.reverse_mode:ReverseMode"),
        "scale-directions": lazy("zofx.passes.scale_directions:ScaleDirections"),
        "select-evenly": lazy("zofx.passes.select_evenly:SelectEvenly"),
        "select-parameters": lazy("zofx.passes.select_parameters:SelectParameters"),
        "select-sensitive": lazy("zofx.passes.select_sensitive:SelectSensitive"),
        "mask-large-weights": lazy("zofx.passes.mask_large_weights:MaskLargeWeights"),
        "split-dense": lazy("zofx.passes.split_dense:SplitDense"),
        "split-sparse": lazy("zofx.passes.split_sparse:SplitSparse"),
        "stack-probes": lazy("zofx.passes.stack_probes:StackProbes"),
        "alternate-blocks": lazy("zofx.passes.alternate_blocks:AlternateBlocks"),
    },
)

"""Build and validate the pass pipeline for a method and compile options.

    method's text ─train─▶ what trains ─quant─▶ the frozen format ─activations─▶ its products
                  ─from_layer─▶ what is computed once ─fraction, set─▶ Pipeline ─check_order─▶

An option sets a field of the passes that serve it (`Pass.serves`), or brings passes of its own,
each to its stage (`Pipeline.with_pass`). What does not go together shows in the facts, which follow
from the options of passes: no check here knows a pass by its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zofx.compiler.exact import LORA, with_exact_layers
from zofx.compiler.methods import Method
from zofx.errors import PipelineError
from zofx.ir.facts import COORDINATES_SELECTED, HAS_TRAINABLES, ROW_SCALED, TRAINING
from zofx.ir.pipeline import Pass, Pipeline
from zofx.models.soft_prompts import ADAPTERS
from zofx.passes import PASSES

# What passes serve.
TRAIN: Final = "train"
QUANT: Final = "quant"
ACTIVATIONS: Final = "activations"
FRACTION: Final = "fraction"
FROM_LAYER: Final = "train-from-layer"

# Passes that options bring.
TRAIN_LORA: Final = "insert-lora"
STORE: Final = "quantize-frozen"
ROUND: Final = ("split-base-probe", "quantize-activations")
EVENLY: Final = "select-evenly"
CUT: Final = ("freeze-layers", "cut-frozen-prefix")

NONE: Final = "none"
INT4: Final = "int4"
INT8: Final = "int8"
INT8_ROW: Final = "int8-row"


@dataclass(frozen=True)
class Options:
    """How a compilation differs from the method's defaults.

    Attributes:
        quant: frozen format, "none" for no quantization; None keeps the method's.
        activations: "int8" multiplies integers, "none" leaves activations in f32; None keeps the
            method's, as far as the frozen format goes with it.
        train: "lora", "prefix", "prompt", or a regular expression over the names of parameters;
            None keeps the method's.
        fraction: share of the weights that trains; None keeps the method's.
        settings: "PASS.OPTION=VALUE", applied last.
        force: replace an existing artifact.
        from_layer: the first layer that trains; the frozen prefix is computed once per row.
        exact_layers: how many of the last layers train by exact gradients, or "all".
    """

    quant: str | None = None
    activations: str | None = None
    train: str | None = None
    fraction: float | None = None
    settings: Sequence[str] = ()
    force: bool = False
    from_layer: int | None = None
    exact_layers: str | None = None

    @property
    def adapter(self) -> str | None:
        """What is to stand before the text."""
        return self.train if self.train in ADAPTERS else None


def pipeline_for(method: Method, options: Options) -> Pipeline:
    """The method's pipeline under these options, checked and ready.

    Raises:
        UsageError: an option or pass that is not there, an order that cannot work, or parts that do
            not go together; nothing has run.
    """
    pipeline = _training(Pipeline.parse(method.pipeline, PASSES), method, options.train)
    if options.quant:
        pipeline = _stored(pipeline, options.quant)
    if options.activations is not None:
        pipeline = _rounded(pipeline, options.activations, options.quant)
    if options.exact_layers is not None:
        pipeline = with_exact_layers(pipeline, options.exact_layers)
    if options.from_layer is not None:
        pipeline = _cut(pipeline, options)
    if options.fraction is not None:
        if not pipeline.serving(FRACTION):
            raise PipelineError(
                f"method {method.name} selects no fraction of the weights; leave --fraction out"
            )
        pipeline = pipeline.with_served(FRACTION, options.fraction)
    for setting in options.settings:
        pipeline = pipeline.with_option(setting)
    pipeline.check_order([HAS_TRAINABLES.name] if options.adapter else ())
    return pipeline


def without_scores(pipeline: Pipeline) -> Pipeline:
    """The pipeline with evenly spaced coordinates where it would rank weights."""
    return Pipeline(
        tuple(
            _evenly(item)
            if item.needs_scores and COORDINATES_SELECTED in item.establishes
            else item
            for item in pipeline.passes
        )
    )


def _evenly(ranking: Pass) -> Pass:
    """A pass that trains the same fraction of the weights."""
    fraction = getattr(ranking, ranking.serves[FRACTION])
    return Pipeline((PASSES[EVENLY](),)).with_served(FRACTION, fraction).passes[0]


def _training(pipeline: Pipeline, method: Method, train: str | None) -> Pipeline:
    """With what trains changed: by name, or by a pass in place of those that decide it."""
    if train is None:
        return pipeline
    deciding = [p for p in pipeline.passes if not set(TRAINING).isdisjoint(p.establishes)]
    if train in ADAPTERS:
        return pipeline.without(*deciding)
    if train == LORA:
        lora = next((p for p in deciding if p.name == TRAIN_LORA), PASSES[TRAIN_LORA]())
        return pipeline.without(*deciding).with_pass(lora)
    if not pipeline.serving(TRAIN):
        raise PipelineError(
            f"--train {train}: method {method.name} does not choose parameters by name; it takes "
            "lora, prefix and prompt, or --set for its own passes"
        )
    return pipeline.with_served(TRAIN, train)


def _stored(pipeline: Pipeline, form: str) -> Pipeline:
    """With the frozen matrices in a format, or as they are; only one is of integers."""
    if form == NONE:
        return _floats(pipeline).without(*pipeline.serving(QUANT))
    if not pipeline.serving(QUANT):
        pipeline = pipeline.with_pass(PASSES[STORE]())
    pipeline = pipeline.with_served(QUANT, form)
    return pipeline if _by_rows(pipeline) else _floats(pipeline)


def _rounded(pipeline: Pipeline, form: str, quant: str | None) -> Pipeline:
    """With products of integers, or of floats."""
    if form == NONE:
        own = quant is None and _by_rows(pipeline)
        return _stored(pipeline, INT4) if own else _floats(pipeline)
    if form != INT8:
        raise PipelineError(f"--activations {form}: there are none and {INT8}")
    if quant not in (None, INT8_ROW):
        raise PipelineError(
            f"--activations {INT8} multiplies integers, for which a matrix has one scale per row: "
            f"--quant {INT8_ROW}, which is also what it takes without --quant; not {quant}"
        )
    pipeline = _floats(_stored(pipeline, INT8_ROW))
    for name in ROUND:
        pipeline = pipeline.with_pass(PASSES[name]())
    return pipeline


def _floats(pipeline: Pipeline) -> Pipeline:
    """Without what makes products of integers."""
    return pipeline.without(*pipeline.serving(ACTIVATIONS))


def _by_rows(pipeline: Pipeline) -> bool:
    """Whether the frozen matrices are in a format whose products are of integers."""
    return any(ROW_SCALED in item.establishes for item in pipeline.passes)


def _cut(pipeline: Pipeline, options: Options) -> Pipeline:
    """With the first layers left as they are, and the frozen prefix apart."""
    if options.adapter:
        raise PipelineError(
            f"--train-from-layer {options.from_layer}: a {options.adapter} stands before the text "
            "and changes every layer, so none can be left as it is; leave one of the two out"
        )
    for name in CUT:
        pipeline = pipeline.with_pass(PASSES[name]())
    return pipeline.with_served(FROM_LAYER, options.from_layer)

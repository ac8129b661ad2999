"""A method under a user's options → the pipeline to run; what cannot work is refused here, at once.

method's text ─train─▶ what trains ─quant─▶ how the rest is stored ─activations─▶ what it multiplies
              ─from_layer─▶ what is computed once ─fraction, --set─▶ Pipeline
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from zofx.compiler.exact import with_exact_layers
from zofx.compiler.methods import Method
from zofx.errors import PipelineError
from zofx.ir.facts import HAS_TRAINABLES
from zofx.ir.pipeline import Pass, Pipeline
from zofx.models.soft_prompts import ADAPTERS
from zofx.passes import PASSES

LORA: Final = "lora"
INT4: Final = "int4"
INT8: Final = "int8"
INT8_ROW: Final = "int8-row"
PART: Final = "split-base-probe"
ROUND: Final = "quantize-activations"
CHOOSING: Final = (
    "select-parameters", "select-sensitive", "split-dense", "split-sparse", "insert-low-rank",
    "insert-lora", "expose-scales",
)  # fmt: skip


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
        from_layer: the first layer that trains; what is below is computed once per row.
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
        pipeline = _quantized(pipeline, options.quant)
    if options.activations is not None:
        pipeline = _rounded(pipeline, options.activations, options.quant)
    if options.exact_layers is not None:
        pipeline = with_exact_layers(pipeline, options.exact_layers)
    if options.from_layer is not None:
        pipeline = _cut(pipeline, options)
    if options.fraction is not None:
        select = next((p.name for p in pipeline.passes if hasattr(p, "fraction")), None)
        if select is None:
            raise PipelineError(
                f"method {method.name} selects no fraction of the weights; leave --fraction out"
            )
        pipeline = pipeline.with_option(f"{select}.fraction={options.fraction}")
    for setting in options.settings:
        pipeline = pipeline.with_option(setting)
    pipeline.check_order([HAS_TRAINABLES.name] if options.adapter else ())
    _require_something_frozen(pipeline)
    _require_scales(pipeline)
    _require_rows(pipeline)
    return pipeline


def _training(pipeline: Pipeline, method: Method, train: str | None) -> Pipeline:
    """With what trains changed."""
    if train is None:
        return pipeline
    passes = pipeline.passes
    if train in ADAPTERS:
        return Pipeline(tuple(p for p in passes if p.name not in CHOOSING))
    if train == LORA:
        lora = _find(pipeline, "insert-lora") or PASSES["insert-lora"]()
        first = _first(pipeline, *CHOOSING, "quantize-frozen")
        kept = [p for p in passes[first:] if p.name not in CHOOSING]
        return Pipeline((*passes[:first], lora, *kept))
    if not _find(pipeline, "select-parameters"):
        raise PipelineError(
            f"--train {train}: method {method.name} does not choose parameters by name; it takes "
            "lora, prefix and prompt, or --set for its own passes"
        )
    return pipeline.with_option(f"select-parameters.match={train}")


def _quantized(pipeline: Pipeline, form: str) -> Pipeline:
    """With the frozen matrices stored in a format, or as they are; only one is of integers."""
    if form != INT8_ROW:
        pipeline = _without(pipeline, PART, ROUND)
    if form == "none":
        return _without(pipeline, "quantize-frozen")
    if not _find(pipeline, "quantize-frozen"):
        place = _first(pipeline, "insert-perturbation")
        before, after = pipeline.passes[:place], pipeline.passes[place:]
        pipeline = Pipeline((*before, PASSES["quantize-frozen"](), *after))
    return pipeline.with_option(f"quantize-frozen.format={form}")


def _rounded(pipeline: Pipeline, form: str, quant: str | None) -> Pipeline:
    """With products of integers, or of floats."""
    if form == "none":
        floats = _without(pipeline, PART, ROUND)
        stored: Any = _find(pipeline, "quantize-frozen")
        own = quant is None and stored and stored.format == INT8_ROW
        return _quantized(floats, INT4) if own else floats
    if form != INT8:
        raise PipelineError(f"--activations {form}: there are none and {INT8}")
    if quant not in (None, INT8_ROW):
        raise PipelineError(
            f"--activations {INT8} multiplies integers, for which a matrix has one scale per row: "
            f"--quant {INT8_ROW}, which is also what it takes without --quant; not {quant}"
        )
    pipeline = _without(_quantized(pipeline, INT8_ROW), PART, ROUND)
    return Pipeline((*pipeline.passes, PASSES[PART](), PASSES[ROUND]()))


def _cut(pipeline: Pipeline, options: Options) -> Pipeline:
    """With the first layers left as they are, and what is below the trainables apart."""
    if options.adapter:
        raise PipelineError(
            f"--train-from-layer {options.from_layer}: a {options.adapter} stands before the text "
            "and changes every layer, so none can be left as it is; leave one of the two out"
        )
    start = _first(pipeline, "canonicalize") + 1
    freeze = PASSES["freeze-layers"]()
    passes = (
        *pipeline.passes[:start],
        freeze,
        *pipeline.passes[start:],
        PASSES["cut-frozen-prefix"](),
    )
    return Pipeline(passes).with_option(f"freeze-layers.below={options.from_layer}")


def _require_something_frozen(pipeline: Pipeline) -> None:
    """A matrix that moves is no frozen one."""
    if not _find(pipeline, "quantize-frozen"):
        return
    low_rank: Any = _find(pipeline, "insert-low-rank")
    chosen: Any = _find(pipeline, "select-parameters")
    if low_rank and low_rank.basis == "refreshed":
        raise PipelineError(
            "quantize-frozen does not go with insert-low-rank{basis=refreshed}: at every refresh "
            "what was learnt is folded into the matrix, which has to be in full precision for "
            "that; leave --quant out, or keep one basis: --set insert-low-rank.basis=fixed"
        )
    if chosen and not low_rank and chosen.match == ".":
        raise PipelineError(
            "quantize-frozen finds nothing to quantize where every parameter trains; leave --quant "
            "and --activations out, or train less: --train lora, --train REGEX, or a method "
            "with a sparse trainable"
        )


def _require_scales(pipeline: Pipeline) -> None:
    """Scales to train are those of a format that has them."""
    stored: Any = _find(pipeline, "quantize-frozen")
    form = stored.format if stored else "none"
    if _find(pipeline, "expose-scales") and form not in ("int4", "int8"):
        raise PipelineError(
            "expose-scales trains the scales of block-wise integers: name --quant int4 or int8, "
            f"not {form}"
        )


def _require_rows(pipeline: Pipeline) -> None:
    """Integers are multiplied in one format."""
    if not _find(pipeline, ROUND):
        return
    stored: Any = _find(pipeline, "quantize-frozen")
    form = stored.format if stored else "none"
    if form != INT8_ROW:
        raise PipelineError(
            f"{ROUND} multiplies matrices in {INT8_ROW}, not {form}: "
            f"--set quantize-frozen.format={INT8_ROW}, or --activations none"
        )


def _without(pipeline: Pipeline, *names: str) -> Pipeline:
    return Pipeline(tuple(p for p in pipeline.passes if p.name not in names))


def _first(pipeline: Pipeline, *names: str) -> int:
    """The place of the first pass of these names; the end, if there is none."""
    places = (i for i, p in enumerate(pipeline.passes) if p.name in names)
    return next(places, len(pipeline.passes))


def _find(pipeline: Pipeline, name: str) -> Pass | None:
    return next((p for p in pipeline.passes if p.name == name), None)

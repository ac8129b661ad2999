"""zofx plan: what a training step will take, before anything is loaded or compiled."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import columns, say, size
from zofx.cli.options import Json, ModelName, Revision, Threads, add_command
from zofx.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from zofx.compiler.forecast.forecast import Forecast, Part
    from zofx.compiler.methods import Method
    from zofx.compiler.options import Options
    from zofx.ir.program import Program
    from zofx.models.checkpoint import Checkpoint

SPREAD = "trained weights are spread evenly; real choices crowd into fewer columns"


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "plan", plan)


def plan(  # noqa: PLR0913  a verb has many options
    model: ModelName,
    method: Annotated[
        str, typer.Option("--method", "-m", metavar="NAME", help="See `zofx list methods`.")
    ] = "senszoq",
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, metavar="T", help="Of a row, padding included.")
    ] = 128,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, metavar="B", help="Rows of a step; the method's."),
    ] = None,
    scored: Annotated[
        int, typer.Option("--scored", min=1, metavar="S", help="Positions of a row that count.")
    ] = 1,
    alternatives: Annotated[
        int,
        typer.Option(
            "--alternatives",
            min=1,
            metavar="C",
            help="Candidates scored in one row: of several, only differences count.",
        ),
    ] = 1,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, metavar="Q", help="Directions per step.")
    ] = None,
    quant: Annotated[
        str | None, typer.Option("--quant", metavar="FORMAT", help="As in `zofx compile`.")
    ] = None,
    activations: Annotated[
        str | None, typer.Option("--activations", metavar="FORMAT", help="As in `zofx compile`.")
    ] = None,
    train: Annotated[
        str | None, typer.Option("--train", metavar="WHAT", help="As in `zofx compile`.")
    ] = None,
    from_layer: Annotated[
        int | None, typer.Option("--train-from-layer", metavar="K", help="As in `zofx compile`.")
    ] = None,
    exact_layers: Annotated[
        str | None, typer.Option("--exact-layers", metavar="K|all", help="As in `zofx compile`.")
    ] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", metavar="F", help="As in `zofx compile`.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PASS.OPTION=VALUE", help="As in `zofx compile`."),
    ] = None,
    scores_file: Annotated[
        Path | None,
        typer.Option("--sensitivity", metavar="FILE", help="Ranks, where the method takes some."),
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", metavar="NAME", help="ort or torch.")
    ] = "ort",
    threads: Threads = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="GFLOPS", help="Of all products; measured here if absent."),
    ] = None,
    revision: Revision = None,
    json_: Json = False,
) -> None:
    """Predict the memory and the time of a training step, part by part.

    No weight is read: the model is captured from its configuration, and the passes run on shapes.
    Bytes of weights and trainables are those that `zofx compile` writes. Memory is the largest
    resident set of `zofx tune`; time is a rough figure, for rows that all have T tokens.

    Examples:
        zofx plan HuggingFaceTB/SmolLM2-135M-Instruct --quant int4 --tokens 64 --batch-size 16
        zofx plan ./my-model --method mezo --runtime torch --rate 200
    """
    from zofx.compiler.methods import METHODS
    from zofx.models.locate import at_revision, require_model

    model = at_revision(model, revision)
    chosen = METHODS[method]
    _require_positive(rate)
    require_model(model)
    say("loading torch and transformers")
    from zofx.compiler.exact import settings_for
    from zofx.compiler.forecast.forecast import forecast, require_known
    from zofx.compiler.forecast.machine_speed import measured
    from zofx.compiler.options import Options
    from zofx.models.checkpoint import open_checkpoint

    require_known(runtime)
    options = Options(
        quant, activations, train, fraction, tuple(settings or ()), from_layer=from_layer,
        exact_layers=exact_layers,
    )  # fmt: skip
    checkpoint = open_checkpoint(model)
    program, joint, assumed = _program(checkpoint, chosen, options, scores_file)
    predicted = forecast(
        program,
        settings_for(chosen.settings, exact_layers, train).with_given(
            batch_size=batch_size, queries=queries
        ),
        joint=joint,
        tokens=tokens,
        scored=scored,
        alternatives=alternatives,
        vocabulary=checkpoint.tokenizer.get_vocab_size() if checkpoint.tokenization else 0,
        runtime=runtime,
        threads=threads,
        rates=measured(threads, rate and rate * 1e9, runtime),
    )
    payload = {
        "model": model,
        **_described(checkpoint.config),
        "method": method,
        "runtime": runtime,
        "assumed": assumed,
        "pipeline": ", ".join(program.history),
        **asdict(predicted),
        "memory": predicted.memory,
        "seconds": predicted.seconds,
    }
    print(json.dumps(payload, indent=1) if json_ else _text(payload, predicted))


def _require_positive(rate: float | None) -> None:
    if rate is not None and not rate > 0:
        raise UsageError(f"--rate {rate:g}: a machine that multiplies has a positive one")


def _program(
    checkpoint: "Checkpoint", method: "Method", options: "Options", scores_file: Path | None
) -> "tuple[Program, Program | None, str]":
    """The program that would be compiled, the joint one, and what was assumed to make them."""
    from zofx.compiler.exact import rewrite
    from zofx.compiler.frontend import captured
    from zofx.compiler.options import pipeline_for, without_scores
    from zofx.compiler.sensitivity.scores import load_scores

    pipeline = pipeline_for(method, options)
    program = captured(checkpoint, options)
    if scores_file is not None:
        scores = load_scores(scores_file)
        scores.check_model(checkpoint)
        return *rewrite(pipeline, program.choosing("scores", scores)), ""
    even = without_scores(pipeline)
    return *rewrite(even, program), SPREAD if even != pipeline else ""


def _described(config: "PreTrainedConfig") -> dict[str, Any]:
    """Layers, width and heads, under one name for every architecture.

    optimum knows what each architecture calls them; of one it does not know, transformers' own
    names are taken.
    """
    from optimum.utils import NormalizedConfigManager

    config = config.get_text_config()
    try:
        named = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
        layers, heads = named.num_layers, named.num_attention_heads
    except KeyError:
        named, layers, heads = config, config.num_hidden_layers, config.num_attention_heads
    return {
        "architecture": config.model_type,
        "layers": layers,
        "width": named.hidden_size,
        "heads": heads,
    }


def _text(payload: dict[str, Any], predicted: "Forecast") -> str:
    """The two tables, and what they assume."""
    axes = predicted.axes
    lines = [
        f"{payload['model']}: {payload['architecture']}, {payload['layers']} layers of "
        f"{payload['width']}, {payload['heads']} heads",
        f"{payload['method']} on {payload['runtime']}: {predicted.rows} rows of {axes.tokens} "
        f"tokens under {axes.probes} probes{_at_most(predicted)}",
        f"memory  {size(predicted.memory)}",
        _shares(predicted.stays, predicted.memory, size),
        "  then the larger of",
        _shares(predicted.comes, predicted.memory, size),
        f"a step  {predicted.seconds:.3g} s, {predicted.flops / 1e9:,.1f} GFLOP",
        _shares(predicted.step, predicted.seconds, lambda seconds: f"{seconds:.3g} s"),
    ]
    if payload["assumed"]:
        lines.append(f"without --sensitivity, {payload['assumed']}")
    return "\n".join(lines)


def _at_most(predicted: "Forecast") -> str:
    """Where not all rows share a forward."""
    return (
        "" if predicted.axes.rows == predicted.rows else f", {predicted.axes.rows} rows at a time"
    )


def _shares(parts: "tuple[Part, ...]", whole: float, written: Callable[[Any], str]) -> str:
    """A line per part: amount, share of the whole, note."""
    rows = [
        (part.name, written(part.amount), f"{part.amount / whole:.1%}", part.note) for part in parts
    ]
    return columns(rows, "  ")

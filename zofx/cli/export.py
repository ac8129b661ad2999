"""zofx export: a merged checkpoint that transformers loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from zofx.cli.console import Progress, say
from zofx.cli.options import (
    Artifact,
    add_command,
    step_of,
)
from zofx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


T = TypeVar("T")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_command(app, "export", export)


def export(
    artifact: Artifact,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="The folder to make.")],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Merge this run's trainables.")
    ] = None,
    step: Annotated[
        str, typer.Option("--step", metavar="best|last|N", help="Which θ of the run.")
    ] = "best",
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="hf: Hugging Face.")] = "hf",
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16.")
    ] = "float32",
) -> None:
    """Write a merged checkpoint that transformers loads.

    The trainables are added into the weights they were cut from, and what was quantized is written
    as what it stands for, so the exported model answers as the artifact does.

    Example:
        zofx export art --run run --to hf -o tuned
        python -c "from transformers import pipeline; pipeline('text-generation', 'tuned')"
    """
    from zofx.artifact import layout
    from zofx.artifact.manifest import read_manifest
    from zofx.files import require_free
    from zofx.runs.run_folder import RunFolder

    if to != "hf":
        raise UsageError(f"--to {to}: there is no such format; there is: hf")
    require_free(out)
    manifest = read_manifest(artifact)
    theta = None
    if run is not None:
        taken, theta = RunFolder.open(run).theta(artifact, manifest, step_of(step))
    say("loading torch and transformers")
    from zofx.artifact.merge import merged_tensors
    from zofx.models.hf_export import export_hf
    from zofx.models.tokenizer import SpecialTokens

    weights = len({row.origin or row.name for row in manifest.tensors})
    with Progress("export") as bar:
        export_hf(
            manifest.config,
            (artifact / layout.TOKENIZER).read_bytes(),
            _counted(merged_tensors(artifact, theta), weights, bar),
            out,
            SpecialTokens(**manifest.model["special"]),
            dtype=dtype,
        )
    whose = f"step {taken} of {run}" if theta is not None else "the model as compiled"
    print(f"{out}: {whose}, merged, {dtype}")


def _counted(items: "Iterable[T]", total: int, bar: Progress) -> "Iterator[T]":
    """The items, counted as they are taken."""
    for done, item in enumerate(items, start=1):
        bar(done, total)
        yield item

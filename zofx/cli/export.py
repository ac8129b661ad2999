"""zofx export: a merged checkpoint that transformers loads."""

from pathlib import Path
from typing import Annotated

import typer

from zofx.cli.console import Progress, say
from zofx.cli.options import (
    Artifact,
    add_command,
    step_of,
)


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
    from zofx.api.export import export as export_
    from zofx.api.export import require_format
    from zofx.artifact.manifest import read_manifest
    from zofx.files.atomic import require_free
    from zofx.runs.run_folder import RunFolder

    require_format(to)
    require_free(out)
    manifest = read_manifest(artifact)
    theta = None
    if run is not None:
        taken, theta = RunFolder.open(run).theta(artifact, manifest, step_of(step))
    say("loading torch and transformers")
    with Progress("export") as bar:
        export_(artifact, manifest, theta, to, out, dtype=dtype, progress=bar)
    whose = f"step {taken} of {run}" if theta is not None else "the model as compiled"
    print(f"{out}: {whose}, merged, {dtype}")

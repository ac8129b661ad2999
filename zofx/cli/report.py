"""zofx report: one or several runs as a page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import Progress, say
from zofx.cli.options import Json, add_command
from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.runs.report.history import History


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "report", report)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, side by side.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE.html", help="The page to make.")
    ] = Path("report.html"),
    examples: Annotated[
        int,
        typer.Option(
            "--examples",
            min=0,
            metavar="N",
            help="Ask N examples of dev again, before and after; show answers that changed.",
        ),
    ] = 0,
    json_: Json = False,
) -> None:
    """Write one or several runs as one HTML page that opens without a network.

    Loss and accuracy with intervals, the projected gradient beside its round-off, a table by class
    and the confusion matrix, memory, settings (those that differ stand out), what the guard found,
    and the program pass by pass, with what each pass changed where the artifact was compiled with
    --save-stages.

    All of it comes from the run folders. --examples N loads an engine besides.

    Examples:
        zofx report runs/one -o report.html
        zofx report runs/one runs/other --examples 100
    """
    from zofx.files.atomic import require_free
    from zofx.runs.report.history import history
    from zofx.runs.report.page import require_report, write_report

    require_report()
    require_free(out)
    read = [history(path) for path in runs]
    names = [run.name for run in read]
    if len(set(names)) < len(names):  # folders of one name in different places
        read = [replace(run, name=str(path)) for run, path in zip(read, runs, strict=True)]
    if examples:
        read = [_asked(run, examples) for run in read]
    write_report(read, out)
    if json_:
        print(json.dumps({"out": str(out), "runs": [str(path) for path in runs]}))
    else:
        print(f"{out}: {len(read)} run{'s' if len(read) > 1 else ''}")


def _asked(run: "History", limit: int) -> "History":
    """With the examples whose answer changed."""
    from zofx.api.inference import Question, Source, judge
    from zofx.runs.compiled_model import open_model
    from zofx.runs.evaluate import Prediction
    from zofx.runs.report.history import changes

    if run.artifact is None or run.best is None:
        raise UsageError(
            f"--examples: {run.run.path} has no evaluation on dev, or its artifact is not at "
            f"{run.run.config.folder}; leave the option out"
        )
    model = open_model(run.artifact)
    question = Question(run.run.config.task, split="dev", limit=limit, of_run=True)

    def ask(step: int) -> list[dict[str, Any]]:
        given: list[Prediction] = []
        source = Source.of(model, run.run, step, on_message=say)
        with Progress(f"{run.name}, step {step}") as bar:
            judge(source, question, progress=bar, predictions=given)
        return [prediction.to_dict() for prediction in given]

    return replace(run, changes=changes(ask, run.best))

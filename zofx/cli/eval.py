"""zofx eval: how well an artifact, or a run of it, does a task."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import Progress, say
from zofx.cli.options import (
    Artifact,
    Columns,
    Data,
    Device,
    Json,
    Labels,
    MaxLength,
    Runtime,
    Seed,
    Template,
    Threads,
    Truncate,
    add_command,
    step_of,
)
from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.runs.evaluation import Evaluation


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    add_command(app, "eval", evaluate)


def evaluate(  # noqa: PLR0913  a verb has many options
    artifact: Artifact,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="Judge this run; else the model as compiled."),
    ] = None,
    step: Annotated[
        str, typer.Option("--step", metavar="best|last|N", help="Which θ of the run.")
    ] = "best",
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", metavar="NAME|FILE", help="The run's own, if absent."),
    ] = None,
    data: Data = None,
    runtime: Runtime = None,
    device: Device = None,
    threads: Threads = None,
    fleet: Annotated[
        str | None,
        typer.Option(
            "--fleet", metavar="FLEET", help="Workers that share the rows, as of `zofx tune`."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="test, dev or train.")
    ] = "test",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="At most so many examples."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="B", help="Examples per forward.")
    ] = 16,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="NAME",
            help="Whose loss is reported; reward:FILE.py:FUNCTION runs your file FILE.py.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE.jsonl",
            help="Write a line per example: prompt, scores, answer, gold.",
        ),
    ] = None,
    seed: Seed = None,
    truncate: Truncate = False,
    max_length: MaxLength = None,
    columns: Columns = None,
    template: Template = None,
    labels: Labels = None,
    json_: Json = False,
) -> None:
    """Measure how well a model, or a run, does a task.

    The test set is the same for every seed. The interval is Wilson's, at 95 %. Of a run, θ of the
    step that did best on dev is used, unless --step names another.

    Tasks with classes are reported class by class: precision, recall, F1, their mean (macro-F1),
    the confusion matrix, how often each answer was given, and the majority baseline, which is what
    always answering the most frequent class gets. A warning says so where every answer is the same,
    or the accuracy is not clear of that baseline.

    Generation tasks (squad, drop, prompts with completions) are answered with greedy text: F1 and
    exact match against the references, and the likelihood of the gold completion. That takes a
    forward per token: --limit keeps it short.

    Examples:
        zofx eval art --task trec
        zofx eval art --run run --step last --split dev --json
        zofx eval art --run run --predictions answers.jsonl
    """
    from zofx.api.inference import NO_TASK, Question, Source, changed, judge
    from zofx.runs import jsonl
    from zofx.runs.compiled_model import open_model
    from zofx.runs.evaluate import Prediction
    from zofx.runs.run_folder import RunFolder
    from zofx.tasks.selection import TaskChoice

    if predictions is not None:
        _require_place(predictions)
    answers: list[Prediction] | None = None if predictions is None else []
    model = open_model(artifact)
    folder = None if run is None else RunFolder.open(run)
    if task is not None:
        choice = TaskChoice(
            task, data, seed or 0, truncate=truncate, max_length=max_length,
            columns=columns, template=template, labels=labels,
        )  # fmt: skip
    elif folder is not None:
        choice = changed(folder.config.task, data, truncate, max_length)
    else:
        raise UsageError(NO_TASK)
    source = Source.of(model, folder, step_of(step), runtime, device, threads, say, fleet)
    question = Question(choice, None, split, limit, batch_size, objective, task is None)
    with Progress("eval") as bar:
        result = judge(source, question, progress=bar, predictions=answers)
    about = {
        "artifact": str(artifact), "hash": model.manifest.hash, "method": model.manifest.method,
        "run": run and str(run), "step": result.step, "task": result.task,
        "split": split, "runtime": source.engine.runtime,
    }  # fmt: skip
    if predictions is not None and answers is not None:
        jsonl.write(predictions, (answer.to_dict() for answer in answers))
    print(_report(about, result.evaluation, as_json=json_))


def _require_place(path: Path) -> None:
    """A file can be written there; asked before anything is computed."""
    if path.is_dir() or not path.parent.is_dir():
        reason = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise UsageError(f"--predictions {path} {reason}; name a file that can be written")


def _report(about: dict[str, Any], result: "Evaluation", *, as_json: bool) -> str:
    if as_json:
        return json.dumps({**about, **result.to_dict()}, allow_nan=False)
    whose = "as compiled" if about["run"] is None else f"step {about['step']} of {about['run']}"
    line = f"{about['task']} {about['split']}, {about['artifact']} {whose}: {result}"
    if result.classes is None:
        return line
    warnings = [f"warning: {text}" for text in result.classes.warnings]
    return "\n".join([line, "", str(result.classes), *warnings])

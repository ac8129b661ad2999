"""zofx eval: how well an artifact, or a run of it, does a task."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import Progress, say
from zofx.cli.options import (
    Artifact,
    Data,
    Device,
    Json,
    Runtime,
    Seed,
    Threads,
    Truncate,
    add_command,
    step_of,
)
from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.runs.evaluation import Evaluation
    from zofx.runs.run_folder import RunFolder
    from zofx.tasks.selection import TaskChoice


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
        typer.Option("--task", "-t", metavar="NAME|FILE.jsonl", help="The run's own, if absent."),
    ] = None,
    data: Data = None,
    runtime: Runtime = None,
    device: Device = None,
    threads: Threads = None,
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
    json_: Json = False,
) -> None:
    """Measure how well a model, or a run, does a task.

    The test set is the same for every seed. The interval is Wilson's, at 95 %. Of a run, θ of the
    step that did best on dev is used, unless --step says otherwise.

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
    from zofx.runs import jsonl
    from zofx.runs.compiled_model import default_runtime, open_model, open_session
    from zofx.runs.evaluate import Prediction
    from zofx.runs.evaluate import evaluate as evaluate_
    from zofx.runs.run_folder import RunFolder
    from zofx.runs.task_data import open_workload
    from zofx.tasks.selection import SPLITS

    if predictions is not None:
        _require_place(predictions)
    answers: list[Prediction] | None = None if predictions is None else []
    model = open_model(artifact)
    folder = None if run is None else RunFolder.open(run)
    chosen = next((name for name in SPLITS if name == split), None)
    if chosen is None:
        raise UsageError(f"--split {split}: there are {', '.join(SPLITS)}")
    theta = None if folder is None else folder.theta(artifact, model.manifest, step_of(step))
    workload = open_workload(model, _choice(folder, task, data, seed, truncate))
    examples = workload.examples(chosen)[:limit]
    named = objective or (_own_objective(folder) if folder and task is None else None)
    judged = workload.objective(named)
    engine = runtime or (folder.config.engine.runtime if folder else default_runtime())
    say(f"loading {artifact} on {engine}, every file checked")
    session = open_session(model, engine, device or "cpu", threads, workload.rows(batch_size))
    try:
        if theta is not None:
            session.write(theta[1])
        with Progress("eval") as bar:
            result = evaluate_(
                session, workload.encoder, workload.task, examples, judged,
                decoder=workload.decoder if workload.generates else None,
                batch_size=batch_size, step=theta[0] if theta else 0, progress=bar,
                predictions=answers,
            )  # fmt: skip
    finally:
        session.close()
    about = {
        "artifact": str(artifact), "hash": model.manifest.hash, "method": model.manifest.method,
        "run": run and str(run), "step": theta and theta[0], "task": workload.task.name,
        "split": chosen, "runtime": engine,
    }  # fmt: skip
    if predictions is not None and answers is not None:
        jsonl.write(predictions, (answer.to_dict() for answer in answers))
    print(_report(about, result, as_json=json_))


def _require_place(path: Path) -> None:
    """A file can be written there; asked before anything is computed."""
    if path.is_dir() or not path.parent.is_dir():
        reason = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise UsageError(f"--predictions {path} {reason}; name a file that can be written")


def _choice(
    folder: "RunFolder | None",
    task: str | None,
    data: str | None,
    seed: int | None,
    truncate: bool,
) -> "TaskChoice":
    """The run's own examples, unless another task is named."""
    from dataclasses import replace

    from zofx.tasks.selection import TaskChoice

    if task is not None:
        return TaskChoice(task, data, seed or 0, truncate=truncate)
    if folder is None:
        raise UsageError("name a task: `--task NAME` or `--task FILE.jsonl` (`zofx list tasks`)")
    own = folder.config.task
    return replace(own, data=data or own.data, truncate=truncate or own.truncate)


def _own_objective(folder: "RunFolder") -> str | None:
    """A run's objective; a file of code that a run folder names is not run for that."""
    from zofx.tasks.reward import PREFIX

    own = folder.config.objective
    if not own.startswith(PREFIX):
        return own
    say(f"the run minimised {own}: name it with --objective to run that file")
    return None


def _report(about: dict[str, Any], result: "Evaluation", *, as_json: bool) -> str:
    if as_json:
        return json.dumps({**about, **result.to_dict()}, allow_nan=False)
    whose = "as compiled" if about["run"] is None else f"step {about['step']} of {about['run']}"
    line = f"{about['task']} {about['split']}, {about['artifact']} {whose}: {result}"
    if result.classes is None:
        return line
    warnings = [f"warning: {text}" for text in result.classes.warnings]
    return "\n".join([line, "", str(result.classes), *warnings])

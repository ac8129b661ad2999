"""zofx bisect: the step of a run after which a metric fell."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zofx.cli.console import Progress, columns, say
from zofx.cli.options import Device, Json, Runtime, Threads, add_command

if TYPE_CHECKING:
    from zofx.runs.bisection import Fall


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "bisect", bisect)


def bisect(  # noqa: PLR0913  a verb has many options
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run.")],
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", metavar="NAME|FILE", help="The run's own, if absent."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="accuracy, macro-f1, f1 or loss; what the run selects by, if absent.",
        ),
    ] = None,
    good: Annotated[
        int | None,
        typer.Option("--good", min=0, metavar="N", help="A step before the fall; the best on dev."),
    ] = None,
    bad: Annotated[
        int | None, typer.Option("--bad", min=1, metavar="N", help="A step after it; the last.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="X", help="What it falls below; the middle of both."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="dev, test or train.")
    ] = "dev",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many examples.")
    ] = None,
    runtime: Runtime = None,
    device: Device = None,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Find the step after which a metric fell: of this task, or of another one.

    Every θ of a run can be replayed, so nothing has to have been evaluated on the way. A run of
    1,000 steps takes twelve evaluations. A metric that goes up and down may fall more than once:
    one of these places is found. Accuracies differ by chance: their intervals are what --limit
    makes them.

    Examples:
        zofx bisect run --task boolq --limit 200
        zofx bisect run --metric loss --good 100 --bad 350
    """
    from zofx.api.inference import Question, Source, judge
    from zofx.api.run import load_run
    from zofx.runs.bisection import bisect as search
    from zofx.tasks.selection import TaskChoice

    opened = load_run(run)
    by = metric or (opened.config.evaluation.select_by if task is None else None)
    choice = opened.config.task if task is None else TaskChoice(task)
    question = Question(choice, split=split, limit=limit, of_run=task is None)

    def measure(step: int) -> float:
        source = Source.of(
            opened.artifact.model, opened.folder, step, runtime, device, threads, say
        )
        with Progress(f"step {step}") as bar:
            value = judge(source, question, progress=bar).evaluation.rank(by)[0]
        say(f"step {step}: {_value(by, value)}")
        return value

    first = (opened.best_step or 0) if good is None else good
    limit_ = None if threshold is None else (-threshold if by == "loss" else threshold)
    fall = search(measure, first, opened.steps if bad is None else bad, limit_)
    print(_json(fall, by) if json_ else _text(fall, by))


def _value(by: str | None, value: float) -> str:
    return f"loss {-value:.4f}" if by == "loss" else f"{by or 'metric'} {value:.3f}"


def _text(fall: "Fall", by: str | None) -> str:
    rows = [(f"step {step}", _value(by, value)) for step, value in fall.values.items()]
    return "\n".join(
        [
            columns([("after", "measured"), *rows]),
            "",
            f"it fell below {_value(by, fall.threshold)} with step {fall.bad}: after {fall.good} "
            "steps it was still there",
        ]
    )


def _json(fall: "Fall", by: str | None) -> str:
    sign = -1 if by == "loss" else 1
    return json.dumps(
        {
            "metric": by, "threshold": sign * fall.threshold, "good": fall.good, "bad": fall.bad,
            "values": [{"step": step, "value": sign * v} for step, v in fall.values.items()],
        }
    )  # fmt: skip

"""zofx runs: the runs in a folder, each in a line."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zofx.cli.console import columns
from zofx.cli.options import Json, add_command

if TYPE_CHECKING:
    from zofx.runs.evaluation import Evaluation
    from zofx.runs.listing import RunRow


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "runs", runs)


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to look; runs/ if absent.")
    ] = Path("runs"),
    json_: Json = False,
) -> None:
    """List the runs in a folder: what they are, how far they came, and what they reached on dev.

    A run is finished, stopped before its last step, running in another process, or damaged. The
    best evaluation is by what the run selects by; the interval is Wilson's, at 95 %.

    Examples:
        zofx runs
        zofx runs experiments --json
    """
    from zofx.runs.listing import runs_in

    rows = runs_in(folder)
    if json_:
        print(json.dumps([row.to_dict() for row in rows], ensure_ascii=False))
    elif rows:
        head = ("run", "state", "steps", "task", "method", "best", "on dev", "last", "settings")
        print(columns([head, *map(_line, rows)]))
    else:
        print(f"there are no runs in {folder}")


def _line(row: "RunRow") -> tuple[str, ...]:
    if row.state == "damaged":
        return (row.path, row.state, "", "", "", "", row.reason, "", "")
    best = "" if row.best_step is None else f"step {row.best_step}"
    return (
        row.path, row.state, f"{row.steps} of {row.wanted}", row.task, row.method, best,
        _result(row.best), _result(row.last), row.settings,
    )  # fmt: skip


def _result(evaluation: "Evaluation | None") -> str:
    """The accuracy with its interval; the loss where there is none."""
    if evaluation is None:
        return ""
    if evaluation.accuracy:
        return str(evaluation.accuracy)
    return f"{evaluation.objective} {evaluation.loss:.4f}"

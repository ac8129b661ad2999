"""zofx tune: train an artifact on a task."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.completion import names_of
from zofx.cli.console import Progress, RunProgress, interruptible
from zofx.cli.options import Artifact, Json, add_command, takes
from zofx.runs.run_config import OPTIONS

if TYPE_CHECKING:
    from zofx.runs.tune import Outcome


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "tune", tune)


@takes(OPTIONS)
def tune(  # noqa: PLR0913  a verb has many options
    artifact: Artifact,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="RUN", help="Run folder; runs/… if absent."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="RUN[@best|last|N]", help="Start from the result of this run."
        ),
    ] = None,
    *,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", min=1, metavar="N", help="End after N evaluations without a better one."
        ),
    ] = None,
    preflight: Annotated[
        bool, typer.Option("--preflight/--no-preflight", help="Measure ± gap and round-off first.")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict-preflight", help="Do not train where the gap is lost.")
    ] = False,
    on_collapse: Annotated[
        str,
        typer.Option(
            "--on-collapse",
            metavar="go|stop|rewind",
            help="When every dev answer is one class, or the loss diverges: report it, end the "
            "run, or end it at its best step on dev.",
        ),
    ] = "go",
    cache: Annotated[
        str | None,
        typer.Option(
            "--activation-cache",
            metavar="DIR",
            help="Where layers below the first that trains leave their results "
            "(`zofx compile --train-from-layer`): RUN/activations if absent, or none. Runs may "
            "share one.",
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option("--activation-limit", min=0, metavar="GB", help="Of that folder.")
    ] = 16,
    report_to: Annotated[
        str | None,
        typer.Option(
            "--report-to",
            metavar="NAME,…",
            help="Trackers that follow the run: csv, tensorboard, trackio, wandb.",
            autocompletion=names_of("tracker"),
        ),
    ] = None,
    json_: Json = False,
    **options: Any,
) -> None:
    """Train an artifact on a task, with forward passes only.

    Every step is in RUN/journal.bin before it counts: stop with Ctrl-C or kill it, and --resume
    goes on as if nothing had happened. What --lr and the others default to is the method's
    (`zofx explain METHOD`).

    --from begins a new run with the weights that another run of this artifact reached, on its task
    unless --task names one, and with settings of its own. --patience ends a run early; --resume
    goes on with it all the same.

    A pre-flight of at most eight steps' time measures whether the probes stand clear of round-off;
    it is remembered in ART.preflight.jsonl. While the run goes, a guard reports a collapse to one
    class, a loss that diverges, probes that differ by round-off alone, and a learning rate that is
    too small or too large, at the step where it shows.

    Examples:
        zofx tune art --task trec --steps 2000 --schedule constant -o run
        zofx tune art --task my-task.jsonl --runtime torch
        zofx tune art --resume run --steps 4000
        zofx tune art --from run@best --lr 1e-7 --patience 5 -o second
    """
    from zofx.api.training import Procedure, origin_of, trained

    procedure = Procedure(
        out, resume, preflight, strict, on_collapse, cache, limit,
        tuple((report_to or '').replace(',', ' ').split()),
        None if from_ is None else origin_of(from_), patience,
    )  # fmt: skip
    with interruptible() as stop, Progress("tune") as bar:
        outcome = trained(artifact, options, procedure, [RunProgress(bar)], stop=stop)
    print(json.dumps(_summary(outcome), allow_nan=False) if json_ else _ending(artifact, outcome))
    if outcome.interrupted:
        raise typer.Exit(stop.exit_code)


def _ending(artifact: Path, outcome: "Outcome") -> str:
    run, best = outcome.run.path, outcome.best
    lines = [f"{run}: {outcome.steps} of {outcome.wanted} steps"]
    if best is not None:
        by = outcome.run.config.evaluation.select_by
        rule = f" by {by}" if by else ""
        lines.append(f"best on dev{rule}: step {best}, {outcome.evaluations[best]}")
        classes = outcome.evaluations[best].classes
        lines += [] if classes is None else [f"warning: {text}" for text in classes.warnings]
    if outcome.out_of_patience:
        lines.append(f"ended early: no evaluation after step {best} was better (--patience)")
    if outcome.interrupted:
        lines.append(f"to go on: zofx tune {_quoted(artifact)} --resume {_quoted(run)}")
    else:
        lines.append(f"next: zofx eval {_quoted(artifact)} --run {_quoted(run)}")
    return "\n".join(lines)


def _summary(outcome: "Outcome") -> dict[str, Any]:
    """The ending for programs."""
    evaluations = {step: result.to_dict() for step, result in outcome.evaluations.items()}
    return {
        "run": str(outcome.run.path), "steps": outcome.steps, "steps_wanted": outcome.wanted,
        "select_by": outcome.run.config.evaluation.select_by, "best_step": outcome.best,
        "evaluations": [{"step": step, **fields} for step, fields in evaluations.items()],
        "findings": [asdict(finding) for finding in outcome.findings],
    }  # fmt: skip


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))

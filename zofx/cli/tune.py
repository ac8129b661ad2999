"""zofx tune: train an artifact on a task."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import Progress, RunProgress, interruptible, say
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
)
from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.runs.prepare import Prepared
    from zofx.runs.tune import Outcome
    from zofx.runtimes.host.activation_cache import ActivationCache
    from zofx.session import Session

INTERRUPTED = 130
NONE = "none"


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "tune", tune)


def tune(  # noqa: PLR0913  a verb has many options
    artifact: Artifact,
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", metavar="NAME|FILE.jsonl", help="What to train on."),
    ] = None,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="RUN", help="Run folder; runs/… if absent."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")
    ] = None,
    runtime: Runtime = None,
    device: Device = None,
    threads: Threads = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, metavar="N")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, metavar="B", help="Examples per step.")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate at its peak.")] = None,
    eps: Annotated[
        float | None, typer.Option("--eps", help="Distance of a probe, in units of z.")
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, metavar="Q", help="Directions per step.")
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option("--estimator", metavar="NAME", help="two-point, one-sided or curved."),
    ] = None,
    rays: Annotated[
        str | None,
        typer.Option(
            "--rays", metavar="RULES", help="On projected gradients: 'clip(100) > sign()', or ''."
        ),
    ] = None,
    tensors: Annotated[
        str | None,
        typer.Option(
            "--tensors", metavar="RULES", help="On the gradient: 'momentum(0.9)', 'adam()', or ''."
        ),
    ] = None,
    exact_lr: Annotated[
        float | None,
        typer.Option("--exact-lr", help="Rate of exact gradients beside probes; else it is --lr."),
    ] = None,
    exact_rule: Annotated[
        str | None,
        typer.Option(
            "--exact-rule", metavar="RULES", help="On exact gradients: 'adam()', 'momentum(0.9)'."
        ),
    ] = None,
    refresh: Annotated[
        int | None,
        typer.Option("--refresh", min=0, metavar="N", help="Steps between low-rank bases."),
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="SHAPE", help="constant, linear or cosine.")
    ] = None,
    seed: Seed = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="NAME",
            help="cross-entropy, likelihood, error-rate or f1; "
            "reward:FILE.py:FUNCTION runs your file FILE.py.",
        ),
    ] = None,
    train: Annotated[
        int | None, typer.Option("--train", min=1, metavar="N", help="Examples to train on.")
    ] = None,
    dev: Annotated[
        int | None, typer.Option("--dev", min=0, metavar="N", help="Examples to choose by.")
    ] = None,
    eval_every: Annotated[
        int | None, typer.Option("--eval-every", min=1, metavar="N", help="Steps; a fifth of all.")
    ] = None,
    eval_size: Annotated[
        int | None,
        typer.Option("--eval-size", min=0, metavar="N", help="At most so many of dev."),
    ] = None,
    select_by: Annotated[
        str | None,
        typer.Option(
            "--select-by",
            metavar="METRIC",
            help="What the best on dev is: macro-f1 (default for classes), accuracy, loss or f1.",
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Train on every class equally often.")
    ] = False,
    truncate: Truncate = False,
    preflight: Annotated[
        bool, typer.Option("--preflight/--no-preflight", help="Measure ± gap and round-off first.")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict-preflight", help="Do not train where the gap is lost.")
    ] = False,
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
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write RUN/tensorboard too.")
    ] = False,
    json_: Json = False,
) -> None:
    """Train an artifact on a task, with forward passes only.

    Every step is in RUN/journal.bin before it counts: stop with Ctrl-C or kill it, and --resume
    goes on as if nothing had happened. What --lr and the others default to is the method's
    (`zofx explain METHOD`).

    Examples:
        zofx tune art --task trec --steps 2000 --schedule constant -o run
        zofx tune art --task my-task.jsonl --runtime torch
        zofx tune art --resume run --steps 4000
    """
    from zofx.runs.metrics_log import require_tensorboard
    from zofx.runs.prepare import Request, prepare, prepare_resumed
    from zofx.runs.run_folder import ACTIVATIONS
    from zofx.runs.tune import start
    from zofx.runs.tune import train as train_

    request = Request(
        task=task, data=data, seed=seed, train=train, dev=dev, truncate=truncate or None,
        balance=balance or None, objective=objective, select_by=select_by,
        eval_every=eval_every, eval_size=eval_size,
        runtime=runtime, device=device, threads=threads,
        settings={
            "steps": steps, "batch_size": batch_size, "lr": lr, "eps": eps, "queries": queries,
            "schedule": schedule, "estimator": estimator, "rays": rays, "tensors": tensors,
            "refresh": refresh, "exact_lr": exact_lr, "exact_rule": exact_rule,
        },
    )  # fmt: skip
    if tensorboard:
        require_tensorboard()
    if resume is not None and out is not None:
        raise UsageError("-o makes a new run and --resume goes on with one: give one of the two")
    if resume is not None:
        prepared = prepare_resumed(artifact, resume, request)
    else:
        prepared = prepare(artifact, request)
        out = _new_folder(out, artifact, prepared)
    kept = None if cache is None else _activations(cache, limit, prepared)
    say(_announcement(prepared))
    session = prepared.session()
    try:
        if out is not None:
            if preflight:
                _preflight(prepared, session, strict)
            prepared = start(prepared, out)
        if cache is None and prepared.run is not None:
            kept = _activations(str(prepared.run.path / ACTIVATIONS), limit, prepared)
        with interruptible() as stop, Progress("tune") as bar:
            observers = [RunProgress(bar, prepared.steps), *_tensorboard(tensorboard, prepared)]
            outcome = train_(prepared, session, observers, stop, kept)
    finally:
        session.close()
    if kept is not None and kept.disabled_reason is not None:
        say(f"{kept.disabled_reason}: rows that are not there were computed every time")
    print(json.dumps(_summary(outcome), allow_nan=False) if json_ else _ending(artifact, outcome))
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


def _new_folder(out: Path | None, artifact: Path, prepared: "Prepared") -> Path:
    from zofx.runs.run_folder import require_free

    plan = prepared.plan
    name = f"{artifact.resolve().name}-{prepared.workload.task.name}-seed{plan.choice.seed}"
    chosen = out or Path("runs") / name
    require_free(chosen)
    return chosen


def _activations(folder: str, gigabytes: float, prepared: "Prepared") -> "ActivationCache | None":
    """Where what is below the cut is kept; None where nothing is."""
    if folder == NONE or not prepared.model.manifest.cut:
        return None
    from zofx.runtimes.host.activation_cache import ActivationCache

    return ActivationCache(Path(folder), round(gigabytes * 1e9))


def _announcement(prepared: "Prepared") -> str:
    plan = prepared.plan
    return (
        f"task {prepared.workload.task.name}: {plan.drawn['train']} examples to train on, "
        f"{plan.eval_size} of {plan.drawn['dev']} dev examples every {plan.eval_every} steps\n"
        f"settings: {plan.settings}, seed={plan.choice.seed}, objective={plan.objective}\n"
        f"loading {plan.folder} on {plan.runtime} ({plan.device}), every file checked"
    )


def _preflight(prepared: "Prepared", session: "Session", strict: bool) -> None:
    from zofx.runs.tune import measure

    say("pre-flight: measuring the ± gap and the round-off of this graph")
    found = measure(prepared, session)
    if found is None:
        say("pre-flight: nothing to measure here: no ± gap, or losses of text that jump")
        return
    if strict and found.verdict == "below-noise":
        raise UsageError(f"--strict-preflight: {found}")
    say(f"pre-flight: {found}")


def _tensorboard(asked: bool, prepared: "Prepared") -> list[Any]:
    if not asked or prepared.run is None:
        return []
    from zofx.runs.metrics_log import TensorBoardLog
    from zofx.runs.run_folder import TENSORBOARD

    return [TensorBoardLog(prepared.run.path / TENSORBOARD)]


def _ending(artifact: Path, outcome: "Outcome") -> str:
    run, best = outcome.run.path, outcome.best
    lines = [f"{run}: {outcome.steps} of {outcome.wanted} steps"]
    if best is not None:
        by = outcome.run.plan.select_by
        rule = f" by {by}" if by else ""
        lines.append(f"best on dev{rule}: step {best}, {outcome.evaluations[best]}")
        classes = outcome.evaluations[best].classes
        lines += [] if classes is None else [f"warning: {text}" for text in classes.warnings]
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
        "select_by": outcome.run.plan.select_by, "best_step": outcome.best,
        "evaluations": [{"step": step, **fields} for step, fields in evaluations.items()],
    }  # fmt: skip


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))

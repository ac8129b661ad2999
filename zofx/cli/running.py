"""zofx tune · zofx eval · zofx export: what is done with an artifact."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zofx.cli.options import Artifact, Data, Device, Json, Runtime, Threads, Truncate, teach
from zofx.console import Progress, RunProgress, interruptible, say
from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.evaluate import Evaluation
    from zofx.run_folder import At, RunFolder
    from zofx.tune import Outcome, Prepared
    from zofx.workload import TaskChoice, Workload

INTERRUPTED = 130

Seed = Annotated[
    int | None, typer.Option("--seed", min=0, metavar="N", help="Of data and directions; 0.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    teach(app, "tune", tune)
    teach(app, "eval", evaluate)
    teach(app, "export", export)


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
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="SHAPE", help="constant, linear or cosine.")
    ] = None,
    seed: Seed = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective", metavar="NAME", help="cross-entropy, likelihood or error-rate."
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
        int | None, typer.Option("--eval-size", min=0, metavar="N", help="At most so many of dev.")
    ] = None,
    truncate: Truncate = False,
    preflight: Annotated[
        bool, typer.Option("--preflight/--no-preflight", help="Measure ± gap and round-off first.")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict-preflight", help="Do not train where the gap is lost.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write RUN/tensorboard too.")
    ] = False,
) -> None:
    """Train an artifact on a task, with forward passes only.

    Every step is in RUN/journal.bin before it counts: stop with Ctrl-C or kill it, and --resume
    goes on as if nothing had happened. What --lr and the others default to is the method's
    (`zofx explain METHOD`).

    Examples:
        zofx tune art --task trec --steps 2000 --lr 1e-6 -o run
        zofx tune art --task my-task.jsonl --runtime torch
        zofx tune art --resume run --steps 4000
    """
    from zofx.tune import Request, prepare, prepare_resumed, start
    from zofx.tune import train as train_

    request = Request(
        task=task, data=data, seed=seed, train=train, dev=dev, truncate=truncate or None,
        objective=objective, eval_every=eval_every, eval_size=eval_size,
        runtime=runtime, device=device, threads=threads,
        settings={
            "steps": steps, "batch_size": batch_size, "lr": lr, "eps": eps, "queries": queries,
            "schedule": schedule,
        },
    )  # fmt: skip
    if resume is not None and out is not None:
        raise UsageError("-o makes a new run and --resume goes on with one: give one of the two")
    if resume is not None:
        prepared = prepare_resumed(artifact, resume, request)
    else:
        prepared = prepare(artifact, request)
        out = _new_folder(out, artifact, prepared)
    say(_announcement(prepared))
    session = prepared.session()
    try:
        if out is not None:
            if preflight:
                _preflight(prepared, session, strict)
            prepared = start(prepared, out)
        with interruptible() as stop, Progress("tune") as bar:
            observers = [RunProgress(bar, prepared.steps), *_tensorboard(tensorboard, prepared)]
            outcome = train_(prepared, session, observers, stop)
    finally:
        session.close()
    print(_ending(artifact, outcome))
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


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
        int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many examples.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="B", help="Examples per forward.")
    ] = 16,
    objective: Annotated[
        str | None, typer.Option("--objective", metavar="NAME", help="Whose loss is reported.")
    ] = None,
    seed: Seed = None,
    truncate: Truncate = False,
    json_: Json = False,
) -> None:
    """Measure how well a model, or a run, does a task.

    The test set is the same for every seed. The interval is Wilson's, at 95 %. Of a run, θ of the
    step that did best on dev is used, unless --step says otherwise.

    Examples:
        zofx eval art --task trec
        zofx eval art --run run --step last --split dev --json
    """
    from zofx.evaluate import evaluate as evaluate_
    from zofx.run_folder import RunFolder
    from zofx.workload import SPLITS, default_runtime, open_model, open_session, open_workload

    model = open_model(artifact)
    folder = None if run is None else RunFolder.open(run)
    chosen = next((name for name in SPLITS if name == split), None)
    if chosen is None:
        raise UsageError(f"--split {split}: there are {', '.join(SPLITS)}")
    theta = None if folder is None else folder.theta(artifact, model.manifest, _at(step))
    workload = open_workload(model, _choice(folder, task, data, seed, truncate))
    examples = workload.examples(chosen)[:limit]
    named = objective or (folder.plan.objective if folder and task is None else None)
    engine = runtime or (folder.plan.runtime if folder else default_runtime())
    session = open_session(model, engine, device or "cpu", threads)
    try:
        if theta is not None:
            session.write(theta[1])
        with Progress("eval") as bar:
            found = evaluate_(
                session, workload.encoder, workload.task, examples, workload.objective(named),
                batch_size=batch_size, step=theta[0] if theta else 0, progress=bar,
            )  # fmt: skip
    finally:
        session.close()
    about = {
        "artifact": str(artifact), "hash": model.manifest.hash, "method": model.manifest.method,
        "run": run and str(run), "step": theta and theta[0], "task": workload.task.name,
        "split": chosen, "runtime": engine,
    }  # fmt: skip
    print(_judged(about, found, workload, as_json=json_))


def export(
    artifact: Artifact,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="The folder to make.")],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Merge this run's slices.")
    ] = None,
    step: Annotated[
        str, typer.Option("--step", metavar="best|last|N", help="Which θ of the run.")
    ] = "best",
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="hf: Hugging Face.")] = "hf",
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16.")
    ] = "float32",
) -> None:
    """Write a merged checkpoint that transformers loads.

    The slices are added into the weights they were cut from, and what was quantized is written as
    what it stands for, so the exported model answers as the artifact does.

    Example:
        zofx export art --run run --to hf -o tuned
        python -c "from transformers import pipeline; pipeline('text-generation', 'tuned')"
    """
    from zofx import artifact as stored
    from zofx.run_folder import RunFolder

    if to != "hf":
        raise UsageError(f"--to {to}: there is no such format; there is: hf")
    if out.exists():
        raise UsageError(f"{out} exists; name a folder that does not, or remove it first")
    manifest = stored.read_manifest(artifact)
    theta = None
    if run is not None:
        taken, theta = RunFolder.open(run).theta(artifact, manifest, _at(step))
    say("loading torch and transformers")
    from zofx.export_hf import export_hf
    from zofx.merge import merged_tensors
    from zofx.tokenization import SpecialTokens

    export_hf(
        manifest.config,
        (artifact / stored.TOKENIZER).read_bytes(),
        merged_tensors(artifact, theta),
        out,
        SpecialTokens(**manifest.model["special"]),
        dtype=dtype,
    )
    whose = f"step {taken} of {run}" if theta is not None else "the model as compiled"
    print(f"{out}: {whose}, merged, {dtype}")


def _new_folder(out: Path | None, artifact: Path, prepared: "Prepared") -> Path:
    from zofx.run_folder import require_free

    plan = prepared.plan
    name = f"{artifact.resolve().name}-{prepared.workload.task.name}-seed{plan.choice.seed}"
    chosen = out or Path("runs") / name
    require_free(chosen)
    return chosen


def _announcement(prepared: "Prepared") -> str:
    plan = prepared.plan
    return (
        f"task {prepared.workload.task.name}: {plan.choice.train} examples to train on, "
        f"{plan.eval_size} of {plan.choice.dev} dev examples every {plan.eval_every} steps\n"
        f"settings: {plan.settings}, seed={plan.choice.seed}, objective={plan.objective}\n"
        f"runtime: {plan.runtime} on {plan.device}"
    )


def _preflight(prepared: "Prepared", session: Any, strict: bool) -> None:
    from zofx.tune import measure

    say("pre-flight: measuring the ± gap and the round-off of this graph")
    found = measure(prepared, session)
    if strict and found.verdict == "lost":
        raise UsageError(f"--strict-preflight: {found}")
    say(f"pre-flight: {found}")


def _tensorboard(asked: bool, prepared: "Prepared") -> list[Any]:
    if not asked or prepared.run is None:
        return []
    from zofx.metrics_log import TensorBoardLog
    from zofx.run_folder import TENSORBOARD

    return [TensorBoardLog(prepared.run.path / TENSORBOARD)]


def _ending(artifact: Path, outcome: "Outcome") -> str:
    run, best = outcome.run.path, outcome.best
    said = [f"{run}: {outcome.steps} of {outcome.wanted} steps"]
    if best is not None:
        said.append(f"best on dev: step {best}, {outcome.evaluations[best]}")
    if outcome.interrupted:
        said.append(f"to go on: zofx tune {_quoted(artifact)} --resume {_quoted(run)}")
    else:
        said.append(f"next: zofx eval {_quoted(artifact)} --run {_quoted(run)}")
    return "\n".join(said)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _at(step: str) -> "At":
    words: dict[str, Literal["best", "last"]] = {"best": "best", "last": "last"}
    if step in words:
        return words[step]
    if step.isdecimal():
        return int(step)
    raise UsageError(f"--step {step}: give best, last, or how many steps were made")


def _choice(
    folder: "RunFolder | None",
    task: str | None,
    data: str | None,
    seed: int | None,
    truncate: bool,
) -> "TaskChoice":
    """The run's own examples, unless another task is named."""
    from dataclasses import replace

    from zofx.workload import TaskChoice

    if task is not None:
        return TaskChoice(task, data, seed or 0, truncate=truncate)
    if folder is None:
        raise UsageError("name a task: `--task NAME` or `--task FILE.jsonl` (`zofx list tasks`)")
    own = folder.plan.choice
    return replace(own, data=data or own.data, truncate=truncate or own.truncate)


def _judged(
    about: dict[str, Any], found: "Evaluation", workload: "Workload", *, as_json: bool
) -> str:
    from zofx.evaluate import NO_GENERATION

    note = NO_GENERATION if found.accuracy is None else None
    if as_json:
        return json.dumps({**about, **found.to_dict(), "note": note}, allow_nan=False)
    whose = "as compiled" if about["run"] is None else f"step {about['step']} of {about['run']}"
    said = f"{about['task']} {about['split']}, {about['artifact']} {whose}: {found}"
    return f"{said}\n{note}" if note else said

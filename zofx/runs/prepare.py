"""What a run will be: a request checked against the artifact, the task and, on resuming, the run.

    Request ──new────▶ Prepared: model, examples, Plan, how many steps
            ──resume─▶ Prepared of the recorded Plan, or a refusal that names every difference

Nothing is written and no engine is loaded here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from zofx.artifact.manifest import Manifest
from zofx.errors import ArtifactError, UsageError
from zofx.ir.pipeline_syntax import name_of, passes_of
from zofx.runs.compiled_model import Model, default_runtime, open_model, open_session
from zofx.runs.evaluation import selection
from zofx.runs.run_config import Plan, packages
from zofx.runs.run_folder import RunFolder
from zofx.runs.task_data import Workload, open_workload
from zofx.session import Session
from zofx.tasks.class_report import classes_of
from zofx.tasks.data.order import balanced_indices, batch_indices
from zofx.tasks.encode import Encoded
from zofx.tasks.selection import TaskChoice
from zofx.zo.settings import Settings
from zofx.zo.types import IntArray

FORWARD_MODE: Final = "forward-mode"
"""The pass whose programs give slopes."""

EVALUATIONS: Final = 5
"""How many a run makes after its start, unless told otherwise."""


@dataclass(frozen=True)
class Request:
    """What a caller asks of `tune`; None leaves it to the method, the task or the resumed run.

    Attributes:
        task: a name or a .jsonl file.
        data: a folder of files in the task's schema.
        seed: of the run: data order, draw of train and dev, directions.
        train: examples to train on.
        dev: examples to evaluate on.
        truncate: cut prompts that are longer than the model's positions.
        balance: take every class equally often.
        objective: what is minimised.
        select_by: what "best on dev" means.
        settings: fields of `Settings` by name.
        eval_every: steps between evaluations.
        eval_size: dev examples per evaluation.
        runtime: by name.
        device: of the runtime.
        threads: of the runtime.
    """

    task: str | None = None
    data: str | None = None
    seed: int | None = None
    train: int | None = None
    dev: int | None = None
    truncate: bool | None = None
    balance: bool | None = None
    objective: str | None = None
    select_by: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    eval_every: int | None = None
    eval_size: int | None = None
    runtime: str | None = None
    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A run that was found to be possible; nothing is written yet.

    Attributes:
        model: to train.
        workload: what on.
        plan: the run.
        steps: when to stop; a resumed run may have been given more than the plan's.
        run: the folder of a resumed run; None for a new one.
    """

    model: Model
    workload: Workload
    plan: Plan
    steps: int
    run: RunFolder | None = None

    def batch(self, cursor: int) -> Encoded:
        """The examples of the run from the cursor on."""
        train = self.workload.splits.train
        indices = self._indices(cursor)
        objective = self.workload.objective(self.plan.objective)
        return self.workload.encoder.encode(
            [train[i] for i in indices], gold_only=objective.gold_only, relative=objective.relative
        )

    def _indices(self, cursor: int) -> IntArray:
        """Places in the training set, i64[batch_size]."""
        choice, size = self.plan.choice, self.plan.settings.batch_size
        train = self.workload.splits.train
        if not choice.balance:
            return batch_indices(choice.seed, cursor, size, len(train))
        classes = np.array([example.answer for example in train], dtype=np.int64)
        return balanced_indices(choice.seed, cursor, size, classes)

    def session(self) -> Session:
        """The artifact on the plan's runtime, at its initial θ."""
        rows = self.workload.rows(self.plan.settings.batch_size)
        plan = self.plan
        return open_session(self.model, plan.runtime, plan.device, plan.threads, rows)


def prepare(artifact: Path, request: Request) -> Prepared:
    """Check everything about a new run.

    Raises:
        ZofxError: the first thing that is wrong, with what to do.
    """
    model = open_model(artifact)
    if request.task is None:
        raise UsageError("name a task: `--task NAME` or `--task FILE.jsonl` (`zofx list tasks`)")
    name = str(Path(request.task).resolve()) if request.task.endswith(".jsonl") else request.task
    asked = TaskChoice(
        name=name,
        data=None if request.data is None else str(Path(request.data).resolve()),
        seed=request.seed or 0,
        train=request.train,
        dev=request.dev,
        truncate=bool(request.truncate),
        balance=bool(request.balance),
    )
    workload = open_workload(model, asked)
    workload.examples("train")
    _require_classes(workload, asked)
    workload.check("train", "dev")
    own = Settings.from_mapping(model.manifest.recipe)
    settings = own.with_given(**request.settings).fitted(model.manifest.noise)
    _require_fit(model.manifest, settings)
    objective = workload.objective(request.objective).name
    dev = workload.splits.dev[: request.eval_size]
    plan = Plan(
        artifact=model.manifest.hash,
        folder=str(artifact.resolve()),
        choice=asked,
        drawn=workload.drawn,
        examples=workload.digest,
        objective=objective,
        settings=settings,
        eval_every=request.eval_every or max(1, settings.steps // EVALUATIONS),
        eval_size=len(dev),
        runtime=request.runtime or default_runtime(),
        device=request.device or "cpu",
        threads=request.threads,
        versions=packages(),
        select_by=selection(workload.task.kind, objective, dev, request.select_by),
    )
    plan.header  # noqa: B018  what is wrong with the settings shows here
    return Prepared(model, workload, plan, settings.steps)


def _require_classes(workload: Workload, choice: TaskChoice) -> None:
    """Balancing takes classes.

    Raises:
        UsageError: the examples share none.
    """
    if choice.balance and classes_of(workload.splits.train) is None:
        raise UsageError(
            f"--balance: the examples of task '{workload.task.name}' do not share one set of "
            "candidates, so there are no classes to balance; leave it out"
        )


def _require_fit(manifest: Manifest, settings: Settings) -> None:
    """The estimator asks for what the compiled program computes."""
    if bool(manifest.trainables) == (settings.estimator == "exact"):
        raise UsageError(
            f"--estimator {settings.estimator}: "
            + (
                f"{len(manifest.trainables)} tensors of this artifact train by probes"
                if manifest.trainables
                else "every tensor of this artifact trains by its exact gradient, without probes"
            )
            + "; leave --estimator out, or compile with another --exact-layers"
        )
    slopes = FORWARD_MODE in map(name_of, passes_of(manifest.pipeline))
    if slopes != (settings.estimator == "forward-gradient"):
        raise UsageError(
            f"--estimator {settings.estimator}: this artifact was compiled "
            + ("in forward mode, which gives slopes" if slopes else "for probes, not forward mode")
            + "; leave --estimator out, or compile with the method that goes with it"
        )


def prepare_resumed(artifact: Path, folder: Path, request: Request) -> Prepared:
    """Check everything about going on with a run.

    Raises:
        UsageError: the artifact is another one, or something is asked that the run does not have.
        ArtifactError: the run or its data have changed.
    """
    run, model = RunFolder.open(folder), open_model(artifact)
    run.require_artifact(model.manifest)
    workload = open_workload(model, run.plan.choice)
    if workload.digest != run.plan.examples:
        raise ArtifactError(
            f"the examples of task '{run.plan.choice.name}' have changed since {folder} was "
            "started; restore the data it was started with, or start a new run"
        )
    _require_same(run, request, workload)
    done, plan = run.journal().next_step, run.plan
    steps = request.settings.get("steps") or max(plan.settings.steps, done)
    if steps > plan.settings.steps and plan.settings.schedule != "constant":
        raise UsageError(
            f"--steps {steps}: the run's {plan.settings.schedule} schedule ends at step "
            f"{plan.settings.steps}, where the learning rate is 0; only a constant schedule can go "
            "on for longer. Start a new run for more steps"
        )
    if steps < done:
        raise UsageError(f"--steps {steps}: {folder} has made {done} steps already")
    engine = {
        name: getattr(request, name)
        for name in ("runtime", "device", "threads")
        if getattr(request, name) is not None
    }
    return Prepared(model, workload, replace(plan, **engine), steps, run)


def _require_same(run: RunFolder, request: Request, workload: Workload) -> None:
    """What is asked again must be what the run has; only how many steps may differ."""
    choice, plan, task = run.plan.choice, run.plan, workload.task
    sizes = choice.sizes(task)
    has: dict[str, Any] = {
        **asdict(plan.settings),
        **asdict(choice),
        "task": choice.name,
        "train": sizes.train,
        "dev": sizes.dev,
        "objective": plan.objective,
        "eval_every": plan.eval_every,
        "eval_size": plan.eval_size,
        "select_by": plan.select_by,
    }
    asked = {**vars(request), **request.settings, "steps": None}
    asked |= {name: _absolute(asked[name], has[name]) for name in ("task", "data")}
    if request.objective is not None:
        asked["objective"] = workload.objective(request.objective).name
    if request.eval_size is not None:
        asked["eval_size"] = min(request.eval_size, plan.drawn["dev"])
    differing = [
        f"--{name.replace('_', '-')} {asked[name]} (the run has {value})"
        for name, value in has.items()
        if asked.get(name) not in (None, value)
    ]
    if differing:
        raise UsageError(
            f"{run.path} cannot go on with {', '.join(differing)}: a resumed run is the same run. "
            "Leave these out, or start a new run with -o"
        )


def _absolute(asked: str | None, recorded: str | None) -> str | None:
    """A path as runs record it, where a path is what was asked."""
    return asked if asked is None or asked == recorded else str(Path(asked).resolve())

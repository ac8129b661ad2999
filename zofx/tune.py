"""The verb: train an artifact's slices on a task.

    new run    model, task, settings ──checks──▶ Plan ──pre-flight──▶ run folder ─┐
    resume     run folder ──────checks─────────▶ Plan ────────────────────────────┤
                                                                                  ▼
    journal ──fold──▶ θ ──┬─▶ every E steps: evaluate on dev, keep the best
                          └─▶ batch(seed, cursor) ──▶ probes ──▶ losses ──▶ journal ──▶ θ'

A new run is a resumed one with an empty journal, so an interrupted run and an uninterrupted one do
the same. All that can be wrong with the input is found before the folder is made.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from zofx.errors import ArtifactError, DivergenceError, UsageError
from zofx.evaluate import Evaluation, evaluate
from zofx.methods import Settings
from zofx.metrics_log import JsonlLog, Observer, StepMetrics, peak_memory
from zofx.run_folder import RunFolder, require_free
from zofx.run_plan import Plan, packages
from zofx.runtime import Session
from zofx.tasks import Encoded, batch_indices
from zofx.workload import (
    Model,
    TaskChoice,
    Workload,
    default_runtime,
    open_model,
    open_session,
    open_workload,
)
from zofx.zo import Driver, Journal, JournalWriter, Preflight, preflight

EVALUATIONS: Final = 5
"""How many a run makes after its start, unless told otherwise."""

Stop: TypeAlias = Callable[[], bool]


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
        objective: what is minimised.
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
    objective: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    eval_every: int | None = None
    eval_size: int | None = None
    runtime: str | None = None
    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a call of `tune` ended.

    Attributes:
        run: the folder.
        steps: how many steps the run has made.
        wanted: how many it was to make.
        evaluations: step → evaluation on dev.
        best: the step that did best on dev; None without dev examples.
    """

    run: RunFolder
    steps: int
    wanted: int
    evaluations: Mapping[int, Evaluation]
    best: int | None

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before the last step."""
        return self.steps < self.wanted


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
        size, train = self.plan.settings.batch_size, self.workload.splits.train
        indices = batch_indices(self.plan.choice.seed, cursor, size, len(train))
        gold_only = self.workload.objective(self.plan.objective).gold_only
        return self.workload.encoder.encode([train[i] for i in indices], gold_only=gold_only)

    def session(self) -> Session:
        """The artifact on the plan's runtime, at its initial θ."""
        return open_session(self.model, self.plan.runtime, self.plan.device, self.plan.threads)


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
    )
    workload = open_workload(model, asked)
    workload.examples("train")
    workload.check("train", "dev")
    settings = Settings.from_mapping(model.manifest.recipe).with_given(**request.settings)
    splits = workload.splits
    plan = Plan(
        artifact=model.manifest.hash,
        folder=str(artifact.resolve()),
        choice=replace(asked, train=len(splits.train), dev=len(splits.dev), test=len(splits.test)),
        examples=workload.digest,
        objective=workload.objective(request.objective).name,
        settings=settings,
        eval_every=request.eval_every or max(1, settings.steps // EVALUATIONS),
        eval_size=len(splits.dev[: request.eval_size]),
        runtime=request.runtime or default_runtime(),
        device=request.device or "cpu",
        threads=request.threads,
        versions=packages(),
    )
    plan.header  # noqa: B018  what is wrong with the settings shows here
    return Prepared(model, workload, plan, settings.steps)


def prepare_resumed(artifact: Path, folder: Path, request: Request) -> Prepared:
    """Check everything about going on with a run.

    Raises:
        UsageError: the artifact is another one, or something is asked that the run does not have.
        ArtifactError: the run or its data have changed.
    """
    run, model = RunFolder.open(folder), open_model(artifact)
    run.require_artifact(model.manifest)
    _require_same(run, request)
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
    workload = open_workload(model, plan.choice)
    if workload.digest != plan.examples:
        raise ArtifactError(
            f"the examples of task '{plan.choice.name}' have changed since {folder} was started; "
            "restore the data it was started with, or start a new run"
        )
    engine = {
        name: getattr(request, name)
        for name in ("runtime", "device", "threads")
        if getattr(request, name) is not None
    }
    return Prepared(model, workload, replace(plan, **engine), steps, run)


def _require_same(run: RunFolder, request: Request) -> None:
    """What is asked again must be what the run has; how many steps may differ."""
    choice, plan = run.plan.choice, run.plan
    has: dict[str, Any] = {
        **asdict(choice),
        **asdict(plan.settings),
        "task": choice.name,
        "objective": plan.objective,
        "eval_every": plan.eval_every,
        "eval_size": plan.eval_size,
    }
    asked = {name: value for name, value in vars(request).items() if name in has}
    asked |= {name: value for name, value in request.settings.items() if name != "steps"}
    for name in {"task", "data"} & asked.keys():
        if asked[name] is not None and asked[name] != has[name]:
            asked[name] = str(Path(asked[name]).resolve())
    differing = [
        f"--{name.replace('_', '-')} {value} (the run has {has[name]})"
        for name, value in asked.items()
        if value is not None and value != has[name]
    ]
    if differing:
        raise UsageError(
            f"{run.path} cannot go on with {', '.join(differing)}: a resumed run is the same run. "
            "Leave these out, or start a new run with -o"
        )


def measure(prepared: Prepared, session: Session) -> Preflight:
    """The pre-flight on the first batch of the run; θ is not moved.

    Raises:
        DivergenceError: the losses near the start are not finite.
    """
    encoded, settings = prepared.batch(0), prepared.plan.settings
    objective = prepared.workload.objective(prepared.plan.objective)
    with np.errstate(all="ignore"):  # what is not finite is refused below, with a message
        found = preflight(
            session, encoded.batch, objective.on(encoded), settings.eps, prepared.plan.choice.seed
        )
    if not np.isfinite([found.gap, found.noise]).all():
        raise DivergenceError(
            f"the loss is not finite at or near the initial weights (eps {settings.eps:g}); lower "
            "--eps, and check with `zofx eval` that the compiled model answers at all",
            0,
        )
    return found


def start(prepared: Prepared, out: Path) -> Prepared:
    """Make the folder of a new run.

    Raises:
        UsageError: the name is taken.
    """
    require_free(out)
    return replace(prepared, run=RunFolder.create(out, prepared.plan))


def train(
    prepared: Prepared,
    session: Session,
    observers: Sequence[Observer] = (),
    stop: Stop = lambda: False,
) -> Outcome:
    """Make the steps that are missing, from wherever the journal ends.

    Args:
        prepared: with a folder.
        session: fresh, at the artifact's initial θ.
        observers: told of every step and evaluation.
        stop: asked between steps and between the batches of an evaluation.

    Raises:
        DivergenceError: the loss is not finite or has collapsed; says how to go back.
    """
    run = prepared.run
    assert run is not None, "start() or prepare_resumed() first"
    with run.locked():
        run.journal()
        writer, journal = JournalWriter.resume(run.journal_path)
        with writer:
            told = (JsonlLog(run.metrics_path), *observers)
            loop = _Loop(prepared, run, session, writer, told, stop)
            try:
                steps = loop.go(journal)
            except DivergenceError as error:
                raise DivergenceError(
                    f"{error}\n{_way_back(run, error.step)}", error.step
                ) from error
            finally:
                for observer in observers:
                    observer.close()
    return Outcome(run, steps, prepared.steps, run.evaluations(), run.best())


class _Loop:
    """The steps of one call of `train`."""

    def __init__(
        self,
        prepared: Prepared,
        run: RunFolder,
        session: Session,
        writer: JournalWriter,
        observers: tuple[Observer, ...],
        stop: Stop,
    ) -> None:
        plan = prepared.plan
        self.prepared, self.run, self.session = prepared, run, session
        self.observers, self.stop = observers, stop
        self.objective = prepared.workload.objective(plan.objective)
        self.driver = Driver(plan.settings.recipe(), session, plan.choice.seed, writer)
        self.dev = prepared.workload.splits.dev[: plan.eval_size]

    def go(self, journal: Journal) -> int:
        """Make steps until there are enough, or until told to stop; returns how many there are."""
        step = self.driver.resume(journal)
        self.run.trim(step)
        evaluated = set(self.run.evaluations())
        while not self.stop():
            if self._due(step) and step not in evaluated:
                self._evaluate(step)
            if step >= self.prepared.steps or self.stop():
                break
            self._step(step)
            step += 1
        self.run.save_snapshot("last", self.session.read(), step)
        return step

    def _due(self, step: int) -> bool:
        ends = step == self.prepared.steps
        return bool(self.dev) and (ends or step % self.prepared.plan.eval_every == 0)

    def _step(self, step: int) -> None:
        began = time.perf_counter()
        cursor = step * self.prepared.plan.settings.batch_size
        encoded = self.prepared.batch(cursor)
        after = cursor + self.prepared.plan.settings.batch_size
        log = self.driver.step(step, encoded.batch, self.objective.on(encoded), after)
        seconds = time.perf_counter() - began
        tokens = int(encoded.batch.attention_mask.sum())
        metrics = StepMetrics(
            step, log.loss, log.learning_rate, seconds, tokens, tokens / seconds, peak_memory()
        )
        for observer in self.observers:
            observer.step(metrics)

    def _evaluate(self, step: int) -> None:
        found = self._judge(step)
        if found is None:
            return
        best = self.run.best()
        self.run.add_evaluation(step, found)
        if best is None or found.rank > self.run.evaluations()[best].rank:
            self.run.save_snapshot("best", self.session.read(), step)
        for observer in self.observers:
            observer.evaluation(step, found)

    def _judge(self, step: int) -> Evaluation | None:
        """Evaluate on dev; None when told to stop half-way."""
        workload = self.prepared.workload

        def watch(done: int, total: int) -> None:
            if done < total and self.stop():
                raise _StoppedError

        try:
            return evaluate(
                self.session,
                workload.encoder,
                workload.task,
                self.dev,
                self.objective,
                batch_size=self.prepared.plan.settings.batch_size,
                step=step,
                progress=watch,
            )
        except _StoppedError:
            return None


class _StoppedError(Exception):
    """Told to stop within an evaluation."""


def _way_back(run: RunFolder, step: int) -> str:
    """What to do after a run diverged."""
    best = run.best()
    found = "" if best is None else f"; the best on dev is step {best}: {run.evaluations()[best]}"
    return (
        f"{run.path} keeps every step before {step}{found}. `zofx eval {run.plan.folder} --run "
        f"{run.path} --step N` judges any of them. Start a new run (-o) with a lower --lr"
    )

"""What a new run will be: options checked against the artifact and the task.

    options   →   Prepared: model, examples, RunConfig, how many steps

An option that is not given is left to the method or the task. Nothing is written and no engine is
loaded here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from zofx.artifact.manifest import Manifest
from zofx.errors import ArtifactError, UnsupportedError, UsageError
from zofx.ir.schema import Result
from zofx.options import checked, values_of, with_options
from zofx.runs.compiled_model import Model, default_runtime, open_model, open_session
from zofx.runs.evaluation import selection
from zofx.runs.memory_bound import require_memory
from zofx.runs.run_config import OPTIONS, DevEvaluation, Engine, RunConfig, StartingPoint, packages
from zofx.runs.run_folder import RunFolder, StepSelector
from zofx.runs.task_data import Workload, open_workload
from zofx.session import Session
from zofx.tasks import is_own
from zofx.tasks import reward as rewards
from zofx.tasks.catalog.jsonl_task import ROWS
from zofx.tasks.class_report import classes_of
from zofx.tasks.data.order import balanced_indices, batch_indices
from zofx.tasks.data.pool import Pool
from zofx.tasks.data_report import DataReport
from zofx.tasks.objectives import ScoreObjective
from zofx.tasks.rows import Encoded
from zofx.tasks.selection import TaskChoice
from zofx.tasks.types import Record
from zofx.zo.journal.format import Journal
from zofx.zo.settings import FORWARD_MODE_ESTIMATORS, SCORE_ESTIMATORS, Settings
from zofx.zo.theta import digest
from zofx.zo.types import FloatArray, IntArray

EVALUATIONS: Final = 5
"""How many a run makes after its start, by default."""


@dataclass(frozen=True)
class Origin:
    """The run that another one starts from.

    Attributes:
        run: its folder.
        step: which θ of it.
    """

    run: RunFolder
    step: StepSelector = "best"


@dataclass(frozen=True)
class Prepared:
    """A run that was found to be possible; nothing is written yet.

    Attributes:
        model: to train.
        workload: what on.
        config: the run.
        steps: when to stop; a resumed run may have been given more than its settings say.
        run: the folder of a resumed run; None for a new one.
        journal: of a resumed run, as read; None for a new one.
        report: what the examples of a new run are to the model.
        initial: θ at step 0; None for the artifact's.
    """

    model: Model
    workload: Workload
    config: RunConfig
    steps: int
    run: RunFolder | None = None
    journal: Journal | None = None
    report: DataReport | None = None
    initial: Mapping[str, FloatArray] | None = None

    def batch(self, cursor: int) -> Encoded:
        """The examples of the run from the cursor on."""
        train, indices = self.workload.splits.train, self._indices(cursor)
        objective = self.workload.objective(self.config.objective)
        return self.workload.encoder.encode(
            [train[i] for i in indices], gold_only=objective.gold_only, relative=objective.relative
        )

    def _indices(self, cursor: int) -> IntArray:
        """Places in the training set, i64[batch_size]."""
        choice, size = self.config.task, self.config.settings.batch_size
        train = self.workload.splits.train
        if not choice.balance:
            return batch_indices(choice.seed, cursor, size, len(train))
        classes = np.array([example.answer for example in train], dtype=np.int64)
        return balanced_indices(choice.seed, cursor, size, classes)

    def session(self) -> Session:
        """The artifact on the run's engine, at the run's initial θ."""
        rows = self.workload.rows(self.config.settings.batch_size)
        engine = self.config.engine
        session = open_session(self.model, engine, rows)
        if self.initial is not None:
            session.write(self.initial)
        return session


def prepare(
    artifact: Path,
    options: Mapping[str, Any],
    own: Pool[Record] | None = None,
    origin: Origin | None = None,
) -> Prepared:
    """Check everything about a new run.

    Args:
        artifact: the folder.
        options: of `run_config.OPTIONS`, by name; None is as good as absent.
        own: the rows, where these are the task.
        origin: another run, whose θ this one starts from and whose task it has by default;
            None starts from the artifact's.

    Raises:
        ZofxError: the first thing that is wrong, with what to do.
    """
    given = checked(options, OPTIONS)
    model = open_model(artifact)
    start, initial = _start(model, origin)
    if origin is not None and own is None and "task" not in given:
        given, own = {**_task_of(origin.run), **given}, origin.run.rows()
    choice = _choice(
        {**given, "task": ROWS} if own is not None else given, given_rows=own is not None
    )
    workload = open_workload(model, choice, own)
    workload.examples("train")
    _require_classes(workload, choice)
    report = workload.report("train", "dev")
    method = _defaults(model)
    settings = with_options(method, given).fitted(model.manifest.noise)
    _require_fit(model.manifest, settings)
    engine = with_options(Engine(default_runtime()), given)
    require_memory(model.manifest, settings, report, engine)
    objective = workload.objective(given.get("objective")).name
    _require_derivatives(workload, objective, settings)
    config = RunConfig(
        artifact=model.manifest.hash,
        folder=str(artifact.resolve()),
        task=choice,
        settings=settings,
        objective=objective,
        evaluation=_evaluation(given, workload, objective, settings.steps),
        engine=engine,
        drawn=workload.drawn,
        examples=workload.digest,
        reward=rewards.digest(objective),
        versions=packages(),
        start=start,
    )
    config.header  # noqa: B018  what is wrong with the settings shows here
    return Prepared(model, workload, config, settings.steps, report=report, initial=initial)


def _start(
    model: Model, origin: Origin | None
) -> tuple[StartingPoint | None, dict[str, FloatArray] | None]:
    """Where a run starts, and θ there.

    Raises:
        UsageError: the other run is of another artifact, or has not come that far.
        UnsupportedError: its tensors are in no journal.
    """
    if origin is None:
        return None, None
    if model.manifest.exact:
        raise UnsupportedError(
            f"--from {origin.run.path} cannot start a run",
            ["tensors that train by exact gradients are in no journal; go on with --resume"],
        )
    step, theta = origin.run.theta(model.folder, model.manifest, origin.step)
    return StartingPoint(str(origin.run.path.resolve()), step, digest(theta)), theta


def _task_of(run: RunFolder) -> dict[str, Any]:
    """The examples of a run, as options."""
    return {name: value for name, value in values_of(run.config.task).items() if value is not None}


def _defaults(model: Model) -> Settings:
    """The method's own settings, as the artifact has them.

    Raises:
        ArtifactError: they are none.
    """
    try:
        settings = Settings.from_mapping(model.manifest.recipe)
        settings.recipe()
    except (UsageError, TypeError, ValueError, ArithmeticError) as error:
        raise ArtifactError(
            f"{model.folder} has no settings of a method in its manifest: {error}; compile the "
            "model again"
        ) from error
    return settings


def _choice(given: Mapping[str, Any], *, given_rows: bool) -> TaskChoice:
    """The examples that are asked for; paths as they are found from anywhere."""
    if "task" not in given:
        raise UsageError("name a task: `--task NAME` or `--task FILE` (`zofx list tasks`)")
    choice = with_options(TaskChoice(given["task"]), given)
    own = not given_rows and is_own(choice.name)
    name = str(Path(choice.name).resolve()) if own else choice.name
    return replace(choice, name=name, data=choice.data and str(Path(choice.data).resolve()))


def _evaluation(
    given: Mapping[str, Any], workload: Workload, objective: str, steps: int
) -> DevEvaluation:
    """When and how the run is evaluated on dev."""
    dev = workload.splits.dev[: given.get("eval_size")]
    return DevEvaluation(
        eval_every=given.get("eval_every", max(1, steps // EVALUATIONS)),
        eval_size=len(dev),
        select_by=selection(workload.task.kind, objective, dev, given.get("select_by")),
    )


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


def _require_derivatives(workload: Workload, objective: str, settings: Settings) -> None:
    """An estimator that reads scores has an objective with derivatives by them."""
    chosen = workload.objective(objective)
    smooth = isinstance(chosen, ScoreObjective) and chosen.model is not None
    if settings.estimator in SCORE_ESTIMATORS and not smooth:
        raise UsageError(
            f"--estimator {settings.estimator}: objective '{objective}' has no derivative by the "
            "scores; take --estimator two-point or one-sided, or another --objective"
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
    slopes = manifest.result is Result.TANGENTS
    if slopes != (settings.estimator in FORWARD_MODE_ESTIMATORS):
        raise UsageError(
            f"--estimator {settings.estimator}: this artifact was compiled "
            + ("in forward mode, which gives slopes" if slopes else "for probes, not forward mode")
            + "; leave --estimator out, or compile with the method that goes with it"
        )

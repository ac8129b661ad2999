"""What a resumed run will be: the recorded one, if artifact, data and options are still its own.

    options   →   Prepared of the recorded RunConfig, or a refusal that names every difference

An option that is not given is the run's. Nothing is written and no engine is loaded here.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zofx.errors import ArtifactError, UsageError
from zofx.options import checked, options_of, with_options
from zofx.runs.compiled_model import open_model
from zofx.runs.prepare import Prepared
from zofx.runs.run_config import OPTIONS, Engine, RunConfig
from zofx.runs.run_folder import RunFolder
from zofx.runs.task_data import Workload, open_workload
from zofx.tasks import is_own
from zofx.tasks import reward as rewards
from zofx.tasks.selection import TaskChoice


def prepare_resumed(artifact: Path, folder: Path, options: Mapping[str, Any]) -> Prepared:
    """Check everything about going on with a run.

    Args:
        artifact: the folder of the artifact.
        folder: of the run.
        options: as in `prepare`; only the steps, the engine, and where the examples are may differ
            from the run's.

    Raises:
        UsageError: the artifact is another one, or something is asked that the run does not have.
        ArtifactError: the run or its data have changed.
    """
    given = checked(options, OPTIONS)
    run, model = RunFolder.open(folder), open_model(artifact)
    config = run.config
    run.require_artifact(model.manifest)
    workload = open_workload(model, _found(config.task, given), run.rows())
    if workload.digest != config.examples:
        raise ArtifactError(
            f"the examples of task '{config.task.name}' have changed since {folder} was "
            "started; restore the data it was started with, or start a new run"
        )
    _require_consent(config, given)
    _require_same(run, given, workload)
    _require_same_reward(config)
    journal = run.journal()
    steps = _steps(run, given.get("steps"), journal.next_step)
    engine = with_options(config.engine, given)
    config = replace(config, engine=engine)
    return Prepared(model, workload, config, steps, run, journal, initial=run.initial())


def _found(choice: TaskChoice, given: Mapping[str, Any]) -> TaskChoice:
    """The run's examples where they are now: a file or a folder of them may have been moved."""
    moved = given.get("task", choice.name)
    name = str(Path(moved).resolve()) if is_own(moved) and is_own(choice.name) else choice.name
    data = given.get("data")
    return replace(choice, name=name, data=str(Path(data).resolve()) if data else choice.data)


def _require_consent(config: RunConfig, given: Mapping[str, Any]) -> None:
    """A file of code is run by who names it; that a run folder names it is not enough.

    Raises:
        UsageError: the run's objective is such a file, and the caller did not name it.
    """
    if config.objective.startswith(rewards.PREFIX) and "objective" not in given:
        raise UsageError(
            f"the run minimised {config.objective}, a file of code that going on would run: if it "
            f"is yours, name it: --objective {config.objective}"
        )


def _require_same_reward(config: RunConfig) -> None:
    """A reward that was edited is another objective.

    Raises:
        ArtifactError: it was.
    """
    if config.reward is not None and config.reward != rewards.digest(config.objective):
        raise ArtifactError(
            f"{config.objective} has changed since the run was started; restore the file as it "
            "was, or start a new run"
        )


def _steps(run: RunFolder, asked: int | None, made: int) -> int:
    """How many steps a resumed run is to have: its own number unless another can be."""
    settings = run.config.settings
    steps = asked or max(settings.steps, made)
    if steps > settings.steps and settings.schedule != "constant":
        raise UsageError(
            f"--steps {steps}: the run's {settings.schedule} schedule ends at step "
            f"{settings.steps}, where the learning rate is 0; only a constant schedule can go "
            "on for longer. Start a new run for more steps"
        )
    if steps < made:
        raise UsageError(f"--steps {steps}: {run.path} has made {made} steps already")
    return steps


def _require_same(run: RunFolder, given: Mapping[str, Any], workload: Workload) -> None:
    """What is asked again must be what the run has, but for its steps and its engine."""
    sizes = run.config.task.sizes(workload.task)
    has = {**run.config.options, "train": sizes.train, "dev": sizes.dev}
    asked = dict(given)
    if "task" in given and is_own(given["task"]) and is_own(has["task"]):
        del asked["task"]  # the same examples, by their hash
    asked.pop("data", None)
    if "objective" in given:
        asked["objective"] = workload.objective(given["objective"]).name
    if "eval_size" in given:
        asked["eval_size"] = min(given["eval_size"], run.config.drawn["dev"])
    free = {"steps", *options_of(Engine)}
    differing = [
        f"{OPTIONS[name].flag} {value} (the run has {has[name]})"
        for name, value in asked.items()
        if name not in free and value not in (None, has[name])
    ]
    if differing:
        raise UsageError(
            f"{run.path} cannot go on with {', '.join(differing)}: a resumed run is the same run. "
            "Leave these out, or start a new run with -o"
        )

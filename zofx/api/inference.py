"""What an artifact, or a run of it, answers and writes.

Model, run?, step ──▶ session at that θ ──▶ Judgement of a task's split
                                        ──▶ greedy texts
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from zofx.errors import ArtifactError, UsageError
from zofx.options import with_options
from zofx.runs.compiled_model import Model, default_runtime, open_session
from zofx.runs.evaluate import Prediction, Progress, evaluate, no_progress
from zofx.runs.evaluation import Evaluation
from zofx.runs.run_config import Engine
from zofx.runs.run_folder import RunFolder, StepSelector
from zofx.runs.task_data import Workload, open_workload
from zofx.session import Session
from zofx.tasks.data.pool import Pool
from zofx.tasks.reward import PREFIX
from zofx.tasks.selection import SPLITS, Split, TaskChoice
from zofx.tasks.types import Example, Record

NO_TASK = "name a task: `--task NAME` or `--task FILE` (`zofx list tasks`)"


@dataclass(frozen=True)
class Source:
    """Whose θ is asked, and where it computes.

    Attributes:
        model: the artifact.
        engine: runtime, device and threads.
        run: one of its runs; None asks the model as compiled.
        step: which θ of the run.
        on_message: gets a line for each thing that is loaded.
    """

    model: Model
    engine: Engine
    run: RunFolder | None = None
    step: StepSelector = "best"
    on_message: Callable[[str], None] = lambda text: None

    @classmethod
    def of(
        cls,
        model: Model,
        run: RunFolder | None = None,
        step: StepSelector = "best",
        runtime: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        on_message: Callable[[str], None] = lambda text: None,
        fleet: str | None = None,
    ) -> Self:
        """On the engine that is named; else on the run's runtime, or what is installed."""
        own = Engine(run.config.engine.runtime if run else default_runtime())
        given = {"runtime": runtime, "device": device, "threads": threads, "fleet": fleet}
        named = {name: value for name, value in given.items() if value is not None}
        return cls(model, with_options(own, named), run, step, on_message)

    @contextmanager
    def session(self, rows: int = 1) -> Iterator[tuple[Session, int | None]]:
        """A session at that θ for batches of so many rows, and how many steps led there.

        Raises:
            ZofxError: the run is of another artifact or has not come that far, or no engine.
        """
        folder, engine = self.model.folder, self.engine
        theta = self.run and self.run.theta(folder, self.model.manifest, self.step)
        self.on_message(f"loading {folder} on {engine.runtime}, every file checked")
        session = open_session(self.model, engine, rows)
        try:
            if theta:
                session.write(theta[1])
            yield session, theta[0] if theta else None
        finally:
            session.close()


@dataclass(frozen=True)
class Judgement:
    """An evaluation, and what it is of.

    Attributes:
        evaluation: accuracy, loss and reports.
        step: how many steps led to θ; None for the model as compiled.
        task: the task's name.
    """

    evaluation: Evaluation
    step: int | None
    task: str


@dataclass(frozen=True)
class Question:
    """What an evaluation asks.

    Attributes:
        choice: whose examples.
        own: the rows, where these are the task.
        split: train, dev or test.
        limit: at most so many examples.
        batch_size: examples per forward.
        objective: whose loss is reported; None leaves it to the run or the task.
        of_run: whether the examples are the run's own.
    """

    choice: TaskChoice | None = None
    own: Pool[Record] | None = None
    split: str = "test"
    limit: int | None = None
    batch_size: int = 16
    objective: str | None = None
    of_run: bool = False


def judge(
    source: Source,
    question: Question,
    *,
    progress: Progress = no_progress,
    predictions: list[Prediction] | None = None,
) -> Judgement:
    """Measure how well a model, or a run, does a task.

    Args:
        source: whose θ.
        question: on what.
        progress: called after every batch.
        predictions: gets the answer to every example.

    Raises:
        ZofxError: the first thing that is wrong, with what to do.
    """
    split = _split(question.split)
    if question.choice is None:
        raise UsageError(NO_TASK)
    run = source.run if question.of_run else None
    own = run.rows() if run is not None else question.own
    workload = open_workload(source.model, question.choice, own)
    if run is not None:
        _require_same_examples(run, workload)
    examples = workload.examples(split)[: question.limit]
    asked = question.objective
    if run is not None:
        asked = asked or _own_objective(run, source.on_message)
    objective = workload.objective(asked)
    for line in workload.report(split, limit=question.limit).cuts:
        source.on_message(line)
    with source.session(workload.rows(question.batch_size)) as (session, step):
        evaluation = evaluate(
            session, workload.encoder, workload.task, examples, objective,
            decoder=workload.decoder if workload.generates else None,
            batch_size=question.batch_size, step=step or 0, progress=progress,
            predictions=predictions,
        )  # fmt: skip
    return Judgement(evaluation, step, workload.task.name)


def _require_same_examples(run: RunFolder, workload: Workload) -> None:
    """Test examples are those of the run: its seed and its data files draw them.

    Raises:
        ArtifactError: they have changed since.
    """
    if workload.digest != run.config.examples:
        raise ArtifactError(
            f"the examples of task '{run.config.task.name}' have changed since {run.path} was "
            "started: what is drawn as test now may be what it was trained on. Restore the data it "
            "was started with (--data names a folder of it), or name what to judge it on with "
            "--task"
        )


def _split(name: str) -> Split:
    split = next((known for known in SPLITS if known == name), None)
    if split is None:
        raise UsageError(f"--split {name}: there are {', '.join(SPLITS)}")
    return split


def changed(
    own: TaskChoice, data: str | None, truncate: bool, max_length: int | None = None
) -> TaskChoice:
    """A run's examples from another folder, or cut."""
    return replace(
        own,
        data=data or own.data,
        truncate=truncate or own.truncate,
        max_length=max_length or own.max_length,
    )


def _own_objective(run: RunFolder, on_message: Callable[[str], None]) -> str | None:
    """A run's objective; a file of code that a run folder names is not run for that."""
    own = run.config.objective
    if not own.startswith(PREFIX):
        return own
    on_message(f"the run minimised {own}: name it with --objective to run that file")
    return None


def continued(
    source: Source,
    prompts: Sequence[Example],
    *,
    max_new_tokens: int = 50,
    stop: str | None = None,
    batch_size: int = 16,
    truncate: bool = False,
    progress: Progress = no_progress,
) -> tuple[list[str], int | None]:
    """Greedy continuations of prompts, and how many steps led to θ.

    Args:
        source: whose θ.
        prompts: the candidates play no part.
        max_new_tokens: the most tokens of a text.
        stop: what a text ends before, besides the end of sequence.
        batch_size: prompts per forward.
        truncate: cut prompts that are longer than the model's positions.
        progress: called after every batch.

    Raises:
        ZofxError: a masked model, an empty or too long prompt, or no engine.
    """
    model = source.model
    decoder = model.decoder(model.encoder(None, truncate), stop, max_new_tokens)
    for prompt in prompts:
        decoder.encoder.prompt(prompt)
    texts: list[str] = []
    with source.session() as (session, step):
        for start in range(0, len(prompts), batch_size):
            texts += decoder.answers(session, prompts[start : start + batch_size])[0]
            progress(len(texts), len(prompts))
    return texts, step

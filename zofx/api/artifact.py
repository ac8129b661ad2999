"""An artifact as an object: train it, ask it, write it out.

    load(path) ──▶ Artifact ──tune──▶ Run
                            ──evaluate──▶ Evaluation   ──generate──▶ texts   ──export──▶ folder

An artifact's folder never changes. Each call loads the engine it needs and closes it again.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from zofx.api.callbacks import Callback
from zofx.api.export import ExportOptions, export, require_format
from zofx.api.inference import Question, Source, changed, continued, judge
from zofx.api.sources import TaskSource, named_task
from zofx.api.training import Procedure, trained
from zofx.artifact.manifest import Manifest
from zofx.files.atomic import require_free
from zofx.options import checked, options_of, with_options
from zofx.runs.compiled_model import Model, open_model
from zofx.runs.evaluate import Prediction
from zofx.runs.evaluation import Evaluation
from zofx.runs.export.merged_artifact import merge
from zofx.runs.export.subject import Subject
from zofx.runs.prepare import Origin
from zofx.runs.run_config import OPTIONS
from zofx.runs.run_folder import RunFolder, StepSelector
from zofx.runs.task_data import open_workload
from zofx.tasks.catalog.jsonl_task import ROWS
from zofx.tasks.data_report import DataReport
from zofx.tasks.selection import SPLITS, TaskChoice
from zofx.tasks.types import Example

if TYPE_CHECKING:
    from zofx.api.run import Run

RunLike: TypeAlias = Union["Run", str, PathLike[str]]


@dataclass(frozen=True)
class Artifact:
    """A compiled model.

    Attributes:
        model: its folder, manifest and tokenizer.
    """

    model: Model

    @property
    def path(self) -> Path:
        """The folder."""
        return self.model.folder

    @property
    def manifest(self) -> Manifest:
        """What it is: method, pipeline, tensors, hashes, compile report."""
        return self.model.manifest

    def tune(  # noqa: PLR0913  as `zofx tune`
        self,
        task: TaskSource | None = None,
        *,
        out: str | PathLike[str] | None = None,
        start: RunLike | None = None,
        start_step: StepSelector = "best",
        patience: int | None = None,
        callbacks: Sequence[Callback] = (),
        preflight: bool = True,
        strict_preflight: bool = False,
        on_collapse: str = "go",
        activation_cache: str | PathLike[str] | None = None,
        activation_limit: float = 16.0,
        report_to: Sequence[str] = (),
        **options: Any,
    ) -> "Run":
        """Train on a task, with forward passes only.

        Args:
            task: a name, a file, rows (a list of dicts in the form of its records, or a
                `datasets.Dataset`), or a dict of rows by split.
            out: the folder of the run; None names one under runs/.
            start: another run of this artifact, whose θ the new one starts from, and whose task it
                has if none is named; None starts from the artifact's θ.
            start_step: which θ of that run.
            patience: evaluations on dev in a row without a better one that end the run.
            callbacks: follow the run; each may stop it.
            preflight: measure the ± gap and the round-off first.
            strict_preflight: do not train where the gap is lost.
            on_collapse: "go", "stop" or "rewind", when every answer is one class or the loss
                diverges.
            activation_cache: where layers below the first that trains leave their results; "none"
                keeps none, None keeps them in the run's folder.
            activation_limit: of that folder, GB.
            report_to: trackers that follow the run: "csv", "tensorboard", "trackio", "wandb".
            options: of a run, as `zofx tune` has them: steps, batch_size, lr, eps, queries, seed,
                runtime, threads, objective, … (`help(Artifact.tune)` lists them).

        Raises:
            UsageError: the first thing that is wrong with what is asked; nothing is written.
            DivergenceError: the loss is not finite, or the run collapsed; every step before is
                kept.
        """
        from zofx.api.run import Run

        name, own = named_task(task)
        origin = self._run(start)
        procedure = Procedure(
            out=None if out is None else Path(out),
            preflight=preflight,
            strict=strict_preflight,
            on_collapse=on_collapse,
            activations=None if activation_cache is None else str(activation_cache),
            activation_limit=activation_limit,
            report_to=tuple(report_to),
            origin=None if origin is None else Origin(origin, start_step),
            patience=patience,
        )
        outcome = trained(self.path, {**options, "task": name}, procedure, callbacks, own=own)
        return Run(self, outcome.run)

    def evaluate(  # noqa: PLR0913  as `zofx eval`
        self,
        task: TaskSource | None = None,
        *,
        run: RunLike | None = None,
        step: StepSelector = "best",
        split: str = "test",
        limit: int | None = None,
        batch_size: int = 16,
        objective: str | None = None,
        data: str | PathLike[str] | None = None,
        seed: int = 0,
        truncate: bool = False,
        max_length: int | None = None,
        columns: str | None = None,
        template: str | None = None,
        labels: str | None = None,
        runtime: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        predictions: list[Prediction] | None = None,
    ) -> Evaluation:
        """Measure how well the model, or a run of it, does a task.

        Args:
            task: as in `tune`; None takes the run's own.
            run: one of its runs, or its folder; None asks the model as compiled.
            step: "best" on dev, "last", or after so many steps.
            split: "test", "dev" or "train".
            limit: at most so many examples.
            batch_size: examples per forward.
            objective: whose loss is reported; None leaves it to the run or the task.
            data: a folder of files in the task's schema.
            seed: of the draw of train and dev; the test examples are the same for every seed.
            truncate: cut prompts that are longer than the model's positions.
            max_length: tokens a row keeps, the last ones; None keeps what the task says, or all.
            columns: names of a form for fields of one's own records, as in "prompt=question".
            template: the prompt, from fields of the record.
            labels: words for labels, as in "0=terrible 1=great".
            runtime: "ort" or "torch".
            device: "cpu" or "cuda".
            threads: of the runtime.
            predictions: a list that gets the answer to every example.

        Raises:
            ZofxError: the first thing that is wrong, with what to do.
        """
        name, own = named_task(task)
        folder, place = self._run(run), None if data is None else str(data)
        choice = (
            None if folder is None else changed(folder.config.task, place, truncate, max_length)
        )
        if task is not None:
            choice = TaskChoice(
                name or ROWS, place, seed, truncate=truncate, max_length=max_length,
                columns=columns, template=template, labels=labels,
            )  # fmt: skip
        question = Question(choice, own, split, limit, batch_size, objective, task is None)
        source = Source.of(self.model, folder, step, runtime, device, threads)
        return judge(source, question, predictions=predictions).evaluation

    def check(self, task: TaskSource, **options: Any) -> DataReport:
        """What a task is to this model, without an engine: lengths, cuts, classes, warnings.

        Args:
            task: as in `tune`.
            options: seed, train, dev, data, truncate, max_length, columns, template, labels, as in
                `tune`.

        Raises:
            UsageError: no such task, or an example that cannot be encoded.
        """
        name, own = named_task(task)
        given = checked({**options, "task": name or ROWS}, options_of(TaskChoice))
        choice = with_options(TaskChoice(given["task"]), given)
        return open_workload(self.model, choice, own).report(*SPLITS)

    def generate(  # noqa: PLR0913  as `zofx generate`
        self,
        prompts: str | Sequence[str],
        *,
        run: RunLike | None = None,
        step: StepSelector = "best",
        max_new_tokens: int = 50,
        stop: str | None = None,
        batch_size: int = 16,
        truncate: bool = False,
        runtime: str | None = None,
        device: str | None = None,
        threads: int | None = None,
    ) -> list[str]:
        """Continue prompts, always with the likeliest token; a text for each.

        Args:
            prompts: one, or several.
            run: as in `evaluate`.
            step: as in `evaluate`.
            max_new_tokens: the most tokens of a text.
            stop: what a text ends before, such as a newline.
            batch_size: prompts per forward.
            truncate: cut prompts that are longer than the model's positions.
            runtime: "ort" or "torch".
            device: "cpu" or "cuda".
            threads: of the runtime.

        Raises:
            UsageError: a masked model, or a prompt that is empty or too long.
        """
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        named = [Example(p, ("",), id=f"prompt {n}") for n, p in enumerate(given, start=1)]
        source = Source.of(self.model, self._run(run), step, runtime, device, threads)
        texts, _ = continued(
            source, named, max_new_tokens=max_new_tokens, stop=stop,
            batch_size=batch_size, truncate=truncate,
        )  # fmt: skip
        return texts

    def export(
        self,
        to: str,
        out: str | PathLike[str],
        *,
        run: RunLike | None = None,
        step: StepSelector = "best",
        **options: Any,
    ) -> Path:
        """Write what other tools load; returns its folder.

        Args:
            to: "hf", a merged checkpoint for transformers, or "peft", a LoRA adapter.
            out: the folder to make.
            run: whose trainables are written; None takes the model as compiled.
            step: as in `evaluate`.
            options: dtype="float32", "bfloat16" or "float16" of "hf"; base and rank of "peft", see
                `zofx.api.export.ExportOptions`.

        Raises:
            UsageError: no such format or option, or the folder is taken.
            UnsupportedError: the format cannot hold what trained.
        """
        asked = ExportOptions.of(options)
        require_format(to, asked)
        require_free(Path(out))
        export(Subject.of(self.path, self._run(run), step), to, Path(out), asked)
        return Path(out)

    def merge(
        self, run: RunLike, out: str | PathLike[str], *, step: StepSelector = "best"
    ) -> "Artifact":
        """An artifact that begins where a run of this one ended, bit by bit.

        Args:
            run: one of its runs, or its folder.
            out: the folder to make.
            step: as in `evaluate`.

        Raises:
            UsageError: the folder is taken, or the run is of another artifact.
        """
        merge(Subject.of(self.path, self._run(run), step), Path(out))
        return load(out)

    def _run(self, run: RunLike | None) -> RunFolder | None:
        from zofx.api.run import Run

        if run is None:
            return None
        if isinstance(run, Run):
            return run.folder
        return RunFolder.open(Path(run))

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r}, method={self.manifest.method!r})"


def load(path: str | PathLike[str]) -> Artifact:
    """Open an artifact; its weights are checked when an engine loads them.

    Raises:
        UsageError: there is no artifact.
        ArtifactError: it is damaged, or of another version.
    """
    return Artifact(open_model(Path(path)))


def with_run_options(function: Any) -> None:
    """Show a run's options in the signature of a function that takes them as `**options`."""
    own = inspect.signature(function)
    made = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=o.type | None)
        for n, o in OPTIONS.items()
        if n not in own.parameters
    ]
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = own.replace(parameters=[*kept, *made])


with_run_options(Artifact.tune)

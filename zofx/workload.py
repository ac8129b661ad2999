"""What a run or an evaluation works on: an artifact's model and a task's examples.

    folder ──manifest──▶ Model      tokenizer, special ids, positions: how text becomes rows
    TaskChoice ──────────▶ Workload   task, encoder, and the examples of train, dev and test
    --runtime ───────────▶ Session

Everything that can be wrong with the input is found here, before anything is computed or written.
This module needs numpy and tokenizers only; an engine is imported when a session is opened.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from tokenizers import Tokenizer

from zofx import artifact
from zofx.artifact import Manifest
from zofx.errors import ArtifactError, UnsupportedError, UsageError
from zofx.runtime import Session
from zofx.runtimes import RUNTIMES
from zofx.tasks import Encoder, Example, Objective, Sizes, Splits, Task, find_task, objective_for
from zofx.tasks.objectives import OBJECTIVES

Split: TypeAlias = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
CHECKED_AT_ONCE = 32


@dataclass(frozen=True)
class TaskChoice:
    """Which examples a run or an evaluation uses.

    Attributes:
        name: a task, or the path of a .jsonl file of one's own.
        data: a folder of files in the task's schema, read instead of its own source.
        seed: of the draw of train and dev.
        train: examples drawn; None keeps the task's size. So do dev and test.
        dev: likewise.
        test: likewise.
        truncate: cut prompts that are longer than the model's positions; else they are an error.
    """

    name: str
    data: str | None = None
    seed: int = 0
    train: int | None = None
    dev: int | None = None
    test: int | None = None
    truncate: bool = False

    def sizes(self, task: Task) -> Sizes:
        """The task's sizes under these."""
        own = task.sizes
        given = ((self.train, own.train), (self.dev, own.dev), (self.test, own.test))
        return Sizes(*(size if chosen is None else chosen for chosen, size in given))


@dataclass(frozen=True)
class Model:
    """A compiled model as a source of scores.

    Attributes:
        folder: the artifact.
        manifest: its description.
        tokenizer: text to ids.
    """

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def masked(self) -> bool:
        """Whether it predicts masked tokens."""
        return bool(self.manifest.model["architecture"] == "masked-lm")

    def encoder(self, task: Task, truncate: bool) -> Encoder:
        """How this task's examples become rows.

        A task's own length limit shortens prompts, as its source does; the model's positions do so
        only when asked, because that is no property of the task.
        """
        special = self.manifest.model["special"]
        positions = self.manifest.model["max_positions"] or task.max_length
        return Encoder(
            tokenizer=self.tokenizer,
            bos_id=special["bos_id"] if special["adds_bos"] else None,
            pad_id=special["pad_id"],
            mask_id=special["mask_id"] if self.masked else None,
            max_length=min(task.max_length, positions),
            truncate=truncate or task.max_length <= positions,
        )


@dataclass(frozen=True)
class Workload:
    """A task as this model reads it.

    Attributes:
        task: what is asked.
        encoder: examples → rows.
        splits: its examples.
    """

    task: Task
    encoder: Encoder
    splits: Splits

    def examples(self, split: Split) -> tuple[Example, ...]:
        """The examples of a split.

        Raises:
            UsageError: it has none.
        """
        if split not in SPLITS:
            raise UsageError(f"there is no split '{split}'; there are: {', '.join(SPLITS)}")
        found: tuple[Example, ...] = getattr(self.splits, split)
        if not found:
            raise UsageError(
                f"task '{self.task.name}' has no {split} examples here; draw some with --{split} N"
            )
        return found

    def check(self, *splits: Split) -> None:
        """Encode every example of these splits once, so that one that cannot be is found now.

        Raises:
            UsageError: names the example.
        """
        for split in splits:
            examples: tuple[Example, ...] = getattr(self.splits, split)
            for start in range(0, len(examples), CHECKED_AT_ONCE):
                self.encoder.encode(examples[start : start + CHECKED_AT_ONCE])

    def objective(self, name: str | None) -> Objective:
        """What training minimises: the task's own objective, or the named one.

        Raises:
            UsageError: there is no such objective.
        """
        if name is None:
            return objective_for(self.task.kind)
        if name not in OBJECTIVES:
            raise UsageError(f"there is no objective '{name}'; there are: {', '.join(OBJECTIVES)}")
        return OBJECTIVES[name]

    @property
    def drawn(self) -> dict[str, int]:
        """How many examples each split has."""
        return {split: len(getattr(self.splits, split)) for split in SPLITS}

    @property
    def digest(self) -> str:
        """Identity of what a run learns from and is selected by: SHA-256 of train and dev."""
        return digest((*self.splits.train, *self.splits.dev))


def digest(examples: Sequence[Example]) -> str:
    """SHA-256 of some examples, in hex; where they were stored has no part in it."""
    said = hashlib.sha256()
    for example in examples:
        said.update(repr(astuple(example)[:-1]).encode())
    return said.hexdigest()


def open_model(folder: Path) -> Model:
    """An artifact's description and tokenizer; its weights are checked when a session opens.

    Raises:
        UsageError: there is no artifact.
        ArtifactError: it is damaged.
    """
    manifest = artifact.read_manifest(folder, check=False)
    path = folder / artifact.TOKENIZER
    if artifact.file_digest(path) != manifest.files[artifact.TOKENIZER]:
        raise ArtifactError(
            f"{path} is damaged: its SHA-256 is not the recorded one; "
            "copy the artifact again or compile the model again"
        )
    return Model(folder, manifest, Tokenizer.from_file(str(path)))


def open_workload(model: Model, choice: TaskChoice) -> Workload:
    """Read and draw a task's examples for a model.

    Raises:
        UsageError: no such task or file, a bad record, or no examples left.
    """
    task = find_task(choice.name)
    splits = task.splits(
        seed=choice.seed,
        sizes=choice.sizes(task),
        data=None if choice.data is None else Path(choice.data),
        masked=model.masked,
    )
    return Workload(task, model.encoder(task, choice.truncate), splits)


def default_runtime() -> str:
    """ONNX Runtime where it is installed, else torch."""
    return "ort" if find_spec("onnxruntime") else "torch"


def open_session(model: Model, runtime: str, device: str, threads: int | None) -> Session:
    """Load the artifact on a runtime; every file of it is checked.

    Raises:
        UsageError: no such runtime.
        UnsupportedError: it cannot run here; with every reason.
        ArtifactError: the artifact is damaged.
    """
    try:
        engine = RUNTIMES[runtime]
    except ImportError as error:
        raise UnsupportedError(
            f"the {runtime} runtime is not installed",
            [f"{error}; run pip install 'zofx[{runtime}]'"],
        ) from error
    return engine.load(model.folder, device=device, threads=threads)

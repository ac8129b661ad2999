"""Which examples a run is about: a task, its data, sizes and a seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from zofx.tasks import find_task
from zofx.tasks.data.pool import Sizes
from zofx.tasks.types import Splits, Task

Split: TypeAlias = Literal["train", "dev", "test"]

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class TaskChoice:
    """Which examples a run or an evaluation uses.

    Attributes:
        name: a task, or the path of a .jsonl file of one's own.
        data: a folder of files in the task's schema, read instead of its own source.
        seed: of the draw of train and dev.
        train: examples drawn to train on; None keeps the task's size.
        dev: examples drawn to choose by; None keeps the task's size.
        test: examples drawn to judge by; None keeps the task's size.
        truncate: cut prompts that are longer than the model's positions; else they are an error.
        balance: whether training takes every class equally often, not as often as it occurs.
    """

    name: str
    data: str | None = None
    seed: int = 0
    train: int | None = None
    dev: int | None = None
    test: int | None = None
    truncate: bool = False
    balance: bool = False

    def sizes(self, task: Task) -> Sizes:
        """The task's sizes under these."""
        own = task.sizes
        given = ((self.train, own.train), (self.dev, own.dev), (self.test, own.test))
        return Sizes(*(size if chosen is None else chosen for chosen, size in given))


def open_task(choice: TaskChoice, *, masked: bool) -> tuple[Task, Splits]:
    """Read and draw a task's examples, written for a masked model or for a causal one.

    Raises:
        UsageError: no such task or file, a bad record, or no examples left.
    """
    task = find_task(choice.name)
    splits = task.splits(
        seed=choice.seed,
        sizes=choice.sizes(task),
        data=None if choice.data is None else Path(choice.data),
        masked=masked,
    )
    return task, splits

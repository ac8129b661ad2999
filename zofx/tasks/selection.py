"""Which examples a run is about: a task, its data, sizes and a seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from zofx.options import option
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
        seed: of the draw of train and dev; of a run, of its directions and data order too.
        train: examples drawn; None keeps the task's size.
        dev: as `train`.
        truncate: cut prompts that are longer than the model's positions; else they are an error.
        max_length: tokens a row keeps, the last ones; None keeps what the task says, or all.
        balance: whether training takes every class equally often, not as often as it occurs.
        test: as `train`.
    """

    name: str = option(help="What to train on.", name="task", metavar="NAME|FILE.jsonl", short="-t")
    data: str | None = option(
        None, help="Read the task's records from files in DIR.", metavar="DIR"
    )
    seed: int = option(
        0,
        help="Of the draw, the data order and the directions; 0 if absent.",
        metavar="N",
        minimum=0,
        maximum=2**64 - 1,
    )
    train: int | None = option(None, help="Examples to train on.", metavar="N", minimum=1)
    dev: int | None = option(None, help="Examples to choose by.", metavar="N", minimum=0)
    truncate: bool = option(
        False, help="Cut prompts longer than the model's positions, on the left."
    )
    max_length: int | None = option(
        None,
        help="Tokens a row keeps, the last ones; else what the task says, or all of them.",
        metavar="N",
        minimum=4,
    )
    balance: bool = option(False, help="Train on every class equally often.")
    test: int | None = None

    def sizes(self, task: Task) -> Sizes:
        """The task's sizes under these."""
        own = task.sizes
        given = ((self.train, own.train), (self.dev, own.dev), (self.test, own.test))
        return Sizes(*(size if chosen is None else chosen for chosen, size in given))


def open_task(choice: TaskChoice, *, masked: bool, own: Task | None = None) -> tuple[Task, Splits]:
    """Read and draw a task's examples, written for a masked model or for a causal one.

    Args:
        choice: which examples.
        masked: whether the model is a masked one.
        own: the task itself, where it is one of rows; else it is found by its name.

    Raises:
        UsageError: no such task or file, a bad record, or no examples left.
    """
    task = own or find_task(choice.name)
    splits = task.splits(
        seed=choice.seed,
        sizes=choice.sizes(task),
        data=None if choice.data is None else Path(choice.data),
        masked=masked,
    )
    return task, splits

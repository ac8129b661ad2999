"""Which examples a run is about: a task, its data, sizes and a seed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from zofx.options import option
from zofx.tasks import find_task
from zofx.tasks.catalog.jsonl_task import row_task
from zofx.tasks.catalog.reading import Reading
from zofx.tasks.data.pool import Pool, Sizes
from zofx.tasks.types import Markup, Record, Splits, Task

Split: TypeAlias = Literal["train", "dev", "test"]

NO_MARKUP = Markup()
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class TaskChoice:
    """Which examples a run or an evaluation uses.

    Attributes:
        name: a task, the path of a file or a folder of one's own, or hub:OWNER/NAME.
        data: a folder of files in the task's schema, read instead of its own source.
        seed: of the draw of train and dev; of a run, of its directions and data order too.
        train: examples drawn; None keeps the task's size.
        dev: as `train`.
        truncate: cut prompts that are longer than the model's positions; else they are an error.
        max_length: tokens a row keeps, the last ones; None keeps what the task says, or all.
        balance: whether training takes every class equally often, not as often as it occurs.
        columns: names of a form for fields of the records, see `Reading`.
        template: of the prompt.
        labels: words for labels.
        test: as `train`.
    """

    name: str = option(help="What to train on.", name="task", metavar="NAME|FILE", short="-t")
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
    columns: str | None = option(
        None,
        help="Names of a form for fields of one's own records: 'prompt=question label=stars'.",
        metavar="'A=B …'",
    )
    template: str | None = option(
        None, help="The prompt, from fields of the record: '{question} Answer:'.", metavar="TEXT"
    )
    labels: str | None = option(
        None, help="Words for labels, in order: '0=terrible 1=great'.", metavar="'A=B …'"
    )
    test: int | None = None

    def sizes(self, task: Task) -> Sizes:
        """The task's sizes under these."""
        own = task.sizes
        given = ((self.train, own.train), (self.dev, own.dev), (self.test, own.test))
        return Sizes(*(size if chosen is None else chosen for chosen, size in given))


def open_task(
    choice: TaskChoice,
    *,
    masked: bool,
    own: Pool[Record] | None = None,
    markup: Markup = NO_MARKUP,
) -> tuple[Task, Splits]:
    """Read and draw a task's examples, written for a masked model or for a causal one.

    Args:
        choice: which examples.
        masked: whether the model is a masked one.
        own: the rows, where these are the task; else a task of that name is opened.
        markup: what the model has written around its texts.

    Raises:
        UsageError: no such task or file, a bad record, or no examples left.
    """
    reading = Reading.of(choice.columns, choice.template, choice.labels)
    task = find_task(choice.name, reading) if own is None else row_task(own, reading)
    if task.for_model is not None:
        template = task.for_model(markup)
        task = replace(task, template=template, masked=template)
    splits = task.splits(
        seed=choice.seed,
        sizes=choice.sizes(task),
        data=None if choice.data is None else Path(choice.data),
        masked=masked,
    )
    return task, splits

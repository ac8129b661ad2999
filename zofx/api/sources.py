"""What a task may be: a name, a file, or rows in memory.

"trec" · "films.csv" · Path                      looked up by name
[{"prompt": …, "completion": …}, …]              rows, each as a record of a file
datasets.Dataset                                 rows; a field that is None is left out
{"train": rows, "dev": rows, "test": rows}       rows by split; DatasetDict's "validation" is dev
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from zofx.errors import UsageError
from zofx.tasks.data.data_sets import with_label_names
from zofx.tasks.data.pool import Pool
from zofx.tasks.types import Record

Rows: TypeAlias = Iterable[Mapping[str, Any]]
TaskSource: TypeAlias = str | os.PathLike[str] | Rows | Mapping[str, Rows]

SPLITS: Mapping[str, str] = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}
"""Name of a split → what it is here."""


def named_task(task: TaskSource | None) -> tuple[str | None, Pool[Record] | None]:
    """The name of a task, or the rows where these are the task.

    Raises:
        UsageError: a row is wrong, or it is neither a name nor rows.
    """
    if task is None or isinstance(task, (str, os.PathLike)):
        return task if task is None else os.fspath(task), None
    return None, _pool(task)


def _pool(task: Rows | Mapping[str, Rows]) -> Pool[Record]:
    if not isinstance(task, Mapping):
        return Pool(_rows("train", task))
    unknown = [name for name in task if name not in SPLITS]
    if unknown or "train" not in task:
        raise UsageError(
            f"a task of rows by split has 'train' and may have 'dev' and 'test', not "
            f"{', '.join(map(repr, task))}"
        )
    rows = {SPLITS[name]: _rows(name, part) for name, part in task.items()}
    return Pool(**rows)


def _rows(split: str, rows: Rows) -> list[Record]:
    """Plain dictionaries, without fields that are None."""
    if not isinstance(rows, Iterable):
        raise UsageError(
            f"a task is a name, a file, or rows (a list of dicts, a datasets.Dataset), "
            f"not {type(rows).__name__}"
        )
    rows = with_label_names(rows)
    plain: list[Record] = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UsageError(f"{split} row {index}: expected a dict, not {type(row).__name__}")
        plain.append({name: value for name, value in row.items() if value is not None})
    return plain

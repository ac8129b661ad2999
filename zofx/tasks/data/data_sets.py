"""Data sets as other tools keep them: on the hub, as `datasets` saves them, in parquet.

Splits are train, dev or validation, and test. Labels that are stored as numbers with names
(`datasets.ClassLabel`) are read as the names; −1, a label that is unknown, is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zofx.errors import UsageError
from zofx.files.strict_json import parse_json
from zofx.tasks.data.pool import Pool
from zofx.tasks.data.sources import hub_split


def hub_splits(repository: str, config: str | None) -> Pool[Any]:
    """All splits of a data set that is a task of one's own: `validation` is dev.

    Raises:
        UsageError: as in `hub`.
    """
    whole = hub_split(repository, config, None)
    return _by_split(whole, repository)


def saved_data_set(path: Path) -> Pool[Any] | None:
    """The records of a folder that `datasets` saved; None if it is none.

    Raises:
        UsageError: `datasets` is missing, or it is damaged.
    """
    if not any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
        return None
    try:
        from datasets import load_from_disk
    except ImportError:
        raise UsageError(
            f"{path} was saved by the package `datasets`, which is not installed; run "
            "`pip install 'zofx[hub]'`"
        ) from None
    try:
        return _by_split(load_from_disk(str(path)), str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} cannot be read by `datasets`: {error}; save it again") from error


def _by_split(data: Any, where: str) -> Pool[Any]:
    """A `DatasetDict`, or a `Dataset`, which is all train."""
    splits = {"train": data} if hasattr(data, "features") else dict(data)
    if "train" not in splits:
        raise UsageError(f"{where} has no split 'train'; it has {', '.join(splits)}")
    dev = splits.get("dev", splits.get("validation"))
    rest = (dev, splits.get("test"))
    named = (None if part is None else list(with_label_names(part)) for part in rest)
    return Pool(list(with_label_names(splits["train"])), *named)


def with_label_names(rows: Any) -> Any:
    """Rows of a `datasets.Dataset` with the names of its labels; other rows as they are."""
    features = getattr(rows, "features", None) or {}
    names = {n: kind.names for n, kind in features.items() if getattr(kind, "names", None)}
    return _named_labels(rows, names) if names else rows


def _named_labels(
    rows: Iterable[Mapping[str, Any]], names: Mapping[str, Sequence[str]]
) -> Iterator[Mapping[str, Any]]:
    """Numbers as names; a label that is unknown, −1, is left out."""
    for row in rows:
        known = {n: v for n, v in row.items() if n not in names or (v is not None and v >= 0)}
        yield {n: names[n][v] if n in names else v for n, v in known.items()}


def parquet(path: Path) -> list[Mapping[str, Any]]:
    """Rows of a parquet file; labels by the names that `datasets` keeps in its schema.

    Raises:
        UsageError: pyarrow is missing, or it is no such file.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise UsageError(
            f"{path} is read by the package pyarrow, which is not installed; run "
            "`pip install 'zofx[parquet]'`, or save it as .jsonl or .csv"
        ) from None
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        table = read_table(path)
    except (ArrowException, OSError) as error:
        raise UsageError(f"{path} is no parquet file: {str(error).strip()}") from None
    about = parse_json((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    names = {n: kind["names"] for n, kind in features.items() if kind.get("names")}
    return list(_named_labels(table.to_pylist(), names))

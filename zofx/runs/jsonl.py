"""A log of JSON objects, one per line, that survives a kill.

write    beside, rename             a file of its own, whole or not there
append   one line, flushed          a kill leaves at most one torn line, the last
read     every whole line           a torn last line is passed over
keep     rewrite beside, rename     when a run goes back to an earlier step
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from zofx.errors import ArtifactError
from zofx.files.atomic import anything, new_file
from zofx.files.strict_json import parse_json

Row: TypeAlias = dict[str, Any]


def append(path: Path, row: Row) -> None:
    """Add one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A file of these lines; it appears whole, and replaces one of its name."""
    lines = (json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)
    with new_file(path, anything) as beside:
        beside.write_text("".join(lines), encoding="utf-8")


def read(path: Path) -> list[Row]:
    """Every whole line; none where there is no file.

    Raises:
        ArtifactError: a line before the last one is damaged.
    """
    if not path.is_file():
        return []
    # What follows the last line break was being written when the run was killed.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [_row(path, number, line) for number, line in enumerate(lines, start=1)]


def salvage(path: Path) -> list[Row]:
    """Every line that can be read; others are passed over: for logs that can be made again."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")):
        with contextlib.suppress(ArtifactError):
            rows.append(_row(path, number, line))
    return rows


def keep(path: Path, wanted: Callable[[Row], bool]) -> None:
    """Drop all other lines, and a torn one."""
    if not path.is_file():
        return
    kept = "".join(json.dumps(row) + "\n" for row in read(path) if wanted(row))
    with new_file(path, anything) as beside:
        beside.write_text(kept, encoding="utf-8")


def _row(path: Path, number: int, line: str) -> Row:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ArtifactError(f"{path}:{number} is damaged ({error}); delete that line") from None
    if not isinstance(row, dict):
        raise ArtifactError(f"{path}:{number} is damaged: it is no JSON object; delete that line")
    return row

r"""A task of one's own: prompts in a .jsonl file, one object per line.

    {"prompt": "a thin plot. It was", "candidates": [" terrible", " great"], "answer": 0}
    {"prompt": "a thin plot. It was", "candidates": [" terrible", " great"], "answer": " great"}
    {"prompt": "Question: how many legs has an ant?\nAnswer:", "completion": " six\n"}

`answer` is an index from 0, or a candidate's text. A candidate or completion is written right
after the prompt: its leading space is part of it. For a masked model the prompt holds [MASK] once.
FILE.dev.jsonl and FILE.test.jsonl beside FILE.jsonl are used where they exist; what is missing is
drawn from FILE.jsonl, a fifth of it at most.

The same candidates on every line, in any order, make a classification task (cross-entropy over the
candidates), differing ones a multiple-choice task, completions a generation task (both: likelihood
of the gold continuation).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from zofx.errors import UsageError
from zofx.tasks.data.pool import Pool, Sizes
from zofx.tasks.data.sources import numbered
from zofx.tasks.types import NO_LIMIT, Example, Kind, Record, Task

ROWS: Final = "rows"
"""The name of a task that is given as rows in memory."""

FIELDS = {"prompt", "candidates", "answer", "completion"}


def own_task(path: Path) -> Task:
    """The task in a .jsonl file. Every line of it is checked here, before anything runs.

    Raises:
        UsageError: with file, line, field and what to do.
    """
    if path.suffix != ".jsonl":
        raise UsageError(f"{path}: a task of one's own is a .jsonl file, one object per line")
    dev, test = (path.with_suffix(f".{split}.jsonl") for split in ("dev", "test"))
    return _task(path.stem, str(path), Pool(_records(path), _optional(dev), _optional(test)))


def row_task(pool: Pool[Record]) -> Task:
    """The task of rows that are in memory, in the form of the lines of a .jsonl file.

    Raises:
        UsageError: with split, row, field and what to do.
    """
    for split, rows in (("train", pool.train), ("dev", pool.dev), ("test", pool.test)):
        for index, row in enumerate(rows or ()):
            _check(f"{split} row {index}", row)
    if not pool.train:
        raise UsageError("there are no rows to train on; give at least one")
    return _task(ROWS, "Python rows", pool)


def write_rows(pool: Pool[Record], path: Path) -> None:
    """Write rows as the files that `own_task` reads."""
    for split, rows in (
        (".jsonl", pool.train),
        (".dev.jsonl", pool.dev),
        (".test.jsonl", pool.test),
    ):
        if rows is not None:
            lines = "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
            path.with_suffix(split).write_text(lines, encoding="utf-8")


def _task(name: str, source: str, pool: Pool[Record]) -> Task:
    records = [*pool.train, *(pool.dev or ()), *(pool.test or ())]
    kind = _kind(source, records)
    labels = tuple(records[0]["candidates"]) if kind == "classification" else ()
    template = partial(_in_order, labels)
    return Task(
        name=name,
        summary=f"{len(pool.train)} prompts of one's own",
        source=source,
        licence="one's own",
        kind=kind,
        load=lambda: pool,
        template=template,
        masked=template,
        metric="f1" if kind == "generation" else "accuracy",
        sizes=_sizes(pool),
        max_length=NO_LIMIT,
    )


def example(record: Record) -> Example:
    """One line as an example.

    Raises:
        UsageError: naming the field and what to do.
    """
    unknown = sorted(set(record) - FIELDS)
    if unknown:
        raise UsageError(f"field '{unknown[0]}' is unknown; use {', '.join(sorted(FIELDS))}")
    prompt = _text(record, "prompt")
    if "completion" not in record:
        candidates = _candidates(record)
        return Example(prompt, candidates, _answer(record, candidates))
    if "candidates" in record:
        raise UsageError("has both 'candidates' and 'completion'; keep one of them")
    completion = _text(record, "completion")
    return Example(prompt, (completion,), references=(completion.strip(),))


def _in_order(labels: tuple[str, ...], record: Record) -> Example:
    """The example of a line; classes are in the order of the first line, wherever they are said."""
    made = example(record)
    if not labels or made.candidates == labels:
        return made
    answer = labels.index(made.candidates[made.answer])
    return replace(made, candidates=labels, answer=answer)


def _text(record: Record, name: str) -> str:
    if name not in record:
        raise UsageError(f"field '{name}' is missing; add it as a string")
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"field '{name}' is {value!r}; make it a non-empty string")
    return value


def _candidates(record: Record) -> tuple[str, ...]:
    if "candidates" not in record:
        raise UsageError("field 'candidates' is missing; add a list of strings, or a 'completion'")
    value = record["candidates"]
    strings = isinstance(value, list) and all(isinstance(c, str) and c.strip() for c in value)
    if not strings or len(value) < 2 or len(set(value)) < len(value):
        raise UsageError(
            f"field 'candidates' is {value!r}; make it a list of two or more different, "
            "non-empty strings"
        )
    return tuple(value)


def _answer(record: Record, candidates: tuple[str, ...]) -> int:
    if "answer" not in record:
        raise UsageError("field 'answer' is missing; add a candidate's index or text")
    value: Any = record["answer"]
    if isinstance(value, str) and value in candidates:
        return candidates.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(candidates):
        return value
    raise UsageError(
        f"field 'answer' is {value!r}; make it an index from 0 to {len(candidates) - 1}, "
        f"or one of {', '.join(map(repr, candidates))}"
    )


def _records(path: Path) -> Sequence[Record]:
    """The lines of a file, each checked."""
    lines = numbered(path)
    for number, record in lines:
        _check(f"{path}:{number}", record)
    if not lines:
        raise UsageError(f"{path}: the file holds no examples; write one JSON object per line")
    return [record for _, record in lines]


def _check(where: str, record: Record) -> None:
    try:
        example(record)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _optional(path: Path) -> Sequence[Record] | None:
    return _records(path) if path.is_file() else None


def _kind(source: str, records: Sequence[Record]) -> Kind:
    generated = ["completion" in record for record in records]
    if all(generated):
        return "generation"
    if any(generated):
        raise UsageError(
            f"{source}: {sum(generated)} of {len(records)} lines have a 'completion', the others "
            "'candidates'; make two tasks of them"
        )
    shared = {frozenset(record["candidates"]) for record in records}
    return "classification" if len(shared) == 1 else "multiple-choice"


def _sizes(pool: Pool[Record]) -> Sizes:
    """The usual sizes; a split without a file of its own gets at most a fifth of the records."""
    fifth = len(pool.train) // 5
    dev = 500 if pool.dev is not None else min(500, fifth)
    test = 1000 if pool.test is not None else min(1000, fifth)
    return Sizes(1000, dev, test)

r"""A task of one's own: the records of a file, a folder, a hub data set, or rows in memory.

    FILE.jsonl .json .csv .tsv .parquet      FILE.dev.… and FILE.test.… beside it, where they exist
    FOLDER                                   train.…, dev.…, validation.… or test.…; or as saved by
                                             `datasets`
    hub:OWNER/NAME[:CONFIG]                  of the Hugging Face hub, by `datasets`

    records ──Reading──▶ fields ──Form──▶ Example         forms: zofx/tasks/catalog/forms.py

A split that is missing is drawn from the training records, a fifth of them at most. Every record is
checked before anything runs. All records of a task have one form. Labels, and candidates that are
the same in all records, in any order, make a classification task (cross-entropy over the
candidates), differing candidates a multiple-choice task, completions a generation task (both:
likelihood of the gold continuation).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from zofx.errors import UsageError
from zofx.tasks.catalog import forms
from zofx.tasks.catalog.forms import Context, Form
from zofx.tasks.catalog.nearest_form import advice
from zofx.tasks.catalog.reading import Reading
from zofx.tasks.data.data_sets import hub_splits, saved_data_set
from zofx.tasks.data.pool import Pool, Sizes
from zofx.tasks.data.sources import HUB, READERS, folder, placed
from zofx.tasks.types import NO_LIMIT, Example, Kind, Markup, Record, Task, Template

ROWS: Final = "rows"
"""The name of a task that is given as rows in memory."""

PLAIN: Final = Reading()


def is_path(name: str) -> bool:
    """Whether a name that is no task's is that of a file or a folder."""
    path = Path(name)
    return path.suffix in READERS or path.is_absolute() or path.is_dir()


def own_task(path: Path, reading: Reading = PLAIN) -> Task:
    """The task in a file or a folder. Every record of it is checked here, before anything runs.

    Raises:
        UsageError: with file, line or row, field and what to do.
    """
    if path.is_dir():
        pool = saved_data_set(path) or folder(path, "--task")
        return _task(path.name, str(path), _named(pool, str(path)), reading)
    if path.suffix not in READERS:
        raise UsageError(
            f"{path}: a task of one's own is a file that ends in {', '.join(READERS)}, or a folder "
            "of such files"
        )
    train, dev, test = (
        path.with_suffix(f"{split}{path.suffix}") for split in ("", ".dev", ".test")
    )
    dev_test = (placed(p) if p.is_file() else None for p in (dev, test))
    return _task(path.stem, str(path), Pool(placed(train), *dev_test), reading)


def hub_task(name: str, reading: Reading = PLAIN) -> Task:
    """The task of a data set on the Hugging Face hub.

    Args:
        name: "hub:OWNER/NAME" or "hub:OWNER/NAME:CONFIG".
        reading: how its records are read.

    Raises:
        UsageError: it is out of reach, or its records have no form.
    """
    repository, _, config = name.removeprefix(HUB).partition(":")
    pool = hub_splits(repository, config or None)
    return _task(repository.rpartition("/")[2], name, _named(pool, repository), reading)


def row_task(pool: Pool[Record], reading: Reading = PLAIN) -> Task:
    """The task of rows that are in memory, in the form of the records of a file.

    Raises:
        UsageError: with split, row, field and what to do.
    """
    if not pool.train:
        raise UsageError("there are no rows to train on; give at least one")
    return _task(ROWS, "Python rows", _named(pool, "", start=0), reading)


def write_rows(pool: Pool[Record], path: Path) -> None:
    """Write rows as the .jsonl files that `own_task` reads."""
    for split, rows in (
        (".jsonl", pool.train),
        (".dev.jsonl", pool.dev),
        (".test.jsonl", pool.test),
    ):
        if rows is not None:
            lines = "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
            path.with_suffix(split).write_text(lines, encoding="utf-8")


Placed = tuple[str, Record]
"""Where a record stands, and the record."""


def _named(pool: Pool[Record], where: str, start: int = 1) -> Pool[Placed]:
    """Records with their places: "folder train row 3"."""

    def named(split: str, records: Sequence[Record] | None) -> list[Placed] | None:
        if records is None:
            return None
        return [(f"{where} {split} row {n}".lstrip(), r) for n, r in enumerate(records, start)]

    train = named("train", pool.train)
    return Pool(train or [], named("dev", pool.dev), named("test", pool.test))


def _task(name: str, source: str, pool: Pool[Placed], reading: Reading) -> Task:
    """A task of records, each of which is checked."""
    # A name that the locale cannot read is shown as well as it goes: it stands in ids and messages.
    name = os.fsencode(name).decode(errors="replace")
    read = [(where, _read(where, record, reading)) for where, record in _all(pool)]
    context = Context(renamed=frozenset(reading.columns))
    form = _form(source, read, context)
    if form is forms.LABELLED:
        try:
            classes = forms.classes_of_labels([fields for _, fields in read], reading.labels)
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from None
        context = replace(context, classes=classes)
        for where, fields in read:
            _check(where, form, fields, context)
    kind = form.kind or _kind_of_choices([fields for _, fields in read], context)
    order = forms.candidates_of(read[0][1], context) if kind == "classification" else ()

    def template_of(markup: Markup) -> Template:
        return partial(_example, form, replace(context, markup=markup), reading, order)

    plain = Pool(
        [record for _, record in pool.train],
        *(None if part is None else [r for _, r in part] for part in (pool.dev, pool.test)),
    )
    return Task(
        name=name,
        summary=f"{len(plain.train)} prompts of one's own",
        source=source,
        licence="one's own",
        kind=kind,
        load=lambda: plain,
        template=template_of(Markup()),
        masked=template_of(Markup()),
        sizes=_sizes(plain),
        max_length=NO_LIMIT,
        for_model=template_of,
    )


def _all(pool: Pool[Placed]) -> Iterator[Placed]:
    for part in (pool.train, pool.dev, pool.test):
        yield from part or ()


def _read(where: str, record: Record, reading: Reading) -> Record:
    try:
        return reading.fields(record)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _form(source: str, read: Sequence[Placed], context: Context) -> Form:
    """The one form that all records have. Each is checked, but for labels, which take all of them.

    Raises:
        UsageError: one has none or is wrong, or they differ.
    """
    counts: Counter[Form] = Counter()
    for where, fields in read:
        form = forms.form_of(fields)
        if form is None:
            raise UsageError(f"{where}: {advice(fields)}")
        counts[form] += 1
        if form is not forms.LABELLED:
            _check(where, form, fields, context)
    if not counts:
        raise UsageError(f"{source}: the file holds no examples; write one JSON object per line")
    if len(counts) > 1:
        parts = ", ".join(f"{count} are {form.name}" for form, count in counts.most_common())
        raise UsageError(f"{source}: of {len(read)} records {parts}; make a task of each")
    return next(iter(counts))


def _check(where: str, form: Form, fields: Record, context: Context) -> None:
    try:
        forms.check(form, fields, context)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _example(
    form: Form, context: Context, reading: Reading, order: tuple[str, ...], record: Record
) -> Example:
    """The example of a record; classes are in the order of the first one, wherever they stand."""
    made = form.example(reading.fields(record), context)
    if not order or made.candidates == order:
        return made
    return replace(made, candidates=order, answer=order.index(made.candidates[made.answer]))


def _kind_of_choices(records: Sequence[Record], context: Context) -> Kind:
    shared = {frozenset(forms.candidates_of(record, context)) for record in records}
    return "classification" if len(shared) == 1 else "multiple-choice"


def _sizes(pool: Pool[Record]) -> Sizes:
    """The usual sizes; a split without a file of its own gets at most a fifth of the records."""
    fifth = len(pool.train) // 5
    dev = 500 if pool.dev is not None else min(500, fifth)
    test = 1000 if pool.test is not None else min(1000, fifth)
    return Sizes(1000, dev, test)

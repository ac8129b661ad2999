"""zofx check: what a task is to a model, before any step."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import columns
from zofx.cli.options import Artifact, Json, add_command, takes
from zofx.errors import UsageError
from zofx.options import checked, options_of, with_options
from zofx.tasks.selection import SPLITS, TaskChoice

if TYPE_CHECKING:
    from zofx.runs.task_data import Workload
    from zofx.tasks.data_report import DataReport, ReadToken
    from zofx.tasks.types import Example

MOST_SHOWN = 160
"""Characters of a prompt that are printed; a longer one is shown from both ends."""


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "check", check)


@takes(options_of(TaskChoice))
def check(
    artifact: Artifact,
    *,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Whose examples are shown.")
    ] = "train",
    show: Annotated[
        int, typer.Option("--show", min=0, metavar="N", help="How many, token by token.")
    ] = 1,
    json_: Json = False,
    **options: Any,
) -> None:
    """Show what a model reads of a task: no engine is loaded and no step is made.

    Counts and lengths of rows, what is cut, the balance of classes, and what is odd: prompts that
    repeat within a split or from one to another, classes that train lacks, label words that are
    easy to mix up. Then the first examples of a split token by token: behind a token stands what is
    scored there, the right answer with an asterisk.

    Examples:
        zofx check art --task trec
        zofx check art --task my-task.jsonl --max-length 512 --show 3
    """
    from zofx.runs.compiled_model import open_model
    from zofx.runs.task_data import open_workload

    given = checked(options, options_of(TaskChoice))
    if "task" not in given:
        raise UsageError("name a task: `--task NAME` or `--task FILE` (`zofx list tasks`)")
    if split not in SPLITS:
        raise UsageError(f"--split {split}: there are {', '.join(SPLITS)}")
    choice = with_options(TaskChoice(given["task"]), given)
    workload = open_workload(open_model(artifact), choice)
    report = workload.report(*SPLITS)
    examples = getattr(workload.splits, split)[:show]
    if json_:
        shown = [_example_fields(workload, example) for example in examples]
        about = {"task": workload.task.name, "kind": workload.task.kind}
        print(json.dumps({**about, **report.to_dict(), "rows": shown}, ensure_ascii=False))
    else:
        print("\n".join(_lines(artifact, workload, report, examples)))


def _lines(
    artifact: Path, workload: "Workload", report: "DataReport", examples: "tuple[Example, ...]"
) -> list[str]:
    task, limit = workload.task, report.max_length
    kept = "any number of" if limit is None else f"at most {limit}"
    return [
        f"task {task.name}: {task.kind}, from {task.source}",
        f"model {artifact}: {workload.model.manifest.model['architecture']}, rows of {kept} tokens",
        "",
        _lengths(report),
        *_class_table(report),
        *(line for example in examples for line in _shown(workload, example)),
        *(["", *(f"warning: {text}" for text in report.warnings)] if report.warnings else []),
    ]


def _lengths(report: "DataReport") -> str:
    head = ("", "examples", "rows", "tokens", "median", "95 %", "longest", "cut", "tokens cut")
    rows = [
        (name, *(f"{number:,}" for number in (
            s.examples, s.rows, s.tokens, s.median, s.p95, s.longest, s.cut, s.tokens_cut
        )))
        for name, s in report.splits.items()
    ]  # fmt: skip
    return columns([head, *rows])


def _class_table(report: "DataReport") -> list[str]:
    """How often each candidate is right, by split."""
    known = {name: split.classes for name, split in report.splits.items() if split.classes}
    if not known:
        return []
    candidates = next(iter(known.values()))
    rows = [
        (repr(text), *(_share(classes, text) for classes in known.values())) for text in candidates
    ]
    return ["", columns([("class", *known), *rows])]


def _share(classes: Mapping[str, int], text: str) -> str:
    count = classes.get(text, 0)
    return f"{count:,} ({count / sum(classes.values()):.0%})"


def _shown(workload: "Workload", example: "Example") -> list[str]:
    """An example: its text, then its rows token by token."""
    from zofx.tasks.data_report import read_row

    candidates = [
        f"  {'*' if index == example.answer else ' '} {text!r}"
        for index, text in enumerate(example.candidates)
    ]
    lines = ["", example.id, f"  prompt {_shortened(example.prompt)}", *candidates]
    rows = workload.encoder.rows(example)
    for number, row in enumerate(rows, start=1):
        cut = f", {row.cut} more cut on the left" if row.cut else ""
        merged = ", prompt and candidate tokenized apart" if row.merged else ""
        lines.append(f"  row {number} of {len(rows)}: {len(row.tokens)} tokens{cut}{merged}")
        lines.append(_tokens(read_row(workload.encoder, row), example.answer))
    return lines


def _tokens(tokens: "tuple[ReadToken, ...]", answer: int) -> str:
    rows = []
    for place, token in enumerate(tokens):
        scored = [
            f"{text!r}{'*' if candidate == answer else ''}"
            for candidate, text in token.scored.items()
        ]
        arrow = f"→ {'  '.join(scored)}" if scored else ""
        rows.append((str(place), str(token.id), repr(token.text), arrow))
    return columns(rows, "    ")


def _shortened(text: str) -> str:
    half = MOST_SHOWN // 2
    return repr(text) if len(text) <= MOST_SHOWN else f"{text[:half]!r} … {text[-half:]!r}"


def _example_fields(workload: "Workload", example: "Example") -> dict[str, Any]:
    from zofx.tasks.data_report import read_row

    encoder = workload.encoder
    rows = [
        {
            "cut": row.cut,
            "merged": row.merged,
            "tokens": [asdict(token) for token in read_row(encoder, row)],
        }
        for row in encoder.rows(example)
    ]
    return {
        "id": example.id, "prompt": example.prompt, "candidates": list(example.candidates),
        "answer": example.answer, "rows": rows,
    }  # fmt: skip

"""A task of one's own, and every message its file can cause."""

import json
from pathlib import Path
from typing import Any

import pytest

from zofx.errors import UsageError
from zofx.tasks import find_task
from zofx.tasks.catalog.jsonl_task import own_task
from zofx.tasks.data.pool import Sizes
from zofx.tasks.types import Example

CHOICE = {"prompt": "It was", "candidates": [" bad", " good"], "answer": 1}


def write(path: Path, *lines: Any) -> Path:
    """A .jsonl file; strings are written as they are."""
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_choice_task(tmp_path: Path) -> None:
    """Answers may be an index or a candidate's text; a fifth goes to dev and to test."""
    by_text = {**CHOICE, "answer": " bad"}
    task = find_task(str(write(tmp_path / "mine.jsonl", *[CHOICE] * 5, "", *[by_text] * 5)))
    assert (task.name, task.kind) == ("mine", "classification")
    assert task.sizes == Sizes(1000, 2, 2)
    splits = task.splits()
    everything = [*splits.train, *splits.dev, *splits.test]
    assert [len(part) for part in (splits.train, splits.dev, splits.test)] == [6, 2, 2]
    assert sorted(example.answer for example in everything) == [0] * 5 + [1] * 5
    assert {example.candidates for example in everything} == {(" bad", " good")}


def test_files_beside(tmp_path: Path) -> None:
    """FILE.dev.jsonl and FILE.test.jsonl are used whole, and FILE.jsonl is all trained on."""
    path = write(tmp_path / "mine.jsonl", *[CHOICE] * 4)
    write(tmp_path / "mine.dev.jsonl", {**CHOICE, "prompt": "dev"})
    write(tmp_path / "mine.test.jsonl", *[{**CHOICE, "prompt": "test"}] * 3)
    splits = own_task(path).splits()
    assert len(splits.train) == 4
    assert [example.prompt for example in splits.dev] == ["dev"]
    assert [example.prompt for example in splits.test] == ["test"] * 3


def test_multiple_choice_task(tmp_path: Path) -> None:
    """Candidates that differ between lines make a multiple-choice task."""
    other = {"prompt": "Two and two is", "candidates": [" four", " five"], "answer": 0}
    assert own_task(write(tmp_path / "mine.jsonl", CHOICE, other)).kind == "multiple-choice"


def test_generation_task(tmp_path: Path) -> None:
    """Completions make a generation task judged by F1 against the text of the completion."""
    line = {"prompt": "Legs of an ant?\nAnswer:", "completion": " six\n"}
    task = own_task(write(tmp_path / "mine.jsonl", line))
    assert task.kind == "generation"
    assert task.splits().train == (
        Example(
            "Legs of an ant?\nAnswer:",
            (" six\n",),
            references=("six",),
            id="mine train record 0",
        ),
    )


def test_masked_task(tmp_path: Path) -> None:
    """One's own prompts serve a masked model as they are."""
    line = {**CHOICE, "prompt": "It was [MASK] ."}
    (example,) = own_task(write(tmp_path / "m.jsonl", line)).splits(masked=True).train
    assert example.prompt == "It was [MASK] ."


BAD: tuple[tuple[Any, str], ...] = (
    (
        "{bad",
        "not JSON: Expecting property name enclosed in double quotes at column 2; "
        "write one object per line (.jsonl) or one list of them (.json)",
    ),
    ("[1]", "expected an object, found list"),
    ({"candidates": ["a", "b"], "answer": 0}, "field 'prompt' is missing; add it as a string"),
    ({**CHOICE, "prompt": "  "}, "field 'prompt' is '  '; make it a non-empty string"),
    ({**CHOICE, "prompt": 3}, "field 'prompt' is 3; make it a non-empty string"),
    (
        {**CHOICE, "candidates": ["a"]},
        "field 'candidates' is ['a']; make it a list of two or more different, non-empty strings",
    ),
    (
        {**CHOICE, "candidates": ["a", "a"]},
        "field 'candidates' is ['a', 'a']; make it a list of two or more different, "
        "non-empty strings",
    ),
    (
        {**CHOICE, "candidates": "ab"},
        "field 'candidates' is 'ab'; make it a list of two or more different, non-empty strings",
    ),
    (
        {"prompt": "x", "candidates": ["a", "b"]},
        "field 'answer' is missing; add a candidate's index or text",
    ),
    (
        {**CHOICE, "answer": 2},
        "field 'answer' is 2; make it an index from 0 to 1, or one of ' bad', ' good'",
    ),
    (
        {**CHOICE, "answer": -1},
        "field 'answer' is -1; make it an index from 0 to 1, or one of ' bad', ' good'",
    ),
    (
        {**CHOICE, "answer": True},
        "field 'answer' is True; make it an index from 0 to 1, or one of ' bad', ' good'",
    ),
    (
        {**CHOICE, "answer": "good"},
        "field 'answer' is 'good'; make it an index from 0 to 1, or one of ' bad', ' good'",
    ),
    (
        {"prompt": "x", "completion": ""},
        "field 'completion' is ''; make it a non-empty string",
    ),
    ({**CHOICE, "completion": "y"}, "has both 'candidates' and 'completion'; keep one of them"),
)


@pytest.mark.parametrize(("line", "message"), BAD, ids=[message[:50] for _, message in BAD])
def test_bad_line(tmp_path: Path, line: Any, message: str) -> None:
    """A bad line is named by file, line, field and remedy; empty lines are counted."""
    path = write(tmp_path / "mine.jsonl", CHOICE, "", line)
    with pytest.raises(UsageError) as error:
        own_task(path)
    assert str(error.value) == f"{path}:3: {message}"


def test_bad_line_beside(tmp_path: Path) -> None:
    """A bad line in the test file is reported before training starts."""
    path = write(tmp_path / "mine.jsonl", CHOICE)
    beside = write(tmp_path / "mine.test.jsonl", {"prompt": "x"})
    with pytest.raises(
        UsageError,
        match=r"mine\.test\.jsonl:1: no form is known of a record with the fields prompt",
    ) as error:
        own_task(path)
    assert str(beside) in str(error.value)


def test_bad_files(tmp_path: Path) -> None:
    """Missing, empty, mixed, differently named and wrongly encoded files each have a message."""
    path = tmp_path / "mine.jsonl"
    with pytest.raises(UsageError, match=r"mine\.jsonl: there is no such file"):
        own_task(path)
    write(path, "")
    with pytest.raises(UsageError, match=r"the file holds no examples"):
        own_task(path)
    write(path, CHOICE, {"prompt": "x", "completion": "y"})
    with pytest.raises(UsageError, match=r"of 2 records 1 are a choice, 1 are a completion"):
        own_task(path)
    path.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(UsageError, match=r"invalid start byte; save it as UTF-8"):
        own_task(path)
    with pytest.raises(UsageError, match=r"is a file that ends in \.jsonl, \.json, \.tsv, \.csv, "):
        own_task(tmp_path / "mine.xls")


def test_unknown_task() -> None:
    """A name close to a task's is answered with that task."""
    with pytest.raises(UsageError, match=r"there is no task 'sst-2'; did you mean sst2"):
        find_task("sst-2")


def test_classes_are_a_set(tmp_path: Path) -> None:
    """Labels in another order on a line of the test file: the same classes, the same objective."""
    line = {"prompt": "it was", "candidates": [" bad", " good"], "answer": 1}
    other = {"prompt": "he was", "candidates": [" good", " bad"], "answer": 0}
    (tmp_path / "mood.jsonl").write_text((json.dumps(line) + "\n") * 10)
    (tmp_path / "mood.test.jsonl").write_text(json.dumps(other) + "\n")
    task = own_task(tmp_path / "mood.jsonl")
    assert task.kind == "classification"
    (test,) = task.splits().test
    assert (test.candidates, test.answer) == ((" bad", " good"), 1)

"""Files as people have them: every form, every kind of file, names and templates of one's own."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from zofx.errors import UsageError
from zofx.tasks import find_task, is_own
from zofx.tasks.catalog.forms import FORMS
from zofx.tasks.catalog.jsonl_task import own_task, row_task
from zofx.tasks.catalog.reading import Reading
from zofx.tasks.data.data_sets import with_label_names
from zofx.tasks.data.pool import Pool
from zofx.tasks.selection import TaskChoice, open_task
from zofx.tasks.types import Example, Markup, Task

MARKUP = Markup("<s>", "</s>")

FILMS = [{"review": "dull", "stars": 1}, {"review": "a joy", "stars": 5}]
NAMED = "prompt=review label=stars"


def first(task: Task) -> Example:
    """The first record as an example of a model with marks."""
    assert task.for_model
    return task.for_model(MARKUP)(task.load().train[0])


def read(rows: Sequence[Mapping[str, Any]], *options: str | None) -> Task:
    return row_task(Pool(rows), Reading.of(*options))


EXAMPLES: list[tuple[Sequence[Mapping[str, Any]], tuple[str | None, ...], Example]] = [
    (
        [{"prompt": "It was", "completion": " six\n", "id": 3}],
        (),
        Example("It was", (" six\n",), references=("six",)),
    ),
    (
        [{"question": "Legs?", "answer": "six"}],
        ("prompt=question completion=answer",),
        Example("Legs?", (" six</s>",), references=("six",)),
    ),
    (
        [{"question": "Legs?", "answer": "six"}],
        ("completion=answer", r"Q: {question}\nA:\n"),
        Example("Q: Legs?\nA:\n", ("six</s>",), references=("six",)),
    ),
    (
        [{"instruction": "Say six.", "input": "", "output": "six"}],
        (),
        Example("### Instruction:\nSay six.\n\n### Response:\n", ("six</s>",), references=("six",)),
    ),
    (
        [{"instruction": "Add.", "input": "2 4", "output": "six\n"}],
        (),
        Example(
            "### Instruction:\nAdd.\n\n### Input:\n2 4\n\n### Response:\n",
            ("six</s>",),
            references=("six",),
        ),
    ),
    (
        [{"prompt": "Legs?", "response": "six"}],
        (),
        Example("Legs?", (" six</s>",), references=("six",)),
    ),
    (
        [{"text": "An ant has legs.", "url": "x"}],
        (),
        Example("An", (" ant has legs.</s>",), references=("ant has legs.",)),
    ),
    (
        [{"text": "dull", "label": "bad"}, {"text": "a joy", "label": "good"}],
        (),
        Example("dull", (" bad", " good"), 0),
    ),
    (FILMS, (NAMED,), Example("dull", (" 1", " 5"), 0)),
    (
        FILMS,
        ("label=stars", "{review} ({stars}). It was", "5=great 1=terrible"),
        Example("dull (1). It was", (" great", " terrible"), 1),
    ),
    (FILMS, ("label=stars", r"{review}\n"), Example("dull\n", ("1", "5"), 0)),
    (
        [{"q": "Two and two", "choices": ["four", "five"], "answer": 0}],
        ("prompt=q,candidates=choices",),
        Example("Two and two", (" four", " five"), 0),
    ),
    (
        [{"prompt": "It was", "candidates": '[" bad", " good"]', "answer": "1"}],
        (),
        Example("It was", (" bad", " good"), 1),
    ),
]


@pytest.mark.parametrize(("rows", "options", "expected"), EXAMPLES)
def test_a_record_becomes_an_example(
    rows: Sequence[Mapping[str, Any]], options: tuple[str | None, ...], expected: Example
) -> None:
    """What is written under its own name stays; else a space, and the model's end of text, join."""
    assert first(read(rows, *options)) == expected


KINDS: list[tuple[Mapping[str, Any], str]] = [
    (FORMS[0].shown, "generation"),
    (FORMS[1].shown, "classification"),
    (FORMS[2].shown, "generation"),
    (FORMS[3].shown, "generation"),
    (FORMS[5].shown, "generation"),
]


@pytest.mark.parametrize(("record", "kind"), KINDS)
def test_what_a_message_shows_is_taken(record: Mapping[str, Any], kind: str) -> None:
    """Every form's own example is a task, whatever other fields stand beside it."""
    assert read([{**record, "id": 7}]).kind == kind


def test_labels_are_in_the_order_of_numbers_or_of_the_alphabet() -> None:
    """1, 1.0 and "1" are one class; 10 comes after 2."""
    rows = [{"text": "a", "label": label} for label in (10, 2, 2.0, "10", 1.0)]
    assert first(read(rows)).candidates == (" 1", " 2", " 10")
    words = [{"text": "a", "label": label} for label in ("pos", "neg", "pos")]
    assert first(read(words)).candidates == (" neg", " pos")


def as_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_json(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8")


def as_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(
        "review,stars\n" + "".join(f'"{r["review"]}",{r["stars"]}\n' for r in rows),
        encoding="utf-8",
    )


def as_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(
        "review\tstars\n" + "".join(f"{r['review']}\t{r['stars']}\n" for r in rows),
        encoding="utf-8",
    )


def as_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    Dataset.from_list(list(rows)).to_parquet(path)


WRITERS: Mapping[str, Callable[[Path, Sequence[Mapping[str, Any]]], None]] = {
    ".jsonl": as_jsonl, ".json": as_json, ".csv": as_csv, ".tsv": as_tsv, ".parquet": as_parquet,
}  # fmt: skip


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_reads_alike(tmp_path: Path, suffix: str) -> None:
    """The same rows, the same examples; the dev file beside is used."""
    WRITERS[suffix](tmp_path / f"films{suffix}", FILMS)
    WRITERS[suffix](tmp_path / f"films.dev{suffix}", FILMS[:1])
    task = find_task(str(tmp_path / f"films{suffix}"), Reading.of(NAMED))
    splits = task.splits()
    assert (task.name, task.kind) == ("films", "classification")
    assert {(e.prompt, e.candidates, e.answer) for e in splits.train} == {
        ("dull", (" 1", " 5"), 0),
        ("a joy", (" 1", " 5"), 1),
    }
    assert [example.prompt for example in splits.dev] == ["dull"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_folder_is_a_task(tmp_path: Path, suffix: str) -> None:
    """train.…, dev.… and test.… in it."""
    for split, rows in (("train", FILMS), ("dev", FILMS[:1]), ("test", FILMS[1:])):
        WRITERS[suffix](tmp_path / f"{split}{suffix}", rows)
    splits = find_task(str(tmp_path), Reading.of(NAMED)).splits()
    assert [len(part) for part in (splits.train, splits.dev, splits.test)] == [2, 1, 1]


def test_a_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's own name comes first."""
    for name in ("films", "trec", "rows"):
        (tmp_path / name).mkdir()
        as_csv(tmp_path / name / "train.csv", FILMS)
    monkeypatch.chdir(tmp_path)
    assert find_task("films", Reading.of(NAMED)).name == "films"
    assert [is_own(name) for name in ("films", "trec", "rows", "nothing")] == [
        True, False, True, False,
    ]  # fmt: skip


def labelled() -> Dataset:
    rows = [{"text": "dull", "label": 0}, {"text": "a joy", "label": 1}]
    return Dataset.from_list(rows).cast_column("label", ClassLabel(names=["negative", "positive"]))


def test_names_of_labels_are_read_where_a_data_set_has_them(tmp_path: Path) -> None:
    """In memory, in parquet, as saved by `datasets`, and by its loader: names, no numbers."""
    labelled().to_parquet(tmp_path / "films.parquet")
    DatasetDict(train=labelled(), validation=labelled()).save_to_disk(tmp_path / "saved")
    labelled().save_to_disk(tmp_path / "alone")
    (tmp_path / "hub").mkdir()
    labelled().to_parquet(tmp_path / "hub" / "train.parquet")
    tasks = [
        row_task(Pool(list(with_label_names(labelled())))),
        *(find_task(str(tmp_path / name)) for name in ("films.parquet", "saved", "alone")),
        find_task(f"hub:{tmp_path / 'hub'}"),
    ]
    for task in tasks:
        assert first(task) == Example("dull", (" negative", " positive"), 0)
    dev = tasks[2].load().dev
    assert dev is not None
    assert len(dev) == 2
    assert tasks[1].load().dev is None


WRONG: list[tuple[Sequence[Mapping[str, Any]], tuple[str | None, ...], str]] = [
    (FILMS, (), r"row 0: no form is known of a record with the fields review, stars. The nearest "
                r"is a text and its label:\n    {\"prompt\": \"a thin plot. It was\", \"label\": "
                r"\"bad\"}\nName its fields with --columns 'prompt=review label=stars'"),
    ([{"question": "x", "answer": "y"}], (), r"--columns '(prompt|completion)=question"),
    ([{"a": 1}], (), "'messages=FIELD'|FIELD"),
    ([{"text": "x", "stars": 3}], (), "--columns 'label=stars'"),
    (FILMS, ("prompt=title label=stars",), "row 0: --columns prompt=title: there is no field "
                                           "'title'; there are: review, stars"),
    (FILMS, ("prompt",), "--columns 'prompt': 'prompt' is no NAME=VALUE"),
    (FILMS, ("prompt='a",), "close the quotation"),
    (FILMS, ("label=stars label=review",), "'label' is there twice"),
    (FILMS, ("label=stars", "{title}"), "row 0: --template: there is no field 'title'"),
    (FILMS, ("label=stars", "no hole"), "name the fields of a record in braces"),
    (FILMS, ("label=stars", "{review"), "a brace of the text is written twice"),
    (FILMS, ("label=stars", "{review!r}"), "name the fields"),
    (FILMS, ("label=stars", "{review.__class__}"), "there is no field 'review.__class__'"),
    (FILMS, (NAMED, None, "1=bad"), "--labels: there are no words for label '5'"),
    (FILMS[:1], (NAMED,), "every label is '1'"),
    ([{"text": "a", "label": []}, *FILMS], (), r"label \[\] is no name|of 3 records|no form"),
    ([{"text": "a", "label": n} for n in range(65)], (), "65 different values.*completion=label"),
    ([{"text": "a", "label": 1}, {"prompt": "a", "completion": "b"}], (), "of 2 records"),
    ([{"text": "alone"}], (), "one word has nothing that follows"),
    ([{"messages": "hello"}], (), "field 'messages' is no list of objects"),
    ([{"messages": [{"role": "user", "content": "x"}]}], (), "the assistant says nothing"),
    ([{"messages": [{"role": "user", "text": "x"}]}], (), "message 1 has the fields role, text"),
    ([{"instruction": "x", "output": ""}], (), "field 'output' is ''"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "options", "message"), WRONG)
def test_what_cannot_be_read_says_what_would_be(
    rows: Sequence[Mapping[str, Any]], options: tuple[str | None, ...], message: str
) -> None:
    """Where, what, and the nearest form or option."""
    with pytest.raises(UsageError, match=message):
        read(rows, *options)


def test_every_form_is_shown_to_who_has_none() -> None:
    """A line each, and each line is JSON."""
    with pytest.raises(UsageError) as error:
        read([{"a": 1}])
    shown = [json.loads(line) for line in str(error.value).splitlines() if line.startswith("    ")]
    assert all(form.shown in shown for form in FORMS)


def test_bad_files_are_named(tmp_path: Path) -> None:
    """A row of a table has a number; no parquet, no data set, no such file."""
    (tmp_path / "films.csv").write_text("review,stars\ndull,1\n")
    with pytest.raises(UsageError, match=r"films\.csv row 1: no form is known"):
        own_task(tmp_path / "films.csv")
    (tmp_path / "films.parquet").write_text("nothing of the kind")
    with pytest.raises(UsageError, match=r"films\.parquet is no parquet file"):
        own_task(tmp_path / "films.parquet")
    with pytest.raises(UsageError, match="there is no such file"):
        own_task(tmp_path / "other.parquet")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read by `datasets`"):
        own_task(tmp_path / "saved")
    with pytest.raises(UsageError, match="there is no train file"):
        own_task(tmp_path)
    with pytest.raises(UsageError, match="did not load from the Hugging Face hub"):
        find_task(f"hub:{tmp_path / 'nothing'}")
    with pytest.raises(UsageError, match="task 'trec' has prompts of its own"):
        find_task("trec", Reading.of("prompt=a"))


def test_options_of_a_run_read_rows() -> None:
    """The choice of a run names columns and words; without a model there are no marks."""
    choice = TaskChoice("rows", columns="prompt=review label=stars", labels="1=bad 5=good")
    task, splits = open_task(choice, masked=False, own=Pool(FILMS))
    assert task.kind == "classification"
    assert {e.candidates for e in splits.train} == {(" bad", " good")}

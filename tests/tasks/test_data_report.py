"""What a task is to a model: counts, cuts, classes, and one warning per oddity."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.tasks.test_encode import BOS, PAD, letters, words
from zofx.errors import UsageError
from zofx.tasks.data_report import data_report, read_row
from zofx.tasks.encode import Encoder
from zofx.tasks.types import NO_LIMIT, Example

TEXT = "the film was good . It bad fine great so dull New York Jersey"
PAIR = (" bad", " great")
GOOD = Example("the film was good . It was", PAIR, 1)
DULL = Example("the film was dull . It was", PAIR, 0)
FINE = Example("the film was fine . It was", PAIR, 1)
SO = Example("the film was so dull . It was", PAIR, 0)


def encoder(max_length: int = NO_LIMIT) -> Encoder:
    return Encoder(words(TEXT), BOS, PAD, None, max_length)


def warnings(train: Sequence[Example], dev: Sequence[Example] = ()) -> tuple[str, ...]:
    return data_report(encoder(), {"train": train, "dev": dev}).warnings


def test_counts_are_those_of_the_rows() -> None:
    """Lengths are of the rows as encoded; what is cut is the difference to rows that keep all."""
    examples = [GOOD, DULL, FINE, SO]
    whole, short = (data_report(encoder(n), {"train": examples, "dev": ()}) for n in (NO_LIMIT, 6))
    lengths = [len(row.tokens) for e in examples for row in encoder().rows(e)]
    train, cut = whole.splits["train"], short.splits["train"]
    assert list(whole.splits) == ["train"]
    assert (train.examples, train.rows, train.tokens) == (4, 4, sum(lengths))
    assert (train.median, train.p95, train.longest) == (8, max(lengths), max(lengths))
    assert (train.cut, whole.max_length, whole.cuts) == (0, None, ())
    assert (cut.cut, cut.tokens_cut) == (4, train.tokens - cut.tokens)
    assert (cut.longest, short.max_length) == (5, 6)  # the row is without its last token
    assert short.cuts == (
        f"train: 4 of 4 rows are cut to 6 tokens; their prompts lose {cut.tokens_cut} tokens "
        "on the left. --max-length sets how many they keep",
    )
    assert train.classes == {" bad": 2, " great": 2}


def test_candidates_of_several_tokens_take_a_row_each() -> None:
    """Rows are counted, not examples; completions and unequal candidates have no classes."""
    example = Example("the film was", (" so good", " so dull"), 0)
    other = Example("the film was", (" so dull", " great"), 0)
    report = data_report(encoder(), {"train": [example, other]}).splits["train"]
    assert (report.examples, report.rows, report.classes) == (2, 4, None)
    alone = data_report(encoder(), {"train": [Example("the film was", (" good",))]})
    assert alone.splits["train"].classes is None


ODD: list[tuple[list[Example], list[Example], str]] = [
    ([GOOD, DULL, GOOD], [], "1 of 3 examples repeat the prompt of another one"),
    ([GOOD, DULL, replace(GOOD, answer=0)], [], "1 prompts have more than one answer"),
    ([GOOD, DULL], [FINE, GOOD], "1 of 2 dev examples have a prompt of train"),
    ([GOOD, FINE], [DULL], "every answer is ' great', so always giving it is right"),
    (
        [replace(e, candidates=(*PAIR, " fine")) for e in (GOOD, DULL)],
        [replace(FINE, candidates=(*PAIR, " fine"), answer=2)],
        "no example of ' fine', and there are 1 in dev",
    ),
    (
        [replace(e, candidates=(" New York", " New Jersey")) for e in (GOOD, DULL)],
        [],
        "candidates ' New York' and ' New Jersey' begin with the same token",
    ),
    ([GOOD, DULL, Example("so " * 150 + "It was", PAIR, 0)] + [FINE, SO] * 20, [], "153 tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "dev", "message"), ODD, ids=[row[2][:30] for row in ODD])
def test_what_is_odd_is_reported(train: list[Example], dev: list[Example], message: str) -> None:
    """One sentence with numbers and what to do."""
    assert any(message in warning for warning in warnings(train, dev)), warnings(train, dev)


def test_what_is_not_odd_is_not_reported() -> None:
    """Different prompts, both classes, words alike."""
    assert warnings([GOOD, DULL], [FINE, SO]) == ()


def test_a_missing_space_and_a_merge_are_reported() -> None:
    """A bare word beside a spaced one; a prompt whose end merges with a candidate."""
    merging = Encoder(letters([("n", "a")]), None, PAD, None, NO_LIMIT)
    example = Example("un", ("able", " happy"), 0)
    warnings = data_report(merging, {"train": [example, replace(example, answer=1)]}).warnings
    assert any("'able' has no leading space where ' happy' has one" in text for text in warnings)
    assert any("1 rows" not in text and "tokenized apart" in text for text in warnings)


def test_an_example_that_cannot_be_encoded_is_an_error() -> None:
    """It is named."""
    strict = replace(encoder(5), truncate=False)
    with pytest.raises(UsageError, match="mine: 9 tokens do not fit the 5 positions"):
        data_report(strict, {"train": [replace(GOOD, id="mine")]})


def test_a_row_is_read_token_by_token() -> None:
    """Every token has its id and its name; candidates stand at the position that predicts them."""
    (row,) = encoder().rows(GOOD)
    tokens = read_row(encoder(), row)
    assert [token.id for token in tokens] == list(row.tokens)
    assert [token.text for token in tokens][:3] == ["<s>", "the", " film"]
    assert [token.scored for token in tokens[:-1]] == [{}] * (len(tokens) - 1)
    assert tokens[-1].scored == {0: " bad", 1: " great"}

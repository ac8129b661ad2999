"""What a model will read of a task, and what is odd about it: asked before the first step.

    examples ──Encoder.rows──▶ rows ──▶ SplitReport   how many, how long, how many cut, which class
    splits ──▶ warnings    repeated prompts, one class alone, label words that are easy to mix up

Every example is encoded once, so one that cannot be is an error here. A warning is no error: it
names what was seen, how often, and what to do.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from zofx.tasks.encode import Encoder
from zofx.tasks.rows import Row
from zofx.tasks.types import NO_LIMIT, Example

OUTLIER: Final = 4
"""A row that is so many times longer than 95 % of the others is reported …"""

OUTLIER_TOKENS: Final = 128
"""… if it has this many tokens."""


@dataclass(frozen=True)
class SplitReport:
    """The rows of a split.

    Attributes:
        examples: how many there are.
        rows: how many rows they make.
        tokens: of all rows, without padding.
        median: tokens of a row.
        p95: tokens that 95 % of the rows do not exceed.
        longest: tokens of the longest row.
        cut: rows that lost tokens of their prompt, on its left.
        tokens_cut: how many tokens these lost together.
        merged: rows where the tokenizer merges prompt and candidate; these are tokenized apart.
        classes: gold candidate → examples, where all examples share their candidates.
    """

    examples: int
    rows: int
    tokens: int
    median: int
    p95: int
    longest: int
    cut: int
    tokens_cut: int
    merged: int
    classes: Mapping[str, int] | None


@dataclass(frozen=True)
class DataReport:
    """What a task is to a model.

    Attributes:
        max_length: tokens a row may have; None if nothing bounds them.
        splits: name → its rows; splits without examples are left out.
        warnings: what is odd, each with what to do.
    """

    max_length: int | None
    splits: Mapping[str, SplitReport]
    warnings: tuple[str, ...]

    @property
    def cuts(self) -> tuple[str, ...]:
        """A line per split with rows that were cut."""
        return tuple(_about_cuts(self.splits, self.max_length))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def data_report(encoder: Encoder, splits: Mapping[str, Sequence[Example]]) -> DataReport:
    """Encode every example of some splits once, and count.

    Args:
        encoder: of the model.
        splits: name → examples.

    Raises:
        UsageError: names the example that cannot be encoded.
    """
    full = {name: examples for name, examples in splits.items() if examples}
    reports = {name: _split(encoder, examples) for name, examples in full.items()}
    limit = encoder.max_length if encoder.max_length < NO_LIMIT else None
    warnings = (
        *_about_cuts(reports, limit),
        *_about_rows(reports),
        *_about_prompts(full),
        *_about_classes(full, reports),
        *_about_labels(encoder, full),
    )
    return DataReport(limit, reports, warnings)


def _split(encoder: Encoder, examples: Sequence[Example]) -> SplitReport:
    rows = [row for example in examples for row in encoder.rows(example)]
    lengths = np.array([len(row.tokens) for row in rows])
    return SplitReport(
        examples=len(examples),
        rows=len(rows),
        tokens=int(lengths.sum()),
        median=int(np.median(lengths)),
        p95=int(np.quantile(lengths, 0.95, method="higher")),
        longest=int(lengths.max()),
        cut=sum(row.cut > 0 for row in rows),
        tokens_cut=sum(row.cut for row in rows),
        merged=sum(row.merged for row in rows),
        classes=_classes(examples),
    )


def _classes(examples: Sequence[Example]) -> dict[str, int] | None:
    """Gold candidate → how many examples, in the order of the candidates."""
    shared = {example.candidates for example in examples}
    if len(shared) != 1 or len(examples[0].candidates) == 1:
        return None
    counts = Counter(example.candidates[example.answer] for example in examples)
    return {candidate: counts[candidate] for candidate in examples[0].candidates}


def _about_cuts(reports: Mapping[str, SplitReport], limit: int | None) -> Iterator[str]:
    """Rows that are cut."""
    for name, split in reports.items():
        if split.cut:
            yield (
                f"{name}: {split.cut} of {split.rows} rows are cut to {limit} tokens; their "
                f"prompts lose {split.tokens_cut} tokens on the left. --max-length sets how many "
                "they keep"
            )


def _about_rows(reports: Mapping[str, SplitReport]) -> Iterator[str]:
    """Rows that are much longer than others, or merge."""
    for name, split in reports.items():
        if split.longest >= max(OUTLIER_TOKENS, OUTLIER * split.p95):
            yield (
                f"{name}: a row has {split.longest} tokens where 95 % have at most {split.p95}: a "
                "batch that holds it takes that much more memory; shorten it, or cut with "
                "--max-length"
            )
        if split.merged:
            yield (
                f"{name}: in {split.merged} of {split.rows} rows the tokenizer merges the end of "
                "the prompt with the candidate, so the two are tokenized apart; where that is not "
                "meant, begin candidates with a space"
            )


def _about_prompts(splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    """Examples that repeat, within a split and from one to another."""
    for name, examples in splits.items():
        prompts = Counter((e.prompt, frozenset(e.candidates)) for e in examples)
        if repeated := len(examples) - len(prompts):
            yield f"{name}: {repeated} of {len(examples)} examples repeat the prompt of another one"
        answers = {(e.prompt, frozenset(e.candidates), e.candidates[e.answer]) for e in examples}
        if unsure := len(answers) - len(prompts):
            yield f"{name}: {unsure} prompts have more than one answer; no model can know which"
    names = list(splits)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            seen = {example.prompt for example in splits[first]}
            both = sum(example.prompt in seen for example in splits[second])
            if both:
                yield (
                    f"{both} of {len(splits[second])} {second} examples have a prompt of {first}: "
                    f"what {second} measures is partly remembered; take them out of one of the two"
                )


def _about_classes(
    splits: Mapping[str, Sequence[Example]], reports: Mapping[str, SplitReport]
) -> Iterator[str]:
    """Classes that do not occur where they are learnt."""
    train = reports.get("train")
    if train is None or train.classes is None:
        return
    seen = [candidate for candidate, count in train.classes.items() if count]
    if len(seen) == 1:
        yield (
            f"train: every answer is {seen[0]!r}, so always giving it is right; add examples of "
            "the others"
        )
        return
    for candidate, count in train.classes.items():
        elsewhere = {
            name: split.classes[candidate]
            for name, split in reports.items()
            if name != "train" and split.classes and split.classes.get(candidate)
        }
        if not count and elsewhere:
            where = " and ".join(f"{number} in {name}" for name, number in elsewhere.items())
            yield f"train: no example of {candidate!r}, and there are {where}; add some to train"


def _about_labels(encoder: Encoder, splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    """Label words that are easy to mix up; of tasks with classes."""
    examples = next(iter(splits.values()), ())
    if not examples or _classes(examples) is None or encoder.mask_id is not None:
        return
    example = examples[0]
    spaced = [text for text in example.candidates if text[:1].isspace()]
    if 0 < len(spaced) < len(example.candidates):
        bare = next(text for text in example.candidates if not text[:1].isspace())
        yield (
            f"candidate {bare!r} has no leading space where {spaced[0]!r} has one: the model reads "
            "them as different kinds of words; write all of them alike"
        )
    if all(text.strip().isdecimal() for text in example.candidates):
        yield (
            "the classes are numbers: a model knows more of words. --labels gives them some, as in "
            "--labels '0=terrible 1=great'"
        )
    prompt = encoder.prompt_ids(example)
    first: dict[int, str] = {}
    for index, text in enumerate(example.candidates):
        ids, _ = encoder.option_ids(example, index, prompt)
        other = first.setdefault(ids[0], text)
        if other != text:
            yield (
                f"candidates {other!r} and {text!r} begin with the same token, so their scores are "
                "close; words that differ at once train faster"
            )


@dataclass(frozen=True)
class ReadToken:
    """A token of a row, and what is scored at it.

    Attributes:
        id: of the token.
        text: as the tokenizer names it.
        scored: candidate → the token that its score takes there; empty where nothing is scored.
    """

    id: int
    text: str
    scored: Mapping[int, str]


def read_row(encoder: Encoder, row: Row) -> tuple[ReadToken, ...]:
    """A row token by token."""

    def name(index: int) -> str:
        return encoder.tokenizer.id_to_token(index) or f"#{index}"

    scored = {
        position: dict(zip(row.candidates, map(name, targets), strict=True))
        for position, targets in zip(row.positions, row.targets, strict=True)
    }
    return tuple(
        ReadToken(index, name(index), scored.get(place, {}))
        for place, index in enumerate(row.tokens)
    )

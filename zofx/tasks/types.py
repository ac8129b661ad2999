"""The words of a task: records in, examples out.

    records ──draw──▶ records of train, dev, test ──template──▶ Examples ──encode──▶ rows of a Batch

A record is what a data set stores; a template turns it into an example: a prompt with candidates
(one is right) or with a completion. Templates run only on the records that are drawn, so a task on
100,000 records costs 2,500.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zofx.errors import UsageError
from zofx.tasks.data.pool import Pool, Sizes
from zofx.tasks.data.sources import folder

if TYPE_CHECKING:
    from zofx.tasks.data.splits import Drawn

Record: TypeAlias = Mapping[str, Any]
Kind: TypeAlias = Literal["classification", "multiple-choice", "generation"]

MASK = "[MASK]"
"""Stands in a masked template where the tokenizer's own mask token goes."""

NO_LIMIT = 1 << 30
"""Of tokens, where a model or a task names none."""


@dataclass(frozen=True)
class Example:
    """One prompt and what should follow it.

    Attributes:
        prompt: what the model reads; for a masked model it holds MASK once.
        candidates: the continuations to choose from, each written right after the prompt; for a
            generation task the one gold completion.
        answer: index of the gold candidate; training uses it.
        accepted: indices that also count as right in the accuracy (ReCoRD lists several).
        references: gold answers as text, for EM and F1 of generated text.
        id: where the example comes from, for messages.
        turns: places in the prompt that are scored like the candidate: earlier turns of the
            assistant of a conversation; pairs of first character and the one after the last.
    """

    prompt: str
    candidates: tuple[str, ...]
    answer: int = 0
    accepted: tuple[int, ...] = ()
    references: tuple[str, ...] = ()
    id: str = ""
    turns: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for index in (self.answer, *self.accepted):
            if not 0 <= index < len(self.candidates):
                raise UsageError(
                    f"answer {index} is not the index of one of the {len(self.candidates)} "
                    f"candidates of '{self.prompt[:60]}'; indices count from 0"
                )


def references(example: Example) -> tuple[str, ...]:
    """What a text is compared with: the references, or else the gold completion."""
    return example.references or (example.candidates[example.answer],)


@dataclass(frozen=True)
class Markup:
    """What a model has written around its texts.

    Attributes:
        bos: the text of its first token; empty where there is none.
        eos: of its last one.
        chat_template: its conversations, as a Jinja program.
    """

    bos: str = ""
    eos: str = ""
    chat_template: str | None = None


Template: TypeAlias = Callable[[Record], Example]


@dataclass(frozen=True)
class Splits:
    """The examples of a run."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True)
class Task:
    """A data set with its prompt and its training objective.

    Attributes:
        name: as in `--task NAME`.
        summary: one line.
        source: where the records come from, and whose prompt it is.
        licence: of the records.
        kind: what training minimises: cross-entropy over the candidates (classification), or the
            negative log-likelihood of the gold continuation (multiple-choice, generation).
        load: reads the records; called once per use.
        template: record → example for a causal model.
        masked: record → example for a masked model, where one is known.
        sizes: how many records are drawn.
        max_length: tokens a row keeps, unless the model has fewer positions.
        for_model: the template in the words of a model, where these have a part in it.
    """

    name: str
    summary: str
    source: str
    licence: str
    kind: Kind
    load: Callable[[], Pool[Record]] = field(repr=False)
    template: Template = field(repr=False)
    masked: Template | None = field(default=None, repr=False)
    sizes: Sizes = field(default_factory=Sizes)
    max_length: int = 2048
    for_model: Callable[[Markup], Template] | None = field(default=None, repr=False)

    def splits(
        self,
        *,
        seed: int = 0,
        sizes: Sizes | None = None,
        data: Path | None = None,
        masked: bool = False,
    ) -> Splits:
        """Draw train, dev and test, and write their prompts.

        Args:
            seed: which train and dev records are drawn; the test set is the same for every seed.
            sizes: how many, when not the task's own.
            data: a folder of files in the schema of the task's data set, read instead of `load`.
            masked: write prompts for a masked model.

        Raises:
            UsageError: the task has no masked prompt, a record lacks a field, or there are too few
                records.
        """
        from zofx.tasks.data.splits import draw  # and numpy: a list of tasks draws nothing

        template = self._template(masked)
        pool = folder(data) if data is not None else self.load()
        drawn = draw(pool, self.sizes if sizes is None else sizes, seed)
        return Splits(*(self._examples(name, part, template) for name, part in drawn.named()))

    def _template(self, masked: bool) -> Template:
        if not masked:
            return self.template
        if self.masked is None:
            raise UsageError(
                f"task '{self.name}' has no prompt for a masked language model; "
                "use a causal model, or write one's own prompts with [MASK] in a .jsonl file"
            )
        return self.masked

    def _examples(
        self, split: str, drawn: "Drawn[Record]", template: Template
    ) -> tuple[Example, ...]:
        return tuple(
            self._example(f"{self.name} {split} record {index}", record, template)
            for index, record in zip(drawn.indices, drawn.records, strict=True)
        )

    def _example(self, where: str, record: Record, template: Template) -> Example:
        try:
            example = template(record)
        except UsageError as error:
            raise UsageError(
                f"{where}: {error}; the records must have the schema of {self.source}"
            ) from None
        return replace(example, id=where)


def pick(record: Record, *names: str) -> Any:
    """The first of these fields that the record has: data sets name the same thing differently."""
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise UsageError(
        f"there is no field {' or '.join(map(repr, names))}; there are: {', '.join(record)}"
    )


def text(record: Record, *names: str) -> str:
    """As `pick`, of a field that holds text."""
    value = pick(record, *names)
    if not isinstance(value, str):
        raise UsageError(f"field {' or '.join(map(repr, names))} is {value!r}; expected text")
    return value


def texts(record: Record, name: str) -> list[str]:
    """As `pick`, of a field that holds a list of texts."""
    value = pick(record, name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"field {name!r} is {value!r}; expected a list of texts")
    return value


def label(record: Record, classes: Sequence[str], *names: str) -> int:
    """The class index in a record: stored as an index, a boolean, or the name of the class."""
    value = pick(record, *(names or ("label",)))
    written = str(value).strip().lower()
    known = {name.lower(): index for index, name in enumerate(classes)}
    known |= {str(index): index for index in range(len(classes))}
    if written not in known:
        raise UsageError(
            f"label {value!r} is none of {', '.join(classes)}, nor an index below {len(classes)}"
        )
    return known[written]

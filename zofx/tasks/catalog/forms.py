"""The forms of records that become examples by themselves: fields → prompt and continuation.

    messages                        a conversation, in the model's own chat template
    prompt  candidates  answer      one of several continuations, as written
    prompt  completion              one continuation, as written
    instruction  [input]  output    an instruction and its response      (also prompt + response)
    prompt | text  label            a class by its name                  (also answer)
    text                            its first word is the prompt

A record has the first form all of whose fields it has; it may have others. What is written under
another name, or is no text yet, is completed: a space before it, unless the prompt ends a line, and
the model's end of text behind a completion.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from zofx.errors import UsageError
from zofx.tasks.chat import chat_example, messages_of
from zofx.tasks.types import Example, Kind, Markup, Record

MOST_CLASSES: Final = 64
"""A label of more values than these is no class."""

PROMPTS: Final = ("prompt", "text", "sentence")
RESPONSES: Final = ("output", "response")
LABELS: Final = ("label", "answer")
LABEL_LIKE: Final = (
    "class", "category", "sentiment", "target", "stars", "rating", "intent", "topic",
)  # fmt: skip
"""What files call a label."""


@dataclass(frozen=True)
class Context:
    """What an example depends on besides its record.

    Attributes:
        markup: of the model; a plain one only checks.
        classes: label as stored → its candidate, in order.
        renamed: names of the form that are fields of another name.
    """

    markup: Markup = field(default_factory=Markup)
    classes: Mapping[str, str] = field(default_factory=dict)
    renamed: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Form:
    """A form of records; there is one of each.

    Attributes:
        name: in a few words.
        needs: of each of these, one field must be there.
        kind: of the task; None where the candidates tell.
        example: a record as an example.
        shown: a record, for messages.
    """

    name: str
    needs: tuple[tuple[str, ...], ...]
    kind: Kind | None
    example: Callable[[Record, Context], Example]
    shown: Record

    def __str__(self) -> str:
        return json.dumps(self.shown, ensure_ascii=False)


def _chat(record: Record, context: Context) -> Example:
    return chat_example(record, context.markup)


def _choice(record: Record, context: Context) -> Example:
    if "completion" in record:
        raise UsageError("has both 'candidates' and 'completion'; keep one of them")
    prompt, candidates = required_text(record, "prompt"), _candidates(record)
    answer = _answer(record, candidates)
    if "candidates" in context.renamed:
        candidates = tuple(_spaced(text, prompt) for text in candidates)
    return Example(prompt, candidates, answer)


def _completion(record: Record, context: Context) -> Example:
    prompt, completion = required_text(record, "prompt"), required_text(record, "completion")
    if "completion" in context.renamed:
        return _completed(prompt, completion, context.markup)
    return Example(prompt, (completion,), references=(completion.strip(),))


def _instruction(record: Record, context: Context) -> Example:
    output = required_text(record, _first(record, RESPONSES))
    if "prompt" in record:
        return _completed(required_text(record, "prompt"), output, context.markup)
    parts = [("Instruction", required_text(record, "instruction"))]
    if str(record.get("input", "")).strip():
        parts.append(("Input", required_text(record, "input")))
    prompt = "".join(f"### {name}:\n{text.strip()}\n\n" for name, text in parts)
    return _completed(f"{prompt}### Response:\n", output, context.markup)


def _labelled(record: Record, context: Context) -> Example:
    prompt, label = required_text(record, _first(record, PROMPTS)), label_of(record)
    if label not in context.classes:
        raise UsageError(
            f"label {label!r} is none of {', '.join(map(repr, context.classes))}; give it words "
            "with --labels"
        )
    return Example(prompt, tuple(context.classes.values()), list(context.classes).index(label))


def _text(record: Record, context: Context) -> Example:
    text = required_text(record, "text").lstrip()
    prompt = text.split(maxsplit=1)[0]
    rest = text[len(prompt) :]
    if not rest.strip():
        raise UsageError(f"field 'text' is {text!r}; one word has nothing that follows")
    return Example(prompt, (_ended(rest, context.markup),), references=(rest.strip(),))


FORMS: Final = (
    Form(
        "a conversation",
        (("messages", "conversations"),),
        "generation",
        _chat,
        {
            "messages": [
                {"role": "user", "content": "How many legs has an ant?"},
                {"role": "assistant", "content": "Six."},
            ]
        },
    ),
    Form(
        "a choice",
        (("candidates",),),
        None,
        _choice,
        {"prompt": "It was", "candidates": [" bad", " good"], "answer": 1},
    ),
    Form(
        "a completion",
        (("completion",),),
        "generation",
        _completion,
        {"prompt": "How many legs has an ant?\nAnswer:", "completion": " six\n"},
    ),
    Form(
        "an instruction and its output",
        (("instruction", "prompt"), RESPONSES),
        "generation",
        _instruction,
        {"instruction": "Translate to French.", "input": "six", "output": "six"},
    ),
    Form(
        "a text and its label",
        (PROMPTS, LABELS),
        "classification",
        _labelled,
        {"prompt": "a thin plot. It was", "label": "bad"},
    ),
    Form("a text", (("text",),), "generation", _text, {"text": "An ant has six legs."}),
)
LABELLED, TEXT = FORMS[4], FORMS[5]


def form_of(record: Record) -> Form | None:
    """The form of a record; None if it has none."""
    for form in FORMS:
        if all(any(name in record for name in group) for group in form.needs):
            # A label by another name is likelier than a text for its own sake.
            return None if form is TEXT and any(name in record for name in LABEL_LIKE) else form
    return None


def check(form: Form, record: Record, context: Context) -> None:
    """Whatever can be wrong with a record without a model.

    Raises:
        UsageError: names the field and what to do.
    """
    if form.example is _chat:
        messages_of(record)
    else:
        form.example(record, context)


def candidates_of(record: Record, context: Context) -> tuple[str, ...]:
    """What is to choose from, of a record whose form has candidates."""
    if context.classes:
        return tuple(context.classes.values())
    return _choice(record, context).candidates


def classes_of_labels(records: Sequence[Record], words: Mapping[str, str]) -> dict[str, str]:
    """Label as stored → its candidate, in the order of `words`, of numbers, or of the alphabet.

    Args:
        records: every labelled record of a task.
        words: label → its words; the labels themselves, where there are none.

    Raises:
        UsageError: one label alone, or too many.
    """
    labels = {label_of(record) for record in records}
    if len(labels) > MOST_CLASSES:
        raise UsageError(
            f"the label has {len(labels)} different values, among them {min(labels)[:40]!r}: that "
            "is no class. If the model is to write them, read them with --columns "
            f"'completion={_first(records[0], LABELS)}'"
        )
    unknown = sorted(labels - words.keys()) if words else []
    if unknown:
        raise UsageError(
            f"--labels: there are no words for label {unknown[0]!r}; the labels are "
            f"{', '.join(map(repr, sorted(labels)))}"
        )
    if len(words or labels) < 2:
        raise UsageError(f"every label is {min(labels)!r}; a class needs another one beside it")
    numbers = all(label.lstrip("-").isdecimal() for label in labels)
    order = list(words) or sorted(labels, key=int if numbers else str)
    lines = all(str(r[_first(r, PROMPTS)]).endswith("\n") for r in records)
    return {label: _spaced(words.get(label, label), "\n" if lines else "") for label in order}


def label_of(record: Record) -> str:
    """A label as text: 1, 1.0 and "1" are the same."""
    value = record[_first(record, LABELS)]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int, float)) or not str(value).strip():
        raise UsageError(f"label {value!r} is no name; make it a text or a number")
    return str(value).strip()


def required_text(record: Record, name: str) -> str:
    """A field that holds text.

    Raises:
        UsageError: it does not.
    """
    if name not in record:
        raise UsageError(f"field '{name}' is missing; add it as a string")
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"field '{name}' is {value!r}; make it a non-empty string")
    return value


def _first(record: Record, names: Iterable[str]) -> str:
    return next(name for name in names if name in record)


def _spaced(text: str, prompt: str) -> str:
    """A continuation with its space, unless the prompt ends a line."""
    return text if text[:1].isspace() or prompt.endswith("\n") else f" {text}"


def _ended(text: str, markup: Markup) -> str:
    return text if text.endswith(markup.eos) else text.rstrip() + markup.eos


def _completed(prompt: str, text: str, markup: Markup) -> Example:
    """A completion with its space and its end."""
    completion = _ended(_spaced(text, prompt), markup)
    return Example(prompt, (completion,), references=(text.strip(),))


def _candidates(record: Record) -> tuple[str, ...]:
    value = record["candidates"]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _listed(value)  # a table has no lists
    strings = isinstance(value, list) and all(isinstance(c, str) and c.strip() for c in value)
    if not strings or len(value) < 2 or len(set(value)) < len(value):
        raise UsageError(
            f"field 'candidates' is {value!r}; make it a list of two or more different, "
            "non-empty strings"
        )
    return tuple(value)


def _listed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _answer(record: Record, candidates: tuple[str, ...]) -> int:
    if "answer" not in record:
        raise UsageError("field 'answer' is missing; add a candidate's index or text")
    value: Any = record["answer"]
    if isinstance(value, str) and value in candidates:
        return candidates.index(value)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(candidates):
        return value
    raise UsageError(
        f"field 'answer' is {value!r}; make it an index from 0 to {len(candidates) - 1}, "
        f"or one of {', '.join(map(repr, candidates))}"
    )

r"""How the records of a file become the fields of a form: columns, a template, words for labels.

    --columns "prompt=question answer=label"    the form's prompt is the file's question, …
    --template "{question}\nAnswer:"             the prompt, from fields of the record
    --labels "0=terrible 1=great"               what stands for a label in the text

Pairs are separated by spaces or commas; what has spaces of its own stands in quotes, as in
"label='Star rating'". In a template `\n` and `\t` are a newline and a tab, `{{` and `}}` braces.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, Final, Self

from zofx.errors import UsageError
from zofx.tasks.types import Record

ESCAPES: Final = {"\\n": "\n", "\\t": "\t"}


@dataclass(frozen=True)
class Reading:
    """How records are read.

    Attributes:
        columns: name in the form → field of the record.
        template: of the prompt; None takes the form's own.
        labels: label as stored → its words; empty takes the labels themselves.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, columns: str | None = None, template: str | None = None, labels: str | None = None
    ) -> Self:
        """From options as they are written.

        Raises:
            UsageError: one cannot be read.
        """
        return cls(
            {} if columns is None else _pairs("--columns", columns),
            None if template is None else _template(template),
            {} if labels is None else _pairs("--labels", labels),
        )

    @property
    def plain(self) -> bool:
        """Whether nothing was asked."""
        return self == Reading()

    def fields(self, record: Record) -> dict[str, Any]:
        """A record with the names of the form, and its prompt; fields that are None are left out.

        Raises:
            UsageError: it lacks a field that is named.
        """
        own = {name: value for name, value in record.items() if value is not None}
        for name, column in self.columns.items():
            if column not in own:
                raise UsageError(
                    f"--columns {name}={column}: there is no field '{column}'; there are: "
                    f"{', '.join(own)}"
                )
        named = {**own, **{name: own[column] for name, column in self.columns.items()}}
        if self.template is not None:
            named["prompt"] = _filled(self.template, named)
        return named


def _pairs(option: str, written: str) -> dict[str, str]:
    """`a=b c=d` or `a=b,c=d` → a mapping, in that order."""
    lexer = shlex.shlex(written, posix=True, punctuation_chars="")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\n,", True, ""
    pairs: dict[str, str] = {}
    try:
        parts = list(lexer)
    except ValueError as error:
        raise UsageError(f"{option} {written!r}: {error}; close the quotation") from None
    for part in parts:
        name, equals, value = part.partition("=")
        if not (name and equals and value) or name in pairs:
            reason = f"{name!r} is there twice" if name in pairs else f"{part!r} is no NAME=VALUE"
            raise UsageError(f"{option} {written!r}: {reason}; write it as 'a=b c=d'")
        pairs[name] = value
    return pairs


def _template(written: str) -> str:
    """With its escapes as characters.

    Raises:
        UsageError: its braces do not pair, or name no field.
    """
    text = written
    for escape, character in ESCAPES.items():
        text = text.replace(escape, character)
    try:
        holes = [part for part in Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise UsageError(
            f"--template {written!r}: {error}; a brace of the text is written twice"
        ) from None
    if not holes or any(not name or spec or conversion for _, name, spec, conversion in holes):
        raise UsageError(
            f"--template {written!r}: name the fields of a record in braces, as in "
            "'{question} Answer:'"
        )
    return text


def _filled(template: str, fields: Mapping[str, Any]) -> str:
    """The template with values in its holes; nothing else of them is looked at."""
    parts = []
    for text, name, _, _ in Formatter().parse(template):
        parts.append(text)
        if name is not None:
            parts.append(_as_text(name, fields))
    return "".join(parts)


def _as_text(name: str, fields: Mapping[str, Any]) -> str:
    if name not in fields:
        raise UsageError(f"--template: there is no field '{name}'; there are: {', '.join(fields)}")
    value = fields[name]
    if not isinstance(value, (str, int, float)):
        raise UsageError(
            f"--template: field '{name}' is {type(value).__name__}; a text or a number can stand "
            "in a prompt"
        )
    return str(value)

"""Conversations as prompts: a model's own chat template, and which of the text its assistant says.

    messages ──template──▶ <user> how many legs? <end> <assistant> six <end>
                                                                   ╰── scored

    prompt        everything before the last turn of the assistant
    completion    that turn, up to the mark that ends it
    turns         the earlier turns of the assistant, as places in the prompt: scored, too

A turn is what the template adds between "the assistant is about to speak" and "it has spoken", so
roles and marks are never looked for in the text. Templates are Jinja programs of the checkpoint:
they run in Jinja's sandbox, with what transformers gives them (utils/chat_template_utils.py).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias

from zofx.errors import UsageError
from zofx.tasks.types import Example, Markup, Record

Message: TypeAlias = Mapping[str, str]

ASSISTANT: Final = "assistant"
ROLES: Final = {"human": "user", "gpt": ASSISTANT, "system": "system", "user": "user"}
"""Names of roles in rows of `conversations`."""


def messages_of(record: Record) -> tuple[Message, ...]:
    """The messages of a record up to the last one of the assistant.

    Raises:
        UsageError: they are no list of role and content, or the assistant says nothing.
    """
    rows = record.get("messages", record.get("conversations"))
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise UsageError(
            "field 'messages' is no list of objects; write "
            '[{"role": "user", "content": …}, {"role": "assistant", "content": …}]'
        )
    messages = [_message(number, row) for number, row in enumerate(rows, start=1)]
    spoken = [n for n, message in enumerate(messages) if message["role"] == ASSISTANT]
    if not spoken or not messages[spoken[-1]]["content"].strip():
        raise UsageError("the assistant says nothing in 'messages'; there is nothing to learn")
    return tuple(messages[: spoken[-1] + 1])


def _message(number: int, row: Record) -> Message:
    role, content = row.get("role"), row.get("content")
    if "from" in row and "value" in row:
        role, content = ROLES.get(str(row["from"]), str(row["from"])), row["value"]
    if not isinstance(role, str) or not isinstance(content, str):
        raise UsageError(
            f"message {number} has the fields {', '.join(row)}; it needs 'role' and 'content', "
            "both of them text"
        )
    return {"role": role, "content": content}


def chat_example(record: Record, markup: Markup) -> Example:
    """A conversation in the words of a model.

    Raises:
        UsageError: the model has no chat template, or that refuses or rewrites the conversation.
    """
    if markup.chat_template is None:
        raise UsageError(
            "these are conversations, and the artifact has no chat template; compile a chat model "
            "(its tokenizer_config.json or chat_template.jinja has one; artifacts of an older zofx "
            "kept none), or write 'prompt' and 'completion'"
        )
    messages = messages_of(record)
    whole = _rendered(markup, messages, False)
    spans = [
        _span(markup, messages, index, whole)
        for index, message in enumerate(messages)
        if message["role"] == ASSISTANT
    ]
    start, end = spans[-1]
    return Example(
        prompt=whole[:start],
        candidates=(whole[start:end],),
        references=(messages[-1]["content"].strip(),),
        turns=tuple(spans[:-1]),
    )


def _span(markup: Markup, messages: Sequence[Message], index: int, whole: str) -> tuple[int, int]:
    """Where message `index`, one of the assistant's, stands in the whole text."""
    before = _rendered(markup, messages[:index], True) if index else ""
    after = _rendered(markup, messages[: index + 1], False).rstrip()
    if not whole.startswith(after) or not after.startswith(before) or after == before:
        raise UsageError(
            f"the model's chat template writes message {index + 1} otherwise once others follow, "
            "so the assistant's words have no place of their own; make conversations that end there"
        )
    return len(before), len(after)


def _rendered(markup: Markup, messages: Sequence[Message], about_to_speak: bool) -> str:
    from jinja2 import TemplateError

    try:
        text: str = _program(str(markup.chat_template)).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=about_to_speak,
            bos_token=markup.bos,
            eos_token=markup.eos,
            tools=None,
            documents=None,
        )
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"the model's chat template refuses the conversation: {error}") from None
    return text


@lru_cache(maxsize=4)
def _program(source: str) -> Any:
    """A template, ready to run.

    Raises:
        UsageError: Jinja is not installed, or it is no template.
    """
    try:
        from jinja2 import TemplateSyntaxError, nodes
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise UsageError(
            "chat templates are Jinja programs, and the package jinja2 is not installed; run "
            "`pip install 'zofx[chat]'`"
        ) from None

    class Generation(Extension):
        """`{% generation %}` … `{% endgeneration %}`: marks of transformers that change no text."""

        tags = {"generation"}  # noqa: RUF012  as Jinja has it

        def parse(self, parser: Any) -> list[nodes.Node]:
            """What is between them."""
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(
                ("name:endgeneration",), drop_needle=True
            )
            return body

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise UsageError(f"the model's chat template is no Jinja template: {error}") from None


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    """The date in prompts is that of a fixed day: rows are the same whenever a run goes on."""
    return datetime(2024, 7, 26).strftime(form)

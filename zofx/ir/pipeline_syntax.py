"""Pipeline text, cut into its passes: all that reading it takes without loading a compiler.

    name, name{option=value option="a value, with ""quotes"" and spaces"}

A value is written in double quotes where it has spaces, commas, braces or quotes, or is empty; a
quote in it is doubled, all else stands for itself.
"""

import re
from typing import Final

from zofx.errors import PipelineError

QUOTED: Final = r'"(?:[^"]|"")*"'
PLAIN: Final = re.compile(r'[^\s,{}"]+')
TOKEN: Final = re.compile(rf'{QUOTED}|[^,{{}}"]+|.')
OPTION: Final = re.compile(rf'\s*([\w-]+)=({QUOTED}|[^\s"]+)(?=\s|$)')


def passes_of(pipeline: str) -> list[str]:
    """The passes of a pipeline's text, each with its options: "a, b{x=1}" → ["a", "b{x=1}"].

    Raises:
        PipelineError: nothing stands between two commas.
    """
    parts, depth = [""], 0
    for token in TOKEN.findall(pipeline):
        depth += (token == "{") - (token == "}")
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    parts = [part.strip() for part in parts]
    if not all(parts):
        raise PipelineError(f"there is an empty place in the pipeline '{pipeline}'")
    return parts


def name_of(part: str) -> str:
    """The name of one of the passes that `passes_of` gives."""
    return part.partition("{")[0]


def read_pass(part: str) -> tuple[str, dict[str, str]]:
    """A pass's name, and its options with the text of their values: 'b{x="1 2"}' → b, x → 1 2.

    Raises:
        PipelineError: it is not written as a pass is.
    """
    match = re.fullmatch(r"([\w-]+)(?:\{(.*)\})?", part, re.DOTALL)
    if not match:
        raise PipelineError(f"'{part}' is not a pass; write name or name{{option=value}}")
    name, rest = match[1], (match[2] or "").rstrip()
    options: dict[str, str] = {}
    while rest:
        option = OPTION.match(rest)
        if not option:
            raise PipelineError(
                f"{name}: '{rest.lstrip()}' is not an option; write option=value, with the value "
                "in double quotes where it has spaces"
            )
        options[option[1]] = _unquoted(option[2])
        rest = rest[option.end() :]
    return name, options


def written(value: str) -> str:
    """The text of a value as `read_pass` reads it back."""
    if PLAIN.fullmatch(value):
        return value
    return '"' + value.replace('"', '""') + '"'


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text

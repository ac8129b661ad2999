"""Options of a pass: text ⇄ the fields of its dataclass.

    "fraction=0.001"   ⇄   fraction: float = 0.001     int, float, bool, str, or one of some words

An underscore in a field's name is a hyphen in the option's.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, get_args, get_origin

from zofx.errors import PipelineError
from zofx.ir.pipeline_syntax import written


def read_options(kind: Any, given: Mapping[str, str]) -> dict[str, Any]:
    """Values by field of a class of passes.

    Raises:
        PipelineError: an option it does not have, or a value of the wrong type.
    """
    known = {f.name.replace("_", "-"): f for f in fields(kind)}
    for option in given:
        if option not in known:
            raise PipelineError(f"{kind.name} has no option '{option}'; it has {sorted(known)}")
    return {
        known[option].name: _read(kind, option, known[option].type, value)
        for option, value in given.items()
    }


def _read(kind: Any, option: str, want: Any, text: str) -> Any:
    """A value from text; options are int, float, bool, str, or one of some words."""
    if words := words_of(want):
        if text in words:
            return text
        raise PipelineError(f"{kind.name}{{{option}={text}}}: must be one of {', '.join(words)}")
    if want is bool and text in ("true", "false"):
        return text == "true"
    try:
        return want(text) if want is not bool else _fail()
    except ValueError:
        raise PipelineError(
            f"{kind.name}{{{option}={text}}}: must be of type {want.__name__}"
        ) from None


def words_of(want: Any) -> tuple[str, ...]:
    """The words an option's type allows: of a Literal, or the names of a table."""
    if get_origin(want) is Literal:
        return get_args(want)
    return tuple(get_args(want)[1]) if get_origin(want) is Annotated else ()


def require_regex(option: str, text: str) -> None:
    """Refuse a regular expression that is none, when the option is given.

    Raises:
        PipelineError: names the option and what is wrong with the text.
    """
    try:
        re.compile(text)
    except re.error as error:
        raise PipelineError(f"{option}={text}: not a regular expression ({error})") from error


def _fail() -> bool:
    raise ValueError


def show_value(value: object) -> str:
    """The text of a value as `read_options` takes it back."""
    return str(value).lower() if isinstance(value, bool) else written(str(value))

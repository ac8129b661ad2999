"""Options: fields of dataclasses that the command line, configuration files and Python all read.

    lr: float = option(1e-6, help="Learning rate at its peak.", metavar="LR")
        ──▶ --lr LR      of `zofx tune`            the parameter is made from the field
        ──▶ lr: LR       in a configuration file
        ──▶ lr=LR        of `Artifact.tune`

To add an option, add such a field to the dataclass that it belongs to. A field without `option` is
a record, not an option. Dataclasses nest; names are unique over the whole of them.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

from zofx.errors import UsageError

T = TypeVar("T")
KEY: Final = "option"


@dataclass(frozen=True)
class Option:
    """What one option is.

    Attributes:
        help: one sentence.
        name: as in `--NAME`, with underscores; empty until the field's own name is known.
        type: bool, int, float or str.
        metavar: what stands for the value in the help text.
        minimum: the least value that is taken; None for any.
        maximum: the greatest.
        short: a short spelling, such as "-t".
    """

    help: str
    name: str = ""
    type: type = str
    metavar: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    short: str | None = None

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return "--" + self.name.replace("_", "-")

    def checked(self, value: Any) -> Any:
        """The value, if it is of the option's type and within its bounds.

        Raises:
            UsageError: it is not.
        """
        if self.type is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.type) or (self.type is int and isinstance(value, bool)):
            raise UsageError(
                f"{self.flag} {value!r}: give {_article(self.type)}, not {type(value).__name__}"
            )
        self._require_within(value)
        return value

    def _require_within(self, value: Any) -> None:
        low, high = self.minimum, self.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UsageError(f"{self.flag} {value}: give a number that is {bounds}")


def option(
    default: Any = MISSING,
    *,
    help: str,
    name: str = "",
    metavar: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    short: str | None = None,
) -> Any:
    """A field of a dataclass that is an option. See `Option` for what the arguments mean."""
    text = Option(help, name, str, metavar, minimum, maximum, short)
    return field(default=default, metadata={KEY: text})


def options_of(config: type) -> dict[str, Option]:
    """Name → option, of a dataclass and of those nested in it, in the order of their fields."""
    options: dict[str, Option] = {}
    for item in fields(config):
        if isinstance(item.type, type) and is_dataclass(item.type):
            options |= options_of(item.type)
        elif KEY in item.metadata:
            made = _named(item)
            options[made.name] = made
    return options


def values_of(config: Any) -> dict[str, Any]:
    """Name → value of every option of an instance."""
    values: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            values |= values_of(value)
        elif KEY in item.metadata:
            values[_named(item).name] = value
    return values


def with_options(config: T, given: Mapping[str, Any]) -> T:
    """A flat dataclass with some of its options replaced; other names are passed over."""
    items: tuple[Field[Any], ...] = fields(config)  # type: ignore[arg-type]  # T is a dataclass
    names = {_named(item).name: item.name for item in items if KEY in item.metadata}
    changes = {names[name]: value for name, value in given.items() if name in names}
    return replace(config, **changes)  # type: ignore[type-var]


def checked(given: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """Those that are not None, each of them known, of its type and within its bounds.

    Raises:
        UsageError: one is not.
    """
    for name in given:
        require_known(name, known, "option")
    return {n: known[n].checked(value) for n, value in given.items() if value is not None}


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Check that a name is one of these.

    Raises:
        UsageError: it is not; with near misses.
    """
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}"
        raise UsageError(f"there is no {what} '{name}'; {hint}")


def _named(item: "Field[Any]") -> Option:
    text: Option = item.metadata[KEY]
    return replace(text, name=text.name or item.name, type=_plain(item.type))


def _plain(annotation: Any) -> type:
    """`int | None` → int, a Literal of strings → str."""
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _plain(next(arg for arg in get_args(annotation) if arg is not type(None)))
    assert isinstance(annotation, type), annotation
    return annotation


def _article(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]

"""Options: from a field to the command line, to Python and back; what is wrong is named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from zofx.errors import UsageError
from zofx.options import checked, option, options_of, values_of, with_options


@dataclass(frozen=True)
class Inner:
    rate: float = option(0.5, help="Of something.", minimum=0, maximum=1)
    way: Literal["up", "down"] = option("up", help="Where to.")


@dataclass(frozen=True)
class Outer:
    record: str
    inner: Inner
    count: int | None = option(None, help="How many.", name="number", minimum=1, short="-n")


def test_options_are_the_fields_that_say_so() -> None:
    """Nested dataclasses are flattened, in order; records are left out."""
    options = options_of(Outer)
    assert list(options) == ["rate", "way", "number"]
    assert [o.type for o in options.values()] == [float, str, int]
    assert options["number"].flag == "--number"
    assert values_of(Outer("x", Inner(), 3)) == {"rate": 0.5, "way": "up", "number": 3}


def test_options_replace_fields() -> None:
    """By the option's name; names of other dataclasses are passed over."""
    assert with_options(Inner(), {"rate": 0.25, "number": 3}) == Inner(0.25)
    assert with_options(Outer("x", Inner()), {"number": 3}).count == 3


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"rate": 1, "way": None}, {"rate": 1.0}),
        ({"way": Path("a/b")}, {"way": "a/b"}),
        ({"number": 7}, {"number": 7}),
    ],
)
def test_what_is_right_is_taken(given: dict[str, Any], values: dict[str, Any]) -> None:
    """A whole number is a number, a path is text, None is as good as absent."""
    assert checked(given, options_of(Outer)) == values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ratte": 1}, "there is no option 'ratte'; did you mean rate?"),
        ({"x": 1}, "there are: rate, way, number"),
        ({"number": 0}, "--number 0: give a number that is at least 1"),
        ({"rate": 2}, "--rate 2.0: give a number that is from 0 to 1"),
        ({"number": True}, "--number True: give a whole number, not bool"),
        ({"number": 1.5}, "--number 1.5: give a whole number, not float"),
        ({"rate": "much"}, "--rate 'much': give a number, not str"),
        ({"way": 3}, "--way 3: give text, not int"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], message: str) -> None:
    """The option as the command line writes it, the value, and what would be right."""
    with pytest.raises(UsageError) as caught:
        checked(given, options_of(Outer))
    assert message in str(caught.value)

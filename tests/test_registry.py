"""Tables of named things: lazy, forgiving about typing errors, strict about clashes."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from zofx.errors import UsageError
from zofx.registry import Table, lazy

COLOURS = {"red": lambda: 1, "green": lambda: 2, "grey": lambda: 3}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that packages with these entry points are installed."""

    def points(**rows: str) -> None:
        entry_points = EntryPoints(
            EntryPoint(name.replace("__", ":"), value, "zofx.plugins")
            for name, value in rows.items()
        )
        monkeypatch.setattr(
            "importlib.metadata.entry_points", lambda group: entry_points.select(group=group)
        )

    points()
    return points


def table() -> Table[int]:
    return Table("colour", "colours", COLOURS)


def test_gives_what_was_put_in(install: Callable[..., None]) -> None:
    """By name, in order, only when asked."""
    assert list(table()) == ["red", "green", "grey"]
    assert table()["green"] == 2
    assert "red" in table()
    assert "blue" not in table()


def test_a_row_loads_when_it_is_asked_for(install: Callable[..., None]) -> None:
    """Listing a table imports nothing; a missing module shows only at its row."""
    sys.modules.pop("colorsys", None)
    rows = Table("f", "fs", {"convert": lazy("colorsys:rgb_to_hsv"), "no": lazy("absent_:x")})
    assert list(rows) == ["convert", "no"]
    assert "colorsys" not in sys.modules
    assert rows["convert"](0, 0, 0) == (0, 0, 0)
    with pytest.raises(ModuleNotFoundError):
        rows["no"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gren", "there is no colour 'gren'; did you mean green or grey? (`zofx list colours`)"),
        ("xyz", "there is no colour 'xyz'; there are: red, green, grey (`zofx list colours`)"),
    ],
)
def test_an_unknown_name(name: str, message: str, install: Callable[..., None]) -> None:
    """Near misses if there are any, else the whole table."""
    with pytest.raises(UsageError) as caught:
        table()[name]
    assert str(caught.value) == message


def test_other_packages_add_rows(install: Callable[..., None]) -> None:
    """An entry point KIND:NAME of the group zofx.plugins; other kinds are not this table's."""
    install(colour__tau="math:tau", shape__round="math:pi")
    colours: Table[float] = Table("colour", "colours", COLOURS)
    assert list(colours) == ["red", "green", "grey", "tau"]
    assert colours["tau"] == pytest.approx(6.283185)


def test_a_clash_names_both_owners(install: Callable[..., None]) -> None:
    """Two packages, one name: neither wins silently."""
    install(colour__red="paint.shop:red")
    with pytest.raises(UsageError) as caught:
        list(table())
    assert str(caught.value) == (
        "two packages provide the colour 'red': zofx and paint.shop:red; uninstall one of them"
    )


def test_two_plugins_that_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are named, however often the table is asked."""
    values = ("math:tau", "paint.shop:tau")
    points = EntryPoints(EntryPoint("colour:tau", value, "zofx.plugins") for value in values)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.select(group=group))
    colours = table()
    for _ in range(2):
        with pytest.raises(UsageError, match=r"'tau': math:tau and paint\.shop:tau; uninstall"):
            list(colours)

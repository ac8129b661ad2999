"""Help in groups: every option of every verb once, under the heading it has everywhere."""

import re
from collections import Counter
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from zofx.cli.app import app
from zofx.cli.help import GROUP_OF, NAMED, ORDER

GROUP: Any = typer.main.get_command(app)
HEADING = re.compile(r"^(\S.*):$", re.M)


def help_of(verb: str) -> str:
    return CliRunner().invoke(app, [verb, "-h"], terminal_width=100).output


@pytest.mark.parametrize("verb", GROUP.commands)
def test_every_option_is_shown_once(verb: str) -> None:
    """No option is lost between the headings; these come in one order."""
    text = help_of(verb)
    for parameter in GROUP.commands[verb].params:
        if parameter.param_type_name == "option":
            longest = max(parameter.opts, key=len)
            shown = [part for part in sections(text) for _ in named(longest, part)]
            assert len(shown) == 1, longest
    headings = [name for name in HEADING.findall(text) if name in ORDER]
    assert headings == [name for name in ORDER if name in headings]
    assert headings[-1] == "Everywhere"


def test_the_same_word_stands_where_it_belongs() -> None:
    """`--train` is how many examples where examples are drawn, and what trains elsewhere."""
    places = {
        verb: next(
            name for name, part in zip(ORDER, sections(help_of(verb)), strict=True)
            if named("--train", part)
        )
        for verb in ("tune", "compile")
    }  # fmt: skip
    assert places == {"tune": "Data", "compile": "What trains"}


def named(flag: str, part: str) -> list[str]:
    """Where an option stands under a heading."""
    return re.findall(rf"^  (?:-\w, )?{flag}\b(?!-)", part, re.M)


def sections(text: str) -> list[str]:
    """The lines under each heading; empty where a verb has none."""
    parts = dict(zip(HEADING.findall(text), HEADING.split(text)[2::2], strict=True))
    return [parts.get(name, "") for name in ORDER]


def test_no_heading_names_an_option_that_is_gone() -> None:
    """Every flag of the table is one of some verb, and is in one group."""
    known = {o for c in GROUP.commands.values() for p in c.params for o in (*p.opts, "--help")}
    assert GROUP_OF.keys() <= known
    assert set(GROUP_OF.values()) <= set(ORDER)
    assert max(Counter(flag for flags in NAMED.values() for flag in flags).values()) == 1


@pytest.mark.parametrize("verb", GROUP.commands)
def test_every_verb_takes_json(verb: str) -> None:
    """Programs read every answer."""
    assert "--json" in {o for p in GROUP.commands[verb].params for o in p.opts}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tun"], "Did you mean 'tune'?"),
        (["tune", "art", "--step", "3"], "--steps"),
        (["explain", "mezo", "--jsn"], "--json"),
    ],
)
def test_a_near_miss_is_told(words: list[str], message: str) -> None:
    """Of verbs and of options."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())

"""Messages: every option that one of them names exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from zofx.cli.app import app

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for folder in ("zofx", "passes", "runtimes")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not any(parent.is_symlink() for parent in path.parents)
]
NAMED = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
OTHERS = {"--no-deps", "--name", "--help"}
"""Of pip; a placeholder; click's own."""

FOREIGN = ("trust_remote_code", "use_auth_token", "attn_implementation=")
"""Options of libraries, which a user of zofx cannot set."""


def options() -> set[str]:
    """Of every verb, and before them."""
    group: Any = typer.main.get_command(app)
    commands = [group, *group.commands.values()]
    parameters = [parameter for command in commands for parameter in command.params]
    return {name for p in parameters for name in (*p.opts, *p.secondary_opts)}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """All texts of a file, those between the holes of f-strings among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_every_option_that_a_text_names_exists() -> None:
    """Advice that cannot be followed is none."""
    known = options() | OTHERS
    assert "--steps" in known
    unknown = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        for line, text in texts(path)
        for name in NAMED.findall(text)
        if name not in known
    ]
    assert unknown == []


@pytest.mark.parametrize("name", FOREIGN)
def test_no_message_advises_an_option_of_a_library(name: str) -> None:
    """What transformers would be told is no option of zofx: only comparisons may name it."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                assert name not in ast.unparse(node), f"{path}:{node.lineno}"


def test_the_split_that_no_option_draws_has_no_option() -> None:
    """`--test N` was advised, and is none."""
    assert "--test" not in options()

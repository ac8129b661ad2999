"""Rewards of one's own: loaded on request, and every mistake in them is a UsageError."""

from pathlib import Path

import pytest

from zofx.errors import UsageError
from zofx.tasks.reward import Reward
from zofx.tasks.types import Example

EXAMPLE = Example("How many legs has an ant?", (" six\n",), references=("six",), id="mine 3")
CODE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Points:
    value: float

def brief(text, example):
    return Points(-len(text.split()) + (example.references[0] in text)).value

def fails(text, example):
    return text.index("seven")

def silent(text, example):
    pass

def endless(text, example):
    return float("inf")

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def test_a_reward_judges_text_and_example(file: Path) -> None:
    """A function of a file that defines what it likes, dataclasses too."""
    reward = Reward.load(f"reward:{file}:brief")
    assert reward("six legs", EXAMPLE) == -1.0
    assert reward("", EXAMPLE) == 0.0


def test_its_identity_does_not_hang_on_the_folder(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named from where it lies or from the root, a run knows it by one absolute name."""
    monkeypatch.chdir(file.parent)
    named = Reward.load("reward:mine.py:brief").identity
    assert named == f"reward:{file.resolve()}:brief" == Reward.load(named).identity


@pytest.mark.parametrize(
    "text", ["mine.py:f", "reward:mine.py", "reward:mine:f", "reward:mine.py:"]
)
def test_another_spelling_is_refused(text: str) -> None:
    """The form is in the message."""
    with pytest.raises(UsageError, match=r"write it as reward:FILE.py:FUNCTION"):
        Reward.load(text)


def test_what_is_not_there_is_named(file: Path) -> None:
    """A missing file, a missing function, and a name that is none."""
    with pytest.raises(UsageError, match=r"there is no file .*other.py"):
        Reward.load(f"reward:{file.parent / 'other.py'}:brief")
    for name in ("shout", "number"):
        with pytest.raises(UsageError, match=rf"mine.py has no function '{name}'; define {name}\("):
            Reward.load(f"reward:{file}:{name}")


@pytest.mark.parametrize(
    ("code", "message"), [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError: division")]
)
def test_a_file_that_cannot_be_run_is_reported(tmp_path: Path, code: str, message: str) -> None:
    """With the file and the exception."""
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(UsageError, match=rf"bad.py cannot be run: {message}"):
        Reward.load(f"reward:{tmp_path / 'bad.py'}:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"fails\('six', 'mine 3'\) raised ValueError: substring not found"),
        ("silent", r"silent\('six', 'mine 3'\) returned None; return a finite number"),
        ("endless", r"endless\('six', 'mine 3'\) returned inf; return a finite number"),
    ],
)
def test_a_reward_that_fails_is_reported(file: Path, name: str, message: str) -> None:
    """With file, function, text and example, and the exception as its cause."""
    with pytest.raises(UsageError, match=f"mine.py: {message}") as caught:
        Reward.load(f"reward:{file}:{name}")("six", EXAMPLE)
    assert isinstance(caught.value.__cause__, ValueError) is (name == "fails")

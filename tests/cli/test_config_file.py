"""Configuration files: read as a command line is, refused by name, printed and read back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from zofx.cli.app import app
from zofx.cli.options import configurable, takes
from zofx.errors import UsageError
from zofx.runs.run_config import OPTIONS

RUN = CliRunner()


def received(words: Sequence[str]) -> dict[str, Any]:
    """What a verb with all kinds of parameters is given."""
    given: dict[str, Any] = {}

    @takes(OPTIONS)
    def verb(
        artifact: Path,
        words: list[str] | None = None,
        *,
        preflight: bool = True,
        limit: float = 16,
        **options: Any,
    ) -> None:
        asked = {name: value for name, value in options.items() if value is not None}
        given.update(artifact=artifact, words=words, preflight=preflight, limit=limit, **asked)

    own = typer.Typer()
    own.command()(configurable(verb))
    result = RUN.invoke(own, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return given


def file(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_is_as_good_as_the_command_line(tmp_path: Path) -> None:
    """Arguments, flags, numbers (1e-4 is one), lists, paths; - or _ in a key; null is absent."""
    text = (
        "artifact: art\nwords: [a, b]\npreflight: false\nlr: 1e-4\nbatch_size: 4\nthreads: 2\n"
        "task: tâche.jsonl\ntruncate: true\nseed: null\nlimit: 2\n"
    )
    assert received(["--config", file(tmp_path, text)]) == {
        "artifact": Path("art"), "words": ["a", "b"], "preflight": False, "lr": 1e-4,
        "batch_size": 4, "threads": 2, "task": "tâche.jsonl", "truncate": True, "limit": 2.0,
    }  # fmt: skip


def test_the_command_line_wins(tmp_path: Path) -> None:
    """Whatever stands before or after --config."""
    path = file(tmp_path, "artifact: art\nsteps: 3\npreflight: false\nlimit: 1")
    given = received(["--steps", "5", "--config", path, "other", "--preflight"])
    assert (given["artifact"], given["steps"]) == (Path("other"), 5)
    assert (given["preflight"], given["limit"]) == (True, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "there is no option of `zofx verb` 'stepz'; did you mean steps?"),
        ("config: other.yaml", "there is no option of `zofx verb` 'config'"),
        ("steps: many", "--steps 'many': give a whole number, not str"),
        ("steps: 0", "--steps 0: give a number that is at least 1"),
        ("steps: 2.5", "give a whole number, not float"),
        ("preflight: 1", "--preflight 1: give true or false, not int"),
        ("task: true", "--task True: give text, not bool"),
        ("task: [a]", "give text, not list"),
        ("steps: 1\nsteps: 2", 'line 2: found duplicate key "steps"'),
        ("batch-size: 1\nbatch_size: 2", "option 'batch-size' is there twice"),
        ("- steps", "it holds no mapping, but list"),
        ("", "it holds no mapping, but NoneType"),
        ("steps: [1", "line "),
    ],
)
def test_what_is_wrong_is_reported(tmp_path: Path, text: str, message: str) -> None:
    """One error with the name of the file, the key and what would be right."""
    path = file(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        received(["art", "--config", path])
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(UsageError, match=r"none\.yaml: there is no such file"):
        received(["art", "--config", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "art", "--task", 'a "b": c.jsonl', "--lr", "1e-7", "--no-preflight", "--truncate"],
        ["generate", "art", "one: two", "# three", "--line", "--max-new-tokens", "3"],
        ["compile", "m", "--set", "a.b=1", "--set", "c.d={x}", "--quant", "none", "-o", "x/y"],
        ["eval", "art", "--run", "run", "--step", "20"],
        ["list", "methods", "--json"],
    ],
    ids=lambda words: words[0],
)
def test_a_printed_file_reads_back(words: list[str], tmp_path: Path) -> None:
    """--print-config of a command, and of `VERB --config` with what it printed, are equal."""
    first = RUN.invoke(app, [*words, "--print-config"])
    assert first.exit_code == 0, first.output
    path = file(tmp_path, first.output)
    again = RUN.invoke(app, [words[0], "--config", path, "--print-config"])
    assert again.output == first.output
    asked = [line for line in first.output.splitlines() if not line.startswith("#")]
    assert len(asked) == len({word for word in words[1:] if word.startswith("-")}) + {
        "tune": 1, "generate": 2, "compile": 1, "eval": 1, "list": 1,
    }[words[0]]  # fmt: skip


def test_every_verb_takes_a_file() -> None:
    """Its help says so, and every option has a key of its own."""
    for verb in ("tune", "eval", "export", "generate", "compile", "plan", "sensitivity", "inspect"):
        text = RUN.invoke(app, [verb, "--help"]).output
        assert "--config FILE.yaml" in text
        assert "--print-config" in text

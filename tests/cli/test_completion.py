"""Completion: what bash is offered for verbs, options and values; and no engine to know it."""

import subprocess
import sys

import pytest

from tests.compiled import environment
from zofx.cli.completion import PLACES, names_of
from zofx.passes import PASSES
from zofx.tasks import TASKS

ASK = """
import sys; sys.argv = ["zofx"]
from zofx.cli import main
try:
    main()
finally:
    assert not {"torch", "onnxruntime", "transformers"} & sys.modules.keys()
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("zofx ex", {"explain", "export"}),
        ("zofx tune --repo", {"--report-to"}),
        ("zofx tune art --task tre", {"trec"}),
        ("zofx compile model --method lozo", {"lozo", "lozo-momentum"}),
        ("zofx list form", {"formats"}),
        ("zofx export art --to p", {"peft"}),
    ],
)
def test_bash_is_offered_what_fits(line: str, offered: set[str]) -> None:
    """As bash asks: the words so far, the last one incomplete."""
    words = line.split()
    asked = {
        "_ZOFX_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    result = subprocess.run(
        [sys.executable, "-c", ASK], env={**environment(), **asked}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) == offered


def test_names_come_from_the_tables() -> None:
    """Every table is there and has names."""
    assert all(names_of(kind)("") for kind in PLACES)
    assert names_of("task")("") == list(TASKS)
    assert set(names_of("method", "pass")("insert-l")) == {
        name for name in PASSES if name.startswith("insert-l")
    }

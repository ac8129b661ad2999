"""The page of architectures says what the results say, and what was not run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from architectures.table import page

LINES = [
    {"architecture": "causal/llama", "made": "", "outcomes": {"mezo": "right"}},
    {"architecture": "causal/odd", "made": "", "outcomes": {"mezo": "refused: no /tmp/x/y | here"}},
    {"architecture": "masked/bert", "made": "ValueError: none", "outcomes": {}},
]  # fmt: skip


@pytest.fixture(scope="module")
def text() -> str:
    return page(LINES, ["causal/llama", "causal/odd", "causal/new", "masked/bert"], "As made.")


@pytest.mark.parametrize(
    "line",
    [
        "| causal, mezo | 1 | 0 | 0 | 0 | 1 | 0 | 0 |",
        "1 of 2 that were run are right on both runtimes: llama.",
        "| odd | refused: no …/y \\| here |",
        "| bert | no tiny model: ValueError: none |",
        "Not run: new.",
    ],
)
def test_the_page(text: str, line: str) -> None:
    """Counts, reasons without this machine's folders, and what is missing."""
    assert line in text.splitlines()

"""The documentation runs: its Python is executed, its sessions print what the pages say."""

import doctest
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    "docs/generation.md",
    "docs/jsonl.md",
    "docs/methods.md",
    "docs/randomness.md",
    "passes/README.md",
]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def pages() -> list[str]:
    """Every page of the repository."""
    folders = (ROOT, ROOT / "docs", ROOT / "passes", ROOT / "runtimes", ROOT / "benchmarks")
    return [str(page.relative_to(ROOT)) for folder in folders for page in folder.glob("*.md")]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks share their names from top to bottom; sessions are compared with what they print."""
    monkeypatch.chdir(tmp_path)
    blocks = PYTHON.findall((ROOT / page).read_text())
    names: dict[str, Any] = {"__name__": "page"}
    runner = doctest.DocTestRunner(verbose=False)
    for block in blocks:
        if block.startswith(">>>"):
            session = doctest.DocTestParser().get_doctest(block, names, page, page, 0)
            runner.run(session, clear_globs=False)
            names = session.globs
        else:
            exec(compile(block, page, "exec"), names)
    assert blocks
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("page", pages())
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """Every relative link names a file of the repository."""
    targets = LINK.findall((ROOT / page).read_text())
    assert [t for t in targets if not ((ROOT / page).parent / t).exists()] == []


def test_the_op_table_is_complete() -> None:
    """Every zofx:: op has its line in the runtimes' page, and every line its op."""
    sources = [path.read_text() for path in (ROOT / "zofx" / "ir" / "ops").glob("*.py")]
    ops = re.findall(r'custom_op\("(zofx::\w+)"', "".join(sources))
    page = (ROOT / "runtimes" / "README.md").read_text()
    assert sorted(ops) == sorted(re.findall(r"^\| `(zofx::\w+)`", page, re.MULTILINE))


def test_every_field_of_an_artifact_is_described(artifact: Path) -> None:
    """Each table of the page lists the fields that a real artifact has, and no others."""
    page = (ROOT / "docs" / "artifact.md").read_text()
    tables = re.split(r"^#+ ", page, flags=re.MULTILINE)
    rows = {part.partition("\n")[0]: re.findall(r"^\| `([\w.]+)`", part, re.M) for part in tables}
    manifest = json.loads((artifact / "manifest.json").read_text())
    files = {path.name for path in artifact.iterdir() if path.is_file()}
    assert set(rows["The artifact"]) == files
    assert set(rows["manifest.json"]) == manifest.keys()
    assert set(rows["model"]) == manifest["model"].keys()
    assert set(rows["tensors"]) == manifest["tensors"][0].keys()
    for inner in (manifest["recipe"], manifest["model"]["special"], manifest["report"]):
        assert all(f"`{field}`" in page for field in inner)

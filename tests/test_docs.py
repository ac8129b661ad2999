"""The documentation runs: its Python is executed, its sessions print what the pages say."""

import doctest
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = [
    "docs/generation.md",
    "docs/jsonl.md",
    "docs/methods.md",
    "docs/python.md",
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
    if page == "docs/python.md":  # its model and its text, tiny
        tiny.tiny_llama(tmp_path / "model")
        tiny.calibration_file(tmp_path / "text.txt")
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


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell of docs/first_run.ipynb, in a kernel of its own, in a minute; it is kept clean."""
    notebook = nbformat.read(ROOT / "docs" / "first_run.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "accuracy" in printed


@pytest.mark.parametrize("page", pages())
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """Every relative link names a file of the repository."""
    targets = LINK.findall((ROOT / page).read_text())
    assert [t for t in targets if not ((ROOT / page).parent / t).exists()] == []


def test_the_op_table_is_complete() -> None:
    """Every zofx:: op has its line in the runtimes' page, and every line its op."""
    folders = (ROOT / "zofx" / "ir" / name for name in ("ops", "formats"))
    sources = [path.read_text() for folder in folders for path in folder.glob("*.py")]
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

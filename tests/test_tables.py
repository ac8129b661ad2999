"""The tables of passes, runtimes, methods and tasks: every row loads and is what its name says."""

import inspect
from pathlib import Path

import pytest

from zofx.compiler.methods import METHODS
from zofx.ir.pipeline import Pipeline
from zofx.passes import PASSES
from zofx.runtimes import RUNTIMES
from zofx.tasks import TASKS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", tuple(PASSES))
def test_a_pass_is_where_and_what_its_name_says(name: str) -> None:
    """Module and class carry the name; the page opens with the equation and names its source."""
    item = PASSES[name]
    module = inspect.getmodule(item)
    assert item.name == name
    assert item.__module__ == f"zofx.passes.{name.replace('-', '_')}"
    assert item.__name__ == "".join(map(str.capitalize, name.split("-")))
    assert module
    page = module.__doc__ or ""
    assert any(mark in page for mark in ("→", "= "))
    assert item.exact or "Source: " in page


@pytest.mark.parametrize("name", tuple(PASSES))
def test_a_pass_has_a_test_file(name: str) -> None:
    """tests/passes/test_NAME.py."""
    assert (ROOT / "tests" / "passes" / f"test_{name.replace('-', '_')}.py").is_file()


def test_every_module_of_passes_is_a_row() -> None:
    """No pass is forgotten: one module, one row."""
    modules = {path.stem for path in (ROOT / "passes").glob("*.py")} - {"__init__"}
    assert modules == {name.replace("-", "_") for name in PASSES}


@pytest.mark.parametrize("name", tuple(RUNTIMES))
def test_a_runtime_loads(name: str) -> None:
    """Loading the row imports the engine's module, not an artifact."""
    assert RUNTIMES[name].name == name


@pytest.mark.parametrize("name", tuple(METHODS))
def test_a_method_is_ready_to_use(name: str) -> None:
    """Its pipeline reads back and is in order, its settings make a recipe, it has a source."""
    method = METHODS[name]
    pipeline = Pipeline.parse(method.pipeline, PASSES)
    pipeline.check_order()
    assert method.name == name
    assert Pipeline.parse(str(pipeline), PASSES) == pipeline
    assert method.settings.recipe().estimator.evaluations > 1
    assert "arXiv" in method.source


@pytest.mark.parametrize("name", tuple(TASKS))
def test_a_task_says_what_it_is(name: str) -> None:
    """Name, summary, source and licence are there; no record is read."""
    task = TASKS[name]
    assert task.name == name
    assert all((task.summary, task.source, task.licence))

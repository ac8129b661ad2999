"""docs/ten_lines.md does what it says."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.artifacts import CASES, Case, Family
from tests.loads import bits
from tests.test_docs import PYTHON, ROOT
from tests.test_imports import imported_by
from zofx.artifact.manifest import read_trainables
from zofx.runtimes import RUNTIMES
from zofx.session import Batch, scored
from zofx.zo.driver import Driver
from zofx.zo.estimators import Spsa
from zofx.zo.recipe import Recipe
from zofx.zo.rules.schedule import constant

(LINES,) = PYTHON.findall((ROOT / "docs" / "ten_lines.md").read_text())


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=str)
def test_the_lines_make_the_step_that_the_driver_makes(
    family: Family, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """θ has the same bits in every trainable, and none is where it began."""
    folder = family.artifact(case)
    (tmp_path / "art").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(LINES, "docs/ten_lines.md", "exec"), names)

    session = RUNTIMES["ort"].load(folder)
    recipe = Recipe(Spsa(names["eps"]), constant(names["lr"]))
    driver = Driver(recipe, session, names["seed"])
    driver.step(names["step"], scored(session, Batch(**names["batch"]), lambda s: -s.mean((1, 2))))
    start = read_trainables(folder)
    for name, value in session.read().items():
        np.testing.assert_array_equal(bits(names["theta"][name]), bits(value))
        assert (value != start[name]).any()
    session.close()


def test_the_lines_are_ten_and_need_no_zofx() -> None:
    """After naming batch and numbers: ten lines on numpy, onnxruntime and safetensors."""
    imported = {name for node in ast.walk(ast.parse(LINES)) for name in imported_by(node)}
    assert imported == {"numpy", "onnxruntime", "safetensors.numpy"}
    *_, work = LINES.strip().split("\n\n")
    assert len(work.splitlines()) == 10

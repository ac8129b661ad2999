"""The package: what it offers and what it costs to import."""

import subprocess
import sys

import pytest

import zofx.zo


def test_public_names_exist() -> None:
    """Everything that is offered is there, sorted, once."""
    names = zofx.zo.__all__
    assert names == sorted(set(names))
    assert all(hasattr(zofx.zo, name) for name in names)


@pytest.mark.parametrize("first", ["zofx.zo", "zofx.runtime"])
def test_import_is_light(first: str) -> None:
    """The driver runs where only numpy is installed, whichever module is imported first."""
    heavy = {"torch", "onnx", "onnxruntime", "transformers", "scipy", "numpy.testing"}
    code = f"import sys, {first}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []

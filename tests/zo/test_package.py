"""What the driver costs to import."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("first", ["zofx.zo.driver", "zofx.session"])
def test_import_is_light(first: str) -> None:
    """The driver runs where only numpy is installed, whichever module is imported first."""
    heavy = {"torch", "onnx", "onnxruntime", "transformers", "scipy", "numpy.testing"}
    code = f"import sys, {first}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []

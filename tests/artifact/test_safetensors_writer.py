"""Safetensors files written piece by piece: the library reads them, and tells where they lie."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from zofx.artifact.safetensors_writer import Span, TensorFile, read_tensors, spans
from zofx.errors import ArtifactError


def test_a_tensor_file_is_written_in_any_order(tmp_path: Path) -> None:
    """Wide elements come first whatever the order of the table; safetensors reads it."""
    given: dict[str, NDArray[Any]] = {
        "bytes": np.arange(7, dtype=np.uint8),
        "empty": np.zeros((0, 3), np.float32),
        "longs": np.arange(3, dtype=np.int64),
        "floats": np.ones((2, 5), np.float32),
    }
    names = {"uint8": "U8", "int64": "I64", "float32": "F32"}
    table = {n: (names[v.dtype.name], v.shape, v.itemsize) for n, v in given.items()}
    file = TensorFile(tmp_path / "f.safetensors", table)
    for name, value in reversed(given.items()):
        file.write(name, memoryview(value.tobytes()))
    for name, value in load_file(tmp_path / "f.safetensors").items():
        np.testing.assert_array_equal(value, given[name])
    data = (tmp_path / "f.safetensors").read_bytes()
    for name, value in given.items():
        offset, size = file.span(name)
        assert offset % value.itemsize == 0
        assert data[offset : offset + size] == value.tobytes()
        span = spans(tmp_path / "f.safetensors")[name]
        assert span == Span(names[value.dtype.name], value.shape, offset)
    with pytest.raises(AssertionError, match="bytes: 3 bytes, expected 7"):
        file.write("bytes", memoryview(b"abc"))


@pytest.mark.parametrize("data", [b"", b"\x00" * 20, b"\x02" + b"\x00" * 7 + b"[]"])
def test_what_is_no_tensor_file_is_reported(tmp_path: Path, data: bytes) -> None:
    """Empty, without a header, with a header that is no table; and where there is no file."""
    (tmp_path / "f.safetensors").write_bytes(data)
    for path in (tmp_path / "f.safetensors", tmp_path / "absent.safetensors"):
        for read in (read_tensors, spans):
            with pytest.raises(ArtifactError, match=rf"{path.name} cannot be read"):
                read(path)

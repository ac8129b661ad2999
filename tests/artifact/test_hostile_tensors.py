"""Safetensors files from anyone: whatever is changed, an answer or an ArtifactError."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from zofx.artifact.safetensors_writer import HEADER_LENGTH, Span, TensorFile, read_tensors, spans
from zofx.errors import ArtifactError

TENSORS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=np.uint8),
    "é": np.zeros((0, 2), dtype=np.float32),
}
WHOLE = save(TENSORS)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.text(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
KEYS = ("dtype", "shape", "data_offsets")
PLACES = st.sampled_from([(name, key) for name in TENSORS for key in KEYS])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "t.safetensors"


def attempted(path: Path, data: bytes) -> dict[str, Span]:
    """Where tensors are; nothing where the file is refused. Both readers refuse in one way."""
    path.write_bytes(data)
    with contextlib.suppress(ArtifactError):
        read_tensors(path)
    try:
        return spans(path)
    except ArtifactError:
        return {}


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes(path: Path, data: bytes) -> None:
    """No other exception, whatever the file holds."""
    attempted(path, data)


@QUICK
@given(place=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7), cut=st.integers(0, 40))
def test_a_flipped_bit_and_a_cut_end(path: Path, place: int, bit: int, cut: int) -> None:
    """What is still admitted lies within the file."""
    data = bytearray(WHOLE)
    data[place] ^= 1 << bit
    inside(path, bytes(data[: len(data) - cut]))


@QUICK
@given(place=PLACES, value=VALUES, extra=st.dictionaries(st.text(max_size=4), VALUES, max_size=2))
def test_any_value_in_the_header(
    path: Path, place: tuple[str, str], value: Any, extra: dict[str, Any]
) -> None:
    """Shapes, places and types of any kind; tensors of any name."""
    (length,) = HEADER_LENGTH.unpack(WHOLE[: HEADER_LENGTH.size])
    header = json.loads(WHOLE[HEADER_LENGTH.size : HEADER_LENGTH.size + length])
    header[place[0]][place[1]] = value
    text = json.dumps({**extra, **header}).encode()
    inside(path, struct.pack("<Q", len(text)) + text + WHOLE[HEADER_LENGTH.size + length :])


def inside(path: Path, data: bytes) -> None:
    """Every tensor that a header lists begins within the file."""
    for span in attempted(path, data).values():
        assert 0 <= span.offset <= len(data)
        assert all(size >= 0 for size in span.shape)


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@QUICK
@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(["float32", "uint8", "int64", "float16"]), SHAPES),
        max_size=4,
    ),
    order=st.randoms(use_true_random=False),
)
def test_what_is_written_in_any_order_is_read(
    path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], order: Any
) -> None:
    """The library reads back what was written, and `spans` finds each at its place."""
    names = {"float32": "F32", "uint8": "U8", "int64": "I64", "float16": "F16"}
    arrays = {
        name: np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
        for name, (dtype, shape) in tensors.items()
    }
    table = {n: (names[str(a.dtype)], a.shape, a.itemsize) for n, a in arrays.items()}
    file = TensorFile(path, table)
    for name in order.sample(sorted(arrays), len(arrays)):
        file.write(name, memoryview(arrays[name].tobytes()))
    for name, value in read_tensors(path).items():
        np.testing.assert_array_equal(value, arrays[name])
    data = path.read_bytes()
    places = spans(path)
    assert places.keys() == arrays.keys()
    for name, span in places.items():
        assert (span.dtype, span.shape) == table[name][:2]
        assert data[span.offset : span.offset + arrays[name].nbytes] == arrays[name].tobytes()

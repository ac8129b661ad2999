"""Journals from anyone: whatever is changed, whole records up to there, or an ArtifactError."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.zo.journal.test_format import HEADER, record, written
from zofx.errors import ArtifactError
from zofx.zo.journal.format import MAGIC, VERSION, Header, Journal, Record
from zofx.zo.journal.writer import JournalWriter

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
STEPS = 4
PLACE = Path("run/journal.bin")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("journals") / "j", STEPS)


def prefix_or_refusal(data: bytes, whole: bytes) -> None:
    """What is read is a prefix of what was written."""
    journal = decoded(data)
    if journal is not None:
        assert bytes(journal.data) == whole[: journal.end]
        assert [r.step for r in journal] == list(range(len(journal)))


def decoded(data: bytes) -> Journal | None:
    """A journal; None where it is refused."""
    try:
        return Journal.decode(PLACE, data)
    except ArtifactError:
        return None


@QUICK
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    """A journal begins with its name and a header with a checksum."""
    with pytest.raises(ArtifactError):
        Journal.decode(PLACE, data)


@QUICK
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.integers(0, 10**6))
def test_a_flipped_bit_and_a_cut_end(whole: bytes, place: int, bit: int, cut: int) -> None:
    """Never a record that was not written."""
    data = bytearray(whole)
    data[place % len(data)] ^= 1 << bit
    prefix_or_refusal(bytes(data[: len(data) - cut % len(data)]), whole)


@QUICK
@given(
    pieces=st.lists(st.tuples(st.integers(0, STEPS - 1), st.integers(0, 60)), max_size=6),
    junk=st.binary(max_size=80),
)
def test_records_lost_doubled_and_moved(
    whole: bytes, pieces: list[tuple[int, int]], junk: bytes
) -> None:
    """Records in any order, with parts and bytes between them."""
    start, size = len(HEADER.encode()), HEADER.layout.itemsize
    data = whole[:start]
    for index, length in pieces:
        place = start + index * size
        data += whole[place : place + min(length, size) if length else place + size]
    prefix_or_refusal(data + junk, whole)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@QUICK
@given(
    changes=st.dictionaries(
        st.sampled_from([*HEADER.__dataclass_fields__, "other"]), VALUES, max_size=3
    ),
    body=st.binary(max_size=80),
)
def test_a_header_of_any_values_with_its_checksum_right(
    changes: dict[str, Any], body: bytes
) -> None:
    """Fields of other kinds, and sizes that no record can have, are told as the file's fault."""
    fields = {**json.loads(HEADER.encode()[20:]), **changes}
    text = json.dumps(fields).encode()
    data = struct.pack("<8sIII", MAGIC, VERSION, len(text), zlib.crc32(text)) + text + body
    journal = decoded(data)
    if journal is not None:
        assert journal.header == Header(**fields)
        assert journal.end <= len(data)


def test_a_header_of_another_zofx_is_told() -> None:
    """The field is named, and what to do."""
    text = json.dumps({**json.loads(HEADER.encode()[20:]), "later": 1}).encode()
    data = struct.pack("<8sIII", MAGIC, VERSION, len(text), zlib.crc32(text)) + text
    with pytest.raises(ArtifactError, match=r"'later'.*use the zofx that wrote it"):
        Journal.decode(PLACE, data)


@QUICK
@given(
    queries=st.integers(1, 3),
    window=st.integers(1, 2),
    evaluations=st.integers(1, 4),
    steps=st.integers(0, 5),
    seed=st.integers(0, 2**64 - 1),
    values=st.randoms(use_true_random=False),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    queries: int,
    window: int,
    evaluations: int,
    steps: int,
    seed: int,
    values: Any,
) -> None:
    """Any layout, any numbers, NaN and infinities among them: the same bits."""
    header = Header("a", seed, "r", "", queries, evaluations, window)
    words = np.array([values.getrandbits(32) for _ in range(60)], np.uint32).view(np.float32)
    path = tmp_path_factory.mktemp("j") / "journal"
    kept = [
        Record(
            n,
            n,
            0.5,
            np.roll(words, n)[: queries * window],
            words[-evaluations - n :][:evaluations],
        )
        for n in range(steps)
    ]
    with JournalWriter.create(path, header, 1000) as journal:
        for item in kept:
            journal.append(item)
    back = Journal.read(path)
    assert back.header == header
    for one, other in zip(kept, back, strict=True):
        assert one.coefficients.tobytes() == other.coefficients.tobytes()
        assert one.losses.tobytes() == other.losses.tobytes()


def test_the_records_of_the_table_are_those_of_the_test(whole: bytes) -> None:
    """The journal that is changed above reads as it was written."""
    journal = Journal.decode(PLACE, whole)
    assert [r.losses.tolist() for r in journal] == [record(n).losses.tolist() for n in range(STEPS)]

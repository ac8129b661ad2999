"""The journal: what was written is read, damage is an error, a kill at any byte costs one step."""

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from zofx.errors import ArtifactError, UsageError
from zofx.zo.journal.format import Header, Journal, Record
from zofx.zo.journal.writer import JournalWriter
from zofx.zo.types import Key, Ray

HEADER = Header("sha256:abc", 2**64 - 1, "recipe θ", "", 2, 3, settings={"task": "sst2"})


def record(step: int, cursor: int = 2**63) -> Record:
    coefficients = np.array([0.1, -step], dtype=np.float32)
    return Record(step, cursor, 0.5, coefficients, np.array([1, 2, step], dtype=np.float32))


def written(path: Path, steps: int, sync_every: int = 1000) -> bytes:
    with JournalWriter.create(path, HEADER, sync_every) as journal:
        for step in range(steps):
            journal.append(record(step))
    return path.read_bytes()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Header and records come back field by field."""
    data = written(tmp_path / "j", 3)
    journal = Journal.read(tmp_path / "j")
    assert journal.header == HEADER
    assert (len(journal), journal.next_step, journal.end, journal.torn) == (3, 3, len(data), 0)
    for step, read_back in enumerate(journal):
        expected = record(step)
        assert (read_back.step, read_back.cursor, read_back.learning_rate) == (step, 2**63, 0.5)
        np.testing.assert_array_equal(read_back.coefficients, expected.coefficients)
        np.testing.assert_array_equal(read_back.losses, expected.losses)
        assert read_back.rays(HEADER) == (
            Ray(Key(2**64 - 1, step, 0), float(np.float32(0.1))),
            Ray(Key(2**64 - 1, step, 1), float(-step)),
        )


def test_bytes_are_as_documented(tmp_path: Path) -> None:
    """The format can be read with struct, json and crc32 alone."""
    data = written(tmp_path / "j", 2)
    magic, version, length, checksum = struct.unpack_from("<8sIII", data)
    text = data[20 : 20 + length]
    assert (magic, version, checksum) == (b"ZOFXJRNL", 1, zlib.crc32(text))
    assert json.loads(text)["settings"] == {"task": "sst2"}
    form = "<IQf2f3fI"
    offset = 20 + length
    for step in range(2):
        *fields, stored = struct.unpack_from(form, data, offset)
        body = data[offset : offset + struct.calcsize(form) - 4]
        checksum = zlib.crc32(body, checksum)
        assert stored == checksum
        assert fields == [step, 2**63, 0.5, np.float32(0.1), -step, 1, 2, step]
        offset += struct.calcsize(form)
    assert offset == len(data)


def test_killed_at_any_byte(tmp_path: Path) -> None:
    """Cut anywhere, a journal keeps every whole record, and goes on to the same bytes."""
    data = written(tmp_path / "whole", 4)
    start = len(HEADER.encode())
    size = HEADER.layout.itemsize
    path = tmp_path / "cut"
    for cut in range(start, len(data)):
        path.write_bytes(data[:cut])
        writer, journal = JournalWriter.resume(path, sync_every=1000)
        with writer:
            assert len(journal) == (cut - start) // size
            assert journal.torn == (cut - start) % size
            for step in range(journal.next_step, 4):
                writer.append(record(step))
        assert path.read_bytes() == data


def test_a_cut_header_is_an_error(tmp_path: Path) -> None:
    """No kill cuts a header, since it is renamed into place whole; a cut one is reported."""
    data = written(tmp_path / "whole", 1)
    path = tmp_path / "cut"
    for cut in range(len(HEADER.encode())):
        path.write_bytes(data[:cut])
        with pytest.raises(ArtifactError, match=r"not a journal|damaged in its header"):
            Journal.read(path)


def test_damage_at_any_byte(tmp_path: Path) -> None:
    """A changed bit anywhere but in the last record is an error that names the record's offset."""
    data = written(tmp_path / "whole", 4)
    start, size = len(HEADER.encode()), HEADER.layout.itemsize
    path = tmp_path / "damaged"
    for position in range(len(data) - size):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError) as error:
            Journal.read(path)
        if position >= start:
            index = (position - start) // size
            place = f"at byte {start + index * size} (record {index}, {size} bytes)"
            assert place in str(error.value)


def test_a_damaged_last_record_is_a_torn_one(tmp_path: Path) -> None:
    """A last record of full length with a wrong checksum was in flight: it is done again."""
    data = bytearray(written(tmp_path / "j", 3))
    data[-10] ^= 1
    (tmp_path / "j").write_bytes(data)
    journal = Journal.read(tmp_path / "j")
    assert (len(journal), journal.torn) == (2, HEADER.layout.itemsize)


def test_a_tail_of_zeros_is_torn(tmp_path: Path) -> None:
    """A file system that grew the file before its data came leaves zeros: they are cut off."""
    data = written(tmp_path / "j", 3)
    (tmp_path / "j").write_bytes(data + bytes(5 * HEADER.layout.itemsize + 3))
    writer, journal = JournalWriter.resume(tmp_path / "j")
    writer.close()
    assert len(journal) == 3
    assert (tmp_path / "j").read_bytes() == data


def test_the_digest_is_of_the_bytes_so_far(tmp_path: Path) -> None:
    """A writer's after every record, and a reader's of every step, are SHA-256 of the file then."""
    path, digests = tmp_path / "j", []
    with JournalWriter.create(path, HEADER) as writer:
        for step in range(3):
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
            assert writer.digest == digests[-1]
            writer.append(record(step))
    assert [Journal.read(path).digest(step) for step in range(3)] == digests
    writer, _ = JournalWriter.resume(path)
    assert writer.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    writer.close()


def test_a_journal_that_was_read_is_read_again_only_if_it_grew(tmp_path: Path) -> None:
    """What another process has appended since is never cut off."""
    path = tmp_path / "j"
    written(path, 2)
    before = Journal.read(path)
    writer, same = JournalWriter.resume(path, before)
    with writer:
        assert same is before
        writer.append(record(2))
    writer, again = JournalWriter.resume(path, before)
    writer.close()
    assert (len(again), Journal.read(path).next_step) == (3, 3)


@pytest.mark.parametrize("order", [[0, 2, 3], [1, 0, 2, 3], [0, 1, 1, 2, 3]])
def test_records_that_were_lost_swapped_or_doubled(tmp_path: Path, order: list[int]) -> None:
    """Checksums continue from record to record: each is whole, but not in its place."""
    data = written(tmp_path / "whole", 4)
    start, size = len(HEADER.encode()), HEADER.layout.itemsize
    records = [data[start + i * size : start + (i + 1) * size] for i in range(4)]
    (tmp_path / "j").write_bytes(data[:start] + b"".join(records[i] for i in order))
    with pytest.raises(ArtifactError, match="is damaged at byte"):
        Journal.read(tmp_path / "j")


def test_every_append_is_in_the_file(tmp_path: Path) -> None:
    """When append returns, another process sees the record, whatever sync_every says."""
    with JournalWriter.create(tmp_path / "j", HEADER, sync_every=1000) as journal:
        for step in range(3):
            journal.append(record(step))
            assert len(Journal.read(tmp_path / "j")) == step + 1


@pytest.mark.parametrize(("sync_every", "syncs"), [(1, 6), (4, 1), (1000, 0)])
def test_sync_every(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync_every: int, syncs: int
) -> None:
    """The disk is synced as often as was asked for."""
    calls: list[int] = []
    with JournalWriter.create(tmp_path / "j", HEADER, sync_every) as journal:
        monkeypatch.setattr("os.fsync", calls.append)
        for step in range(6):
            journal.append(record(step))
        assert len(calls) == syncs


def test_steps_are_never_rewritten(tmp_path: Path) -> None:
    """A step that is in the journal, or a record of another shape, cannot be appended."""
    with JournalWriter.create(tmp_path / "j", HEADER) as journal:
        journal.append(record(5))
        with pytest.raises(UsageError, match="step 5 cannot be appended"):
            journal.append(record(5))
        short = Record(6, 0, 0.5, np.zeros(1, np.float32), np.zeros(3, np.float32))
        with pytest.raises(UsageError, match="step 6 does not fit"):
            journal.append(short)
    assert len(Journal.read(tmp_path / "j")) == 1


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    """Starting a run where one is fails and leaves it whole; reading where none is says so."""
    data = written(tmp_path / "j", 2)
    with pytest.raises(UsageError, match="never overwritten"):
        JournalWriter.create(tmp_path / "j", HEADER)
    assert (tmp_path / "j").read_bytes() == data
    with pytest.raises(UsageError, match="cannot read the journal"):
        Journal.read(tmp_path / "none")
    with pytest.raises(UsageError, match="there is no folder"):
        JournalWriter.create(tmp_path / "none" / "j", HEADER)


def test_another_version(tmp_path: Path) -> None:
    """A journal of a later format is refused with both versions."""
    data = bytearray(written(tmp_path / "j", 1))
    data[8] = 2
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(ArtifactError, match="version 2; this zofx reads version 1"):
        Journal.read(tmp_path / "j")

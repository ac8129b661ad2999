"""ActivationCache on disk: what is read back is what was written, or nothing."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from zofx.errors import UsageError
from zofx.runtimes.host.activation_cache import ActivationCache, row_name
from zofx.zo.types import FloatArray

IDS, MASK = np.array([3, 1, 4]), np.array([1, 1, 1])
NAME = row_name("me", IDS, MASK)


def hidden(seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_what_is_saved_is_there_for_all(tmp_path: Path) -> None:
    """Bit for bit, also for who opens the folder later; what was not saved is not there."""
    kept = ActivationCache(tmp_path / "deep" / "down")
    assert kept.load(NAME, 3) is None
    kept.save(NAME, hidden())
    for reader in (kept, ActivationCache(kept.folder)):
        loaded = reader.load(NAME, 3)
        assert loaded is not None
        np.testing.assert_array_equal(loaded.view(np.uint32), hidden().view(np.uint32))
    assert kept.disabled_reason is None
    assert [file.name for file in kept.folder.iterdir()] == [NAME.hex()]


def test_a_name_is_of_its_owner_tokens_and_mask() -> None:
    """Another one of any gives another."""
    others = [
        row_name("you", IDS, MASK),
        row_name("me", IDS[::-1], MASK),
        row_name("me", IDS, np.array([0, 1, 1])),
        row_name("me", IDS[:2], MASK[:2]),
    ]
    assert len({NAME, *others}) == 5
    assert row_name("me", IDS.copy(), MASK.copy()) == NAME


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "directory"])
def test_a_damaged_entry_is_none(tmp_path: Path, damage: str) -> None:
    """A bit, a byte less, a byte more, nothing, no file; saving it again mends it."""
    kept = ActivationCache(tmp_path / "kept")
    kept.save(NAME, hidden())
    file = only_file(kept.folder)
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[7] ^= 16
    changed = {"cut": data[:-1], "longer": data + b"\0", "empty": b""}.get(damage, data)
    file.unlink()
    if damage == "directory":
        file.mkdir()
    else:
        file.write_bytes(changed)
    assert kept.load(NAME, 3) is None
    if damage != "directory":
        kept.save(NAME, hidden())
        assert kept.load(NAME, 3) is not None


def test_an_entry_under_another_name_is_none(tmp_path: Path) -> None:
    """A whole file that was moved, and a row of another length."""
    kept = ActivationCache(tmp_path / "kept")
    kept.save(NAME, hidden())
    other = row_name("you", IDS, MASK)
    shutil.copy(only_file(kept.folder), kept.folder / other.hex())
    assert kept.load(other, 3) is None
    assert kept.load(NAME, 4) is None


def test_a_full_folder_keeps_what_it_has(tmp_path: Path) -> None:
    """Nothing more is written, across openings; what is there can be read; the reason is kept."""
    entry = 3 * 5 * 4 + 32
    ActivationCache(tmp_path / "kept", entry).save(NAME, hidden())
    kept = ActivationCache(tmp_path / "kept", 2 * entry - 1)
    kept.save(row_name("you", IDS, MASK), hidden(1))
    assert kept.disabled_reason == f"{kept.folder} holds the 1.83e-07 GB it may"
    assert only_file(kept.folder).name == NAME.hex()
    assert kept.load(NAME, 3) is not None


def test_a_disk_that_fails_ends_the_keeping(tmp_path: Path) -> None:
    """A folder that is gone under it: one message, no error."""
    kept = ActivationCache(tmp_path / "kept")
    shutil.rmtree(kept.folder)
    kept._no_room = lambda size: None  # type: ignore[method-assign]  # the disk has room
    kept.save(NAME, hidden())
    assert kept.disabled_reason == f"writing to {kept.folder} failed: No such file or directory"
    kept.save(NAME, hidden())
    assert kept.load(NAME, 3) is None


def test_the_last_gigabyte_of_a_disk_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other files need it more."""
    kept = ActivationCache(tmp_path / "kept")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 30))
    kept.save(NAME, hidden())
    assert kept.disabled_reason == f"the disk of {kept.folder} is nearly full"


def test_a_place_that_takes_nothing_is_refused(tmp_path: Path) -> None:
    """At once, with what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        ActivationCache(tmp_path / "file")
    assert str(caught.value) == (
        f"no activations can be kept in {tmp_path / 'file'}: {os.strerror(17)}; name another "
        "folder with --activation-cache, or none"
    )

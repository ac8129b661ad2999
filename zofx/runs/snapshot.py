"""Snapshots of θ: caches of the journal, deletable at any time.

    snapshot   trainables, f32 + metadata: step, SHA-256 of the journal up to it and of the values

A snapshot is used only if all three are what they should be; otherwise the journal is replayed,
which gives the same bits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from zofx.files.atomic import anything, new_file
from zofx.zo.theta import digest


def save(path: Path, theta: Mapping[str, NDArray[Any]], step: int, journal: str) -> None:
    """Write θ after so many steps; the file is whole or not there.

    Args:
        path: the file.
        theta: the trainables.
        step: how many steps led here.
        journal: hash of the journal up to this step.
    """
    about = {"step": str(step), "journal": journal, "values": digest(theta)}
    with new_file(path, anything) as beside:
        save_file(dict(theta), beside, metadata=about)


def load(path: Path, step: int, journal: str) -> dict[str, NDArray[Any]] | None:
    """θ after so many steps, if this file holds exactly that."""
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            if (about.get("step"), about.get("journal")) != (str(step), journal):
                return None
            theta = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError):
        return None
    return theta if about.get("values") == digest(theta) else None


def steps_of(path: Path) -> int:
    """How many steps led to what a file holds, by its own word; 0 where there is none."""
    try:
        with safe_open(path, framework="np") as file:
            return int((file.metadata() or {}).get("step", 0))
    except (SafetensorError, OSError, ValueError):
        return 0

"""Which snapshots of θ a run keeps on its way, so that every step is a short replay away.

    snapshots/STEP.safetensors   every I steps    I = 500 · 2ᵏ, the least at which all fit in 256 MB

As a run grows, I doubles and every other file goes. θ of a step is the nearest snapshot before it
and a replay of fewer than I steps. None are kept of a θ of which two do not fit, nor where a rule
on tensors has a state beside θ: there a replay starts at step 0. All are caches, deletable at any
time.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from zofx.runs import snapshot
from zofx.zo.journal.format import Journal
from zofx.zo.types import FloatArray

FOLDER: Final = "snapshots"
EVERY: Final = 500
BYTES: Final = 1 << 28


def interval(steps: int, size: int) -> int | None:
    """Steps between two snapshots of a run.

    Args:
        steps: that it has made.
        size: of θ, bytes.

    Returns:
        I; None where none are kept.
    """
    if 2 * size > BYTES:
        return None
    every = EVERY
    while steps // every * size > BYTES:
        every *= 2
    return every


def keep(run: Path, theta: Mapping[str, NDArray[Any]], step: int, digest: str) -> None:
    """Keep θ after so many steps if it is due, and drop what is too close to another.

    Args:
        run: the folder of the run.
        theta: its θ now.
        step: how many steps led to it.
        digest: of the journal up to there.
    """
    every = interval(step, sum(values.nbytes for values in theta.values()))
    if every is None or step % every:
        return
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    snapshot.save(folder / f"{step}.safetensors", theta, step, digest)
    for other, path in _kept(run):
        if other % every:
            path.unlink(missing_ok=True)


def nearest(run: Path, journal: Journal, step: int) -> tuple[int, dict[str, FloatArray]] | None:
    """The last snapshot at or before a step that is of this journal; None if there is none."""
    for at, path in sorted(_kept(run), reverse=True):
        if at <= step and (theta := snapshot.load(path, at, journal.digest(at))) is not None:
            return at, theta
    return None


def _kept(run: Path) -> Iterator[tuple[int, Path]]:
    for path in (run / FOLDER).glob("*.safetensors"):
        if path.stem.isdecimal():
            yield int(path.stem), path

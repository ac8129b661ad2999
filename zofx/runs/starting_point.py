"""Where a run starts, if not where its artifact does: from the θ of another run.

    other run, step ──θ──▶ start.safetensors in the new run's folder ──▶ θ = f(start, journal)

The values are kept with the run, so the other one may be deleted; their hash is in run.json and in
the journal's header, so that a run is never read from another start.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from zofx.errors import ArtifactError
from zofx.runs import snapshot
from zofx.runs.run_config import StartingPoint
from zofx.zo.theta import digest

FILE: Final = "start.safetensors"
NO_JOURNAL: Final = "start"
"""Stands where snapshots have the hash of the journal that leads to them: none leads here."""


def save(folder: Path, start: StartingPoint, theta: Mapping[str, NDArray[Any]]) -> None:
    """Keep θ in the folder of the run that starts from it."""
    snapshot.save(folder / FILE, theta, start.step, NO_JOURNAL)


def load(folder: Path, start: StartingPoint) -> dict[str, NDArray[Any]]:
    """θ as it was kept.

    Raises:
        ArtifactError: it is lost, or another one.
    """
    theta = snapshot.load(folder / FILE, start.step, NO_JOURNAL)
    if theta is None or digest(theta) != start.values:
        raise ArtifactError(
            f"{folder / FILE} is lost or damaged: it holds what the run started from (step "
            f"{start.step} of {start.run}); restore it from a copy"
        )
    return theta

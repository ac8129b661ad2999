"""What a compilation reads and where it writes: asked before any work, and without an engine."""

from pathlib import Path

from zofx.artifact.manifest import is_only_an_artifact
from zofx.errors import UsageError
from zofx.files.atomic import require_free
from zofx.models.locate import require_model
from zofx.tasks.data.calibration import require_text


def require_sources(model: str, calibration: str | None, sensitivity: Path | None) -> None:
    """Check that what is to be read is there.

    Raises:
        UsageError: there is no such model, text or file of ranks, or both of the last two.
    """
    if calibration is not None and sensitivity is not None:
        raise UsageError(
            "--calibration makes ranks and --sensitivity reads them: give one of the two"
        )
    require_model(model)
    if calibration is not None:
        require_text(calibration)
    if sensitivity is not None and not sensitivity.is_file():
        raise UsageError(f"there is no file {sensitivity}; `zofx sensitivity` makes one")


def require_place(folder: Path, force: bool) -> None:
    """Check that an artifact may be made here.

    Args:
        folder: to be made.
        force: whether an artifact that is there is to be replaced.

    Raises:
        UsageError: the name is taken.
    """
    if force:
        require_free(folder, is_only_an_artifact)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} exists already; choose another -o, or pass --force to replace it"
        )

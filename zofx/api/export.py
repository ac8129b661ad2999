"""An artifact, or a run of it, as a checkpoint for other tools.

artifact + θ ──merge──▶ tensors of the checkpoint ──▶ a folder that transformers loads
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest
from zofx.errors import UsageError
from zofx.runs.evaluate import Progress, no_progress
from zofx.zo.types import FloatArray

T = TypeVar("T")
FORMATS: Final = ("hf",)


def require_format(to: str) -> None:
    """Check the name of a format.

    Raises:
        UsageError: there is no such format.
    """
    if to not in FORMATS:
        raise UsageError(f"--to {to}: there is no such format; there is: {', '.join(FORMATS)}")


def export(
    artifact: Path,
    manifest: Manifest,
    theta: Mapping[str, FloatArray] | None,
    to: str,
    out: Path,
    *,
    dtype: str = "float32",
    progress: Progress = no_progress,
) -> None:
    """Write a merged checkpoint.

    Args:
        artifact: the folder.
        manifest: of it.
        theta: trainables after a run; None takes their initial values.
        to: a format's name: "hf".
        out: the folder to make.
        dtype: float32, bfloat16 or float16.
        progress: called after every tensor.

    Raises:
        UsageError: no such format, or the folder is taken.
        UnsupportedError: what trains is in no weight of the checkpoint.
    """
    from zofx.artifact.merge import merged_tensors
    from zofx.models.hf_export import export_hf
    from zofx.models.tokenizer import SpecialTokens

    require_format(to)
    weights = len({row.origin or row.name for row in manifest.tensors})
    export_hf(
        manifest.config,
        (artifact / layout.TOKENIZER).read_bytes(),
        _counted(merged_tensors(artifact, theta), weights, progress),
        out,
        SpecialTokens(**manifest.model["special"]),
        dtype=dtype,
    )


def _counted(items: Iterable[T], total: int, progress: Progress) -> Iterator[T]:
    """The items, counted as they are taken."""
    for done, item in enumerate(items, start=1):
        progress(done, total)
        yield item

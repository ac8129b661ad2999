"""An artifact that begins where a run of another ended, or with an adapter's values.

    artifact, θ ──▶ the same graphs and frozen tensors, θ in trainables.safetensors, a new identity

Its answers are the run's to the last bit, and a run of it goes on from there with settings of its
own. Where it comes from stands in the manifest's report. No torch.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest
from zofx.artifact.safetensors_writer import TensorFile, spans
from zofx.errors import UsageError
from zofx.files.atomic import file_digest, new_folder, require_free
from zofx.runs.export.subject import Subject

WIDTH = 4
"""Bytes of a float32: all that moves is stored so."""


def merge(subject: Subject, out: Path, origin: Mapping[str, Any] | None = None) -> Manifest:
    """Write the artifact; returns its manifest.

    Args:
        subject: an artifact at the θ of a run, or at another one.
        out: the folder to make.
        origin: where θ is from, for the manifest's report; None for the run.

    Raises:
        UsageError: no run, or the folder is taken.
    """
    if subject.run is None and origin is None:
        raise UsageError("merging takes a run: `zofx merge DIR --run RUN -o OUT`")
    require_free(out)
    with new_folder(out) as folder:
        for name in subject.manifest.files:
            if name != layout.TRAINABLES:
                shutil.copyfile(subject.folder / name, folder / name)
        _write_theta(subject, folder / layout.TRAINABLES)
        manifest = replace(
            subject.manifest,
            files=dict(subject.manifest.files)
            | {layout.TRAINABLES: file_digest(folder / layout.TRAINABLES)},
            report={**subject.manifest.report, "merged": dict(origin or _origin(subject))},
        )
        (folder / layout.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _origin(subject: Subject) -> dict[str, Any]:
    assert subject.run is not None  # `merge` refuses to go without
    return {
        "artifact": subject.manifest.hash,
        "run": str(subject.run.path),
        "step": subject.step,
        "journal": subject.journal_hash,
    }


def _write_theta(subject: Subject, path: Path) -> None:
    """In the order and places of the artifact's own file."""
    table = spans(subject.folder / layout.TRAINABLES)
    file = TensorFile(path, {n: (span.dtype, span.shape, WIDTH) for n, span in table.items()})
    for name in table:
        values = np.ascontiguousarray(subject.theta[name], dtype=np.float32)
        file.write(name, values.reshape(-1).view(np.uint8).data)

"""The runs in a folder, each in a line.

    FOLDER/**/run.json ──▶ RunRow   what it is, how far it came, what it reached, whether it goes on

A run that is damaged has a line, too: the reason stands where its result would.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from zofx.artifact.manifest import read_manifest
from zofx.errors import UsageError, ZofxError
from zofx.runs.evaluation import Evaluation
from zofx.runs.run_config import RunConfig
from zofx.runs.run_folder import RUN, RunFolder

DEEPEST: Final = 3
"""Levels below a folder where runs are looked for."""


@dataclass(frozen=True)
class RunRow:
    """A run in a line.

    Attributes:
        path: its folder.
        state: "finished", "stopped", "running", or "damaged".
        task: its name; for a file, the name of that.
        method: of its artifact; the beginning of the artifact's hash where that is gone.
        settings: what decides its steps.
        steps: made.
        wanted: asked.
        best_step: that did best on dev; None before an evaluation.
        best: that evaluation.
        last: the last evaluation.
        reason: what is damaged.
    """

    path: str
    state: str
    task: str = ""
    method: str = ""
    settings: str = ""
    steps: int = 0
    wanted: int = 0
    best_step: int | None = None
    best: Evaluation | None = None
    last: Evaluation | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        results = {
            name: None if evaluation is None else evaluation.to_dict()
            for name, evaluation in (("best", self.best), ("last", self.last))
        }
        return {**asdict(self), **results}


def runs_in(folder: Path) -> list[RunRow]:
    """Every run in a folder, by its path; the folder may be one itself.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; `zofx tune` makes runs in runs/")
    return [_row(path) for path in sorted(_folders(folder, DEEPEST))]


def _folders(folder: Path, levels: int) -> Iterator[Path]:
    if (folder / RUN).is_file():
        yield folder
    elif levels:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _folders(Path(entry.path), levels - 1)


def _row(path: Path) -> RunRow:
    try:
        return _read(path)
    except (ZofxError, OSError) as error:
        return RunRow(str(path), "damaged", reason=str(error))


def _read(path: Path) -> RunRow:
    run = RunFolder.open(path)
    config, steps = run.config, run.journal().next_step
    evaluations, best = run.evaluations(), run.best()
    wanted = max(config.settings.steps, steps)
    state = "running" if run.busy() else "finished" if steps >= wanted else "stopped"
    return RunRow(
        path=str(path),
        state=state,
        task=Path(config.task.name).name,
        method=_method(config),
        settings=str(config.settings),
        steps=steps,
        wanted=wanted,
        best_step=best,
        best=None if best is None else evaluations[best],
        last=evaluations[max(evaluations)] if evaluations else None,
    )


def _method(config: RunConfig) -> str:
    try:
        return read_manifest(Path(config.folder), check=False).method
    except (ZofxError, OSError):
        return config.artifact[:12]

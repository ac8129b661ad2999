"""An earlier state of a run: the run itself cut back, or a copy that ends there.

journal, first K records  ──▶  θ after K steps, as if the run had been stopped there
"""

import shutil
from pathlib import Path
from typing import Final

from zofx.errors import UsageError
from zofx.files.atomic import new_folder
from zofx.runs import starting_point
from zofx.runs.run_folder import JOURNAL, ROWS_FILE, RUN, RunFolder, StepSelector, require_free
from zofx.zo.journal.format import Journal

COPIED: Final = (RUN, "evals.jsonl", "metrics.jsonl", starting_point.FILE)


def cut_back(run: RunFolder, step: int) -> Path:
    """End a run at an earlier step; the caller holds the lock, and no writer is open.

    Returns:
        A copy of the journal as it was.
    """
    journal = run.journal()
    kept = run.path / f"journal-of-{journal.next_step}-steps.bin"
    kept.write_bytes(run.journal_path.read_bytes())
    beside = run.journal_path.with_name(JOURNAL + ".new")
    beside.write_bytes(_first(journal, step))
    beside.replace(run.journal_path)
    run.trim(step)
    return kept


def copy_until(run: RunFolder, at: StepSelector, out: Path) -> tuple[RunFolder, int]:
    """A new run folder that ends after so many steps of another one, which stays as it is.

    Args:
        run: the other one.
        at: how many of its steps; "best" or "last".
        out: the new folder.

    Returns:
        The new run, and its steps.

    Raises:
        UsageError: the run has not come that far, or the name is taken.
        ArtifactError: the run is damaged.
    """
    require_free(out)
    journal = run.journal()
    step = run.step(at, journal.next_step)
    if step == 0:
        raise UsageError(f"step 0 of {run.path} is its start: `zofx tune` begins a run there")
    rows = [path.name for path in run.path.glob(f"{Path(ROWS_FILE).stem}*.jsonl")]
    with new_folder(out) as folder:
        for name in (*COPIED, *rows):
            if (run.path / name).is_file():
                shutil.copyfile(run.path / name, folder / name)
        (folder / JOURNAL).write_bytes(_first(journal, step))
    copy = RunFolder.open(out)
    copy.trim(step)
    return copy, step


def _first(journal: Journal, steps: int) -> memoryview:
    """The bytes of the header and so many records."""
    return journal.data[: journal.end - (len(journal) - steps) * journal.header.layout.itemsize]

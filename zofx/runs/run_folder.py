"""The run folder: one training run on disk.

    run.json          what the run is; written once
    task.jsonl        the examples, where they were given as rows
    start.safetensors θ at step 0, where that is another run's
    journal.bin       what every step did: θ = f(artifact, journal)         the checkpoint
    evals.jsonl       accuracy and loss on dev after some of the steps      says which step is best
    metrics.jsonl     loss, rate, time and memory of every step             only to look at
    best.safetensors  θ of the best step, and last.safetensors of the last  caches, deletable
    snapshots/        θ of steps on the way (`snapshot_policy`)             caches
    state.safetensors θ and the state of the rule on exact gradients        a cache of such runs
    activations/      of the layers below the first that trains             a cache too

The folder appears with its first two files or not at all. Resuming drops what is ahead of the
journal in the other files.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

from numpy.typing import NDArray

from zofx.artifact.manifest import Manifest
from zofx.errors import ArtifactError, UsageError
from zofx.files.atomic import new_folder
from zofx.runs import jsonl, snapshot, starting_point
from zofx.runs.evaluation import Evaluation
from zofx.runs.run_config import RunConfig
from zofx.runs.snapshot_policy import nearest
from zofx.runtimes.host.theta import HostThetaSession, initial_theta
from zofx.tasks.catalog.jsonl_task import ROWS, write_rows
from zofx.tasks.data.pool import Pool
from zofx.tasks.data.sources import read
from zofx.tasks.types import Record
from zofx.zo.journal.format import Journal
from zofx.zo.journal.replay import replay
from zofx.zo.journal.writer import JournalWriter
from zofx.zo.types import FloatArray

RUN: Final = "run.json"
ROWS_FILE: Final = "task.jsonl"
JOURNAL: Final = "journal.bin"
EVALS: Final = "evals.jsonl"
METRICS: Final = "metrics.jsonl"
ACTIVATIONS: Final = "activations"
STATE: Final = "state"

StepSelector: TypeAlias = int | Literal["best", "last"]


@dataclass(frozen=True)
class RunFolder:
    """A run on disk.

    Attributes:
        path: the folder.
        config: its run.json.
    """

    path: Path
    config: RunConfig

    @classmethod
    def create(
        cls,
        path: Path,
        config: RunConfig,
        rows: Pool[Record] | None = None,
        initial: Mapping[str, NDArray[Any]] | None = None,
    ) -> Self:
        """Make a folder with run.json and an empty journal.

        Args:
            path: the folder.
            config: of the run.
            rows: of a task of rows.
            initial: θ, where the run starts from another one.

        Raises:
            UsageError: the name is taken.
        """
        require_free(path)
        with new_folder(path) as folder:
            (folder / RUN).write_text(config.to_json(), encoding="utf-8")
            if rows is not None:
                write_rows(rows, folder / ROWS_FILE)
            if initial is not None and config.start is not None:
                starting_point.save(folder, config.start, initial)
            JournalWriter.create(folder / JOURNAL, config.header).close()
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing one.

        Raises:
            UsageError: there is none.
            ArtifactError: it is damaged.
        """
        file = path / RUN
        if not file.is_file():
            raise UsageError(f"{path} is not a run folder: it has no {RUN}; `zofx tune` makes one")
        return cls(path, RunConfig.from_json(file.read_bytes(), file))

    def rows(self) -> Pool[Record] | None:
        """The rows, where these are the task: they are in the folder.

        Raises:
            UsageError: they are not.
        """
        if self.config.task.name != ROWS:
            return None
        path = self.path / ROWS_FILE
        dev, test = (path.with_suffix(f".{split}.jsonl") for split in ("dev", "test"))
        return Pool(read(path), *(read(p) if p.is_file() else None for p in (dev, test)))

    @property
    def journal_path(self) -> Path:
        """The checkpoint."""
        return self.path / JOURNAL

    @property
    def metrics_path(self) -> Path:
        """One line per step."""
        return self.path / METRICS

    def journal(self) -> Journal:
        """Read and verify the journal.

        Raises:
            ArtifactError: it is damaged, or of another run.
        """
        if not self.journal_path.is_file():
            raise ArtifactError(
                f"{self.path} has lost its {JOURNAL}: the steps are gone; restore it"
            )
        journal = Journal.read(self.journal_path)
        if not self.config.began(journal.header):
            raise ArtifactError(
                f"{self.journal_path} does not belong to {self.path / RUN}: their runs differ; "
                "restore both from one copy"
            )
        return journal

    def evaluations(self) -> dict[int, Evaluation]:
        """Step → evaluation on dev of θ after so many steps."""
        rows = jsonl.read(self.path / EVALS)
        return {int(row["step"]): Evaluation.from_dict(row) for row in rows if "step" in row}

    def add_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Record one."""
        jsonl.append(self.path / EVALS, {"step": step, **evaluation.to_dict()})

    def best(self) -> int | None:
        """The step whose θ did best on dev, the first of equals; None before any evaluation."""
        evaluations = self.evaluations()
        by = self.config.evaluation.select_by
        return max(evaluations, key=lambda step: (*evaluations[step].rank(by), -step), default=None)

    def step(self, at: StepSelector, steps: int) -> int:
        """A step number for "best", "last" or a number, in a run that has made so many steps.

        Raises:
            UsageError: the run has not come that far.
        """
        if at == "best":
            best = self.best()
            return steps if best is None else best
        if at == "last":
            return steps
        if not 0 <= at <= steps:
            raise UsageError(f"{self.path} has made {steps} steps, so there is no step {at} in it")
        return at

    def trim(self, steps: int) -> None:
        """Drop the lines of other files about steps that are not in the journal."""
        jsonl.keep(self.path / EVALS, lambda row: row.get("step", 0) <= steps)
        rows = self._metrics().items()
        if self.metrics_path.is_file():
            jsonl.write(self.metrics_path, [row for step, row in rows if step < steps])

    def _metrics(self) -> dict[int, jsonl.Row]:
        """Step → its line, where that can be read."""
        rows = jsonl.salvage(self.metrics_path)
        return {row["step"]: row for row in rows if type(row.get("step")) is int}

    def restore_metrics(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Make metrics.jsonl a line per step again, where a kill or damage took some.

        Args:
            steps: a row for every step of the journal, in order, from its record; a line that is
                there has more fields and is kept.
        """
        rows = self._metrics()
        if len(rows) != len(steps):
            jsonl.write(self.metrics_path, [rows.get(step["step"], step) for step in steps])

    def discard(self) -> None:
        """Delete a run that has made no step."""
        shutil.rmtree(self.path, ignore_errors=True)

    def save_snapshot(
        self, name: str, theta: Mapping[str, NDArray[Any]], step: int, digest: str
    ) -> None:
        """Cache θ after so many steps as NAME.safetensors; the digest is of the journal so far."""
        snapshot.save(self._snapshot(name), theta, step, digest)

    def saved(self, journal: Journal) -> tuple[int, dict[str, NDArray[Any]]]:
        """The last state that was saved, and after how many steps; 0 if there is none of these."""
        path = self._snapshot(STATE)
        step = snapshot.steps_of(path)
        if not 0 < step <= journal.next_step:
            return 0, {}
        arrays = snapshot.load(path, step, journal.digest(step))
        return (0, {}) if arrays is None else (step, arrays)

    def theta(
        self, artifact: Path, manifest: Manifest, at: StepSelector = "best"
    ) -> tuple[int, dict[str, FloatArray]]:
        """θ of a step, from the nearest snapshot and a replay from there; no engine is needed.

        Returns:
            How many steps led there, and the trainables.

        Raises:
            UsageError: another artifact, or the run has not come that far.
        """
        self.require_artifact(manifest)
        journal = self.journal()
        step = self.step(at, journal.next_step)
        history = journal.digest(step)
        for name in ("best", "last"):
            if (cached := snapshot.load(self._snapshot(name), step, history)) is not None:
                return step, cached
        # Replay moves, reads and writes θ but evaluates nothing: no engine is needed for that.
        host = HostThetaSession(initial_theta(artifact, manifest))
        rule = self.config.settings.recipe().tensors
        near = None if rule or manifest.exact else nearest(self.path, journal, step)
        start, initial = near or (0, self.initial())
        if initial is not None:
            host.write(initial)
        replay(host, journal, step, rule, start)
        return step, host.read()

    def initial(self) -> dict[str, FloatArray] | None:
        """θ that the run started from; None for that of its artifact.

        Raises:
            ArtifactError: it is lost.
        """
        start = self.config.start
        return None if start is None else starting_point.load(self.path, start)

    def busy(self) -> bool:
        """Whether another process is training here."""
        try:
            with self.locked():
                return False
        except UsageError:
            return True

    def require_artifact(self, manifest: Manifest) -> None:
        """Check that the run was made with this artifact.

        Raises:
            UsageError: it was not.
        """
        if manifest.hash != self.config.artifact:
            raise UsageError(
                f"{self.path} was made with artifact {self.config.artifact[:12]} (then at "
                f"{self.config.folder}), and this one is {manifest.hash[:12]}: steps have a "
                "meaning only on the artifact they were made with; give that one"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from writing here; a killed one holds no lock."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock
            yield
            return
        with self.journal_path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another process is training in {self.path}; wait for it or stop it"
                ) from None
            yield

    def _snapshot(self, name: str) -> Path:
        return self.path / f"{name}.safetensors"


def require_free(path: Path) -> None:
    """Check that a run may be made here.

    Raises:
        UsageError: something is here already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        cure = f"`--resume {path}` goes on with it, or " if (path / RUN).is_file() else ""
        raise UsageError(f"{path} exists already; {cure}choose another folder with -o")

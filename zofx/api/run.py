"""A run as an object: how it went, what it learnt, how to go on with it.

load_run(path) ──▶ Run ──metrics, evaluations──▶ records      ──theta──▶ arrays
                       ──resume──▶ Run                        ──export──▶ folder
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from zofx.api.artifact import Artifact, load, with_run_options
from zofx.api.callbacks import Callback
from zofx.api.sources import TaskSource
from zofx.api.training import Procedure, trained
from zofx.errors import UsageError
from zofx.runs import jsonl
from zofx.runs.evaluation import Evaluation
from zofx.runs.rewind import copy_until
from zofx.runs.run_config import RunConfig
from zofx.runs.run_folder import RunFolder, StepSelector
from zofx.zo.journal.format import Journal
from zofx.zo.types import FloatArray


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        artifact: that it trains.
        folder: the run on disk.
    """

    artifact: Artifact
    folder: RunFolder

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def config(self) -> RunConfig:
        """Everything that decides its numbers."""
        return self.folder.config

    @property
    def journal(self) -> Journal:
        """What every step did, as read now."""
        return self.folder.journal()

    @property
    def steps(self) -> int:
        """How many steps it has made."""
        return self.journal.next_step

    @property
    def best_step(self) -> int | None:
        """The step that did best on dev; None before any evaluation."""
        return self.folder.best()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A record per step: step, loss, learning_rate, seconds, tokens, …; pandas takes them."""
        return jsonl.read(self.folder.metrics_path)

    @property
    def evaluations(self) -> dict[int, Evaluation]:
        """Step → evaluation on dev of θ after so many steps."""
        return self.folder.evaluations()

    def theta(self, step: StepSelector = "best") -> dict[str, FloatArray]:
        """The trainables, f32, of "best", "last" or so many steps.

        Raises:
            UsageError: the run has not come that far.
        """
        return self.folder.theta(self.artifact.path, self.artifact.manifest, step)[1]

    def resume(
        self,
        *,
        callbacks: Sequence[Callback] = (),
        on_collapse: str = "go",
        activation_cache: str | PathLike[str] | None = None,
        activation_limit: float = 16.0,
        report_to: Sequence[str] = (),
        **options: Any,
    ) -> "Run":
        """Go on from where the journal ends; the same bits as if it had never stopped.

        Args:
            callbacks: follow the run; each may stop it.
            on_collapse: as in `Artifact.tune`.
            activation_cache: as in `Artifact.tune`.
            activation_limit: as in `Artifact.tune`.
            report_to: as in `Artifact.tune`.
            options: steps, runtime, device and threads may differ from the run's; others must not.

        Raises:
            UsageError: an option differs from the run's.
            ArtifactError: the run or its data have changed.
            DivergenceError: as in `Artifact.tune`.
        """
        procedure = Procedure(
            resume=self.path,
            on_collapse=on_collapse,
            activations=None if activation_cache is None else str(activation_cache),
            activation_limit=activation_limit,
            report_to=tuple(report_to),
        )
        outcome = trained(self.artifact.path, options, procedure, callbacks)
        return Run(self.artifact, outcome.run)

    def rewind(self, step: StepSelector, out: str | PathLike[str]) -> "Run":
        """A new run that ends after an earlier step of this one, to be resumed from there.

        Raises:
            UsageError: this run has not come that far, or the name is taken.
        """
        return Run(self.artifact, copy_until(self.folder, step, Path(out))[0])

    def evaluate(self, task: TaskSource | None = None, **options: Any) -> Evaluation:
        """`Artifact.evaluate` of this run, on its own task unless another is named."""
        return self.artifact.evaluate(task, run=self, **options)

    def generate(self, prompts: str | Sequence[str], **options: Any) -> list[str]:
        """`Artifact.generate` by this run."""
        return self.artifact.generate(prompts, run=self, **options)

    def export(
        self,
        to: str,
        out: str | PathLike[str],
        *,
        step: StepSelector = "best",
        **options: Any,
    ) -> Path:
        """`Artifact.export` of this run."""
        return self.artifact.export(to, out, run=self, step=step, **options)

    def merge(self, out: str | PathLike[str], *, step: StepSelector = "best") -> Artifact:
        """`Artifact.merge` of this run."""
        return self.artifact.merge(self, out, step=step)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, steps={self.steps}, best_step={self.best_step})"


def load_run(path: str | PathLike[str], artifact: Artifact | None = None) -> Run:
    """Open a run.

    Args:
        path: its folder.
        artifact: that it trains; None looks where it was when the run was started.

    Raises:
        UsageError: no such run, or the artifact is not there, or another one.
        ArtifactError: it is damaged.
    """
    folder = RunFolder.open(Path(path))
    if artifact is None:
        place = Path(folder.config.folder)
        if not place.is_dir():
            raise UsageError(
                f"the artifact of {path} was at {place} and is not there now; name it: "
                "zofx.load_run(path, zofx.load(ARTIFACT))"
            )
        artifact = load(place)
    folder.require_artifact(artifact.manifest)
    return Run(artifact, folder)


with_run_options(Run.resume)

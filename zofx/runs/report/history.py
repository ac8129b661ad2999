"""What a report reads of a run, all of it from its folder and its artifact.

    run.json, journal.bin, evals.jsonl, metrics.jsonl ──▶ History     no engine
    engine, θ₀ and θ_best, dev ──▶ Change per example                 where asked

A journal, not a log, says what every step saw, so a report of a killed or a copied run is whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest, read_manifest
from zofx.errors import ZofxError
from zofx.runs import jsonl
from zofx.runs.evaluation import Evaluation
from zofx.runs.guard import Finding, Guard, Limits, StepRecord
from zofx.runs.preflight import recorded
from zofx.runs.run_folder import RunFolder
from zofx.runs.watch import looked_back, step_records
from zofx.zo.preflight import Preflight

MEBIBYTE: Final = 2**20


@dataclass(frozen=True)
class Change:
    """An example of dev, asked before and after.

    Attributes:
        prompt: of it.
        gold: the right answer.
        before: the answer at the start.
        after: the answer at the best step.
    """

    prompt: str
    gold: str
    before: str
    after: str


@dataclass(frozen=True)
class History:
    """A run.

    Attributes:
        name: of its folder.
        run: the folder.
        artifact: where its artifact is; None where it is gone, or is another by now.
        manifest: of the artifact.
        steps: the numbers of every step.
        evaluations: step → result on dev.
        best: the step that did best on dev; None before any evaluation.
        metrics: a row per step: seconds, tokens, memory_mib, …
        preflight: as measured for it; None where it was not.
        findings: of the guard.
        changes: examples whose answer changed; None where nobody asked.
    """

    name: str
    run: RunFolder
    artifact: Path | None
    manifest: Manifest | None
    steps: Sequence[StepRecord]
    evaluations: Mapping[int, Evaluation]
    best: int | None
    metrics: Sequence[Mapping[str, Any]]
    preflight: Preflight | None
    findings: Sequence[Finding]
    changes: Sequence[Change] | None = None

    @property
    def seconds(self) -> float:
        """Wall clock of the steps, evaluations left out."""
        return sum(row.get("seconds") or 0.0 for row in self.metrics)

    @property
    def peak_mib(self) -> float | None:
        """The largest resident set; None where the system does not say."""
        return max(
            (row["memory_mib"] for row in self.metrics if row.get("memory_mib")), default=None
        )

    @property
    def method(self) -> str:
        """Of its artifact; the beginning of the artifact's hash where that is gone."""
        return self.manifest.method if self.manifest else self.run.config.artifact[:12]

    @property
    def sizes(self) -> dict[str, float]:
        """Files of the artifact, MiB, that an engine reads."""
        if self.artifact is None:
            return {}
        files = (layout.WEIGHTS, layout.TRAINABLES)
        return {name: (self.artifact / name).stat().st_size / MEBIBYTE for name in files}

    @property
    def stages(self) -> list[tuple[str, str, str]]:
        """(pass, the program before, the program after), where the artifact keeps its stages."""
        folder = self.artifact / layout.STAGES if self.artifact else None
        if folder is None or not folder.is_dir():
            return []
        files = sorted(folder.glob("*.txt"))
        texts = [file.read_text(encoding="utf-8") for file in files]
        names = [file.stem.partition("-")[2] for file in files]
        return [(names[i], texts[i - 1], texts[i]) for i in range(1, len(files))]


def history(path: Path) -> History:
    """Read a run.

    Raises:
        UsageError: there is none.
        ArtifactError: it is damaged.
    """
    run = RunFolder.open(path)
    config, journal = run.config, run.journal()
    evaluations = run.evaluations()
    manifest = _manifest(run)
    artifact = Path(config.folder) if manifest else None
    preflight = recorded(artifact, config) if artifact else None
    settings = config.settings
    steps = list(step_records(settings, journal))
    noise = preflight.noise if preflight else None
    limits = Limits(max(settings.steps, len(steps)), settings.hold, settings.lr, noise)
    return History(
        name=path.resolve().name,
        run=run,
        artifact=artifact,
        manifest=manifest,
        steps=steps,
        evaluations=evaluations,
        best=run.best(),
        metrics=jsonl.read(run.metrics_path),
        preflight=preflight,
        findings=looked_back(Guard(limits), steps, evaluations)[1],
    )


def _manifest(run: RunFolder) -> Manifest | None:
    """Of the artifact, if it is still where it was."""
    try:
        manifest = read_manifest(Path(run.config.folder), check=False)
        run.require_artifact(manifest)
    except (ZofxError, OSError):
        return None
    return manifest


Ask = Callable[[int], Sequence[Mapping[str, Any]]]
"""Step → a line per example of dev, as `zofx eval --predictions` writes it."""


def changes(ask: Ask, best: int) -> list[Change]:
    """The examples whose answer is another one at the best step.

    Args:
        ask: judges dev.
        best: the step.
    """
    before, after = ask(0), ask(best)
    return [
        Change(one["prompt"], _gold(one), _answer(one), _answer(other))
        for one, other in zip(before, after, strict=True)
        if _answer(one) != _answer(other)
    ]


def _gold(row: Mapping[str, Any]) -> str:
    gold = row["gold"]
    return " | ".join(gold) if isinstance(gold, list) else str(gold)


def _answer(row: Mapping[str, Any]) -> str:
    return str(row.get("text", row.get("answer", "")))

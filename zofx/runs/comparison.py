"""Two runs side by side: what was asked, where their records part, and what came of it.

    run.json ──▶ settings that differ          evals.jsonl ──▶ evaluations of the steps of both
    journals ──▶ the first step whose record differs: losses, coefficients, rate, or data
    θ        ──▶ ‖θ_A − θ_B‖ beside ‖θ_A − θ_0‖ after as many steps as both have

θ is a function of the artifact and the journal: runs of one start whose records are equal up to a
step have the same θ there, bit by bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from zofx.artifact.manifest import Manifest, read_manifest
from zofx.errors import ZofxError
from zofx.runs.evaluation import Evaluation
from zofx.runs.run_folder import RunFolder
from zofx.zo.journal.format import Journal
from zofx.zo.types import FloatArray

RECORD: Final = ("cursor", "learning_rate", "losses", "coefficients")
"""Fields of a record that are compared, in this order: the first that differs is the cause."""


@dataclass(frozen=True)
class Parting:
    """Where two journals part.

    Attributes:
        step: the first whose records differ.
        field: of the record, that differs first.
        values: of it, in the two runs, as lists.
    """

    step: int
    field: str
    values: tuple[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """How two runs differ.

    Attributes:
        settings: name → its value in the two runs, where these differ.
        steps: made by the two.
        parting: where their records part; None where one continues the other.
        evaluations: step → both results on dev, of steps that both have.
        distance: ‖θ_A − θ_B‖ after as many steps as both have; None without their artifact.
        moved: ‖θ_A − θ_0‖ and ‖θ_B − θ_0‖ there.
    """

    settings: Mapping[str, tuple[Any, Any]]
    steps: tuple[int, int]
    parting: Parting | None
    evaluations: Mapping[int, tuple[Evaluation, Evaluation]]
    distance: float | None
    moved: tuple[float, float] | None


def compare(one: RunFolder, other: RunFolder) -> Comparison:
    """Compare two runs; of one artifact, θ as well.

    Raises:
        ArtifactError: one of them is damaged.
    """
    journals = one.journal(), other.journal()
    steps = journals[0].next_step, journals[1].next_step
    results = one.evaluations(), other.evaluations()
    both = sorted(results[0].keys() & results[1].keys())
    distance, moved = _distances(one, other, min(steps))
    return Comparison(
        settings=_differing(_about(one), _about(other)),
        steps=steps,
        parting=_parting(*journals),
        evaluations={step: (results[0][step], results[1][step]) for step in both},
        distance=distance,
        moved=moved,
    )


def _about(run: RunFolder) -> dict[str, Any]:
    """Everything that decides a run's numbers, and what it ran on."""
    config = run.config
    start = {} if config.start is None else {"from": config.start.values[:12]}
    versions = {f"version of {name}": number for name, number in config.versions.items()}
    about = {"artifact": config.artifact[:12], "examples": config.examples[:12]}
    return {**config.options, **about, **start, **versions}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*one, *other))
    return {n: (one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)}


def _parting(one: Journal, other: Journal) -> Parting | None:
    if one.header.layout != other.header.layout:
        sizes = tuple((j.header.queries, j.header.evaluations) for j in (one, other))
        return Parting(0, "queries and probes", (sizes[0], sizes[1]))
    common = min(len(one), len(other))
    differs = {
        name: (one.rows[name][:common] != other.rows[name][:common]).reshape(common, -1).any(1)
        for name in RECORD
    }
    anywhere = np.logical_or.reduce(list(differs.values()))
    if not anywhere.any():
        return None
    step = int(anywhere.argmax())
    name = next(name for name in RECORD if differs[name][step])
    return Parting(step, name, (one.rows[name][step].tolist(), other.rows[name][step].tolist()))


def _distances(
    one: RunFolder, other: RunFolder, step: int
) -> tuple[float | None, tuple[float, float] | None]:
    folder = Path(one.config.folder)
    if one.config.artifact != other.config.artifact:
        return None, None
    try:
        manifest = read_manifest(folder, check=False)
        thetas = [run.theta(folder, manifest, step)[1] for run in (one, other)]
        starts = [run.theta(folder, manifest, 0)[1] for run in (one, other)]
    except (ZofxError, OSError):
        return None, None
    moved = [_distance(a, b, manifest) for a, b in zip(thetas, starts, strict=True)]
    return _distance(thetas[0], thetas[1], manifest), (moved[0], moved[1])


def _distance(
    one: Mapping[str, FloatArray], other: Mapping[str, FloatArray], manifest: Manifest
) -> float:
    """Of the trainables, in float64."""
    squares = (
        float(np.square(one[name].astype(np.float64) - other[name].astype(np.float64)).sum())
        for name in (*manifest.trainables, *manifest.exact)
    )
    return float(np.sqrt(sum(squares)))

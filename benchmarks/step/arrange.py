"""A case, arranged: who takes part, with which arguments, on which batch, and who fits into memory.

methods, formats, peers ─▶ Contestants ─▶ Jobs, with all they name made ─▶ those that fit
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.step.contestants import prepared
from benchmarks.step.job import Case, Contestant, Job, Kind
from benchmarks.step.prepare import Workshop
from zofx.artifact import layout
from zofx.artifact.manifest import read_manifest
from zofx.compiler.methods import METHODS
from zofx.errors import UsageError
from zofx.runtimes import RUNTIMES
from zofx.runtimes.host.vocabulary import Vocabulary
from zofx.session import IGNORED
from zofx.zo.types import IntArray

Shapes: TypeAlias = dict[str, tuple[int, ...]]

PROBES: Final = 2
SPARE: Final = 400_000_000
"""Bytes of a process beside weights and activations: an interpreter and its libraries."""
MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True)
class Line:
    """Who takes part in every case.

    Attributes:
        methods: of zofx, as METHOD@RUNTIME.
        quants: frozen formats, of the methods that freeze something.
        peers: kinds.
        checkouts: kind → folder of its public code.
        data: task → folder of its records.
        threads: of everyone.
        seed: of the data order and of zofx's directions.
    """

    methods: Sequence[str]
    quants: Sequence[str]
    peers: Sequence[Kind]
    checkouts: Mapping[str, Path]
    data: Mapping[str, str]
    threads: int
    seed: int = 0

    @property
    def contestants(self) -> list[Contestant]:
        """Everyone, zofx first.

        Raises:
            UsageError: there is no such method or runtime, or no method at all.
        """
        chosen = []
        for text in self.methods:
            method, _, runtime = text.partition("@")
            if runtime not in RUNTIMES:
                known = ", ".join(RUNTIMES)
                raise UsageError(
                    f"--methods {text}: write METHOD@RUNTIME, where a runtime is one of {known}"
                )
            freezes = "quantize-frozen" in METHODS[method].pipeline
            for quant in self.quants if freezes else [""]:
                chosen.append(Contestant("zofx", method, quant, runtime))
        if not chosen:
            raise UsageError("there is nothing of zofx to measure: name a method with --methods")
        for kind in self.peers:
            own = self.quants if kind == "bare" else [""]
            chosen += [Contestant(kind, quant=quant) for quant in own]
        return chosen

    def jobs(self, case: Case, shop: Workshop, folder: Path) -> list[Job]:
        """The arguments of each; what they name is made first.

        Args:
            case: of which they take steps.
            shop: makes artifacts, graphs and weights.
            folder: where each gets a folder to write to.
        """
        everyone = self.contestants
        reads = shop.artifact(case.model, everyone[0])
        jobs = []
        for number, who in enumerate(everyone):
            own = folder / str(number)
            own.mkdir(parents=True)
            made = _made(case.model, who, shop)
            job = Job(
                contestant=who,
                artifact=str(shop.artifact(case.model, who) if who.kind == "zofx" else reads),
                task=shop.task(case.model, case.task, reads),
                data=self.data.get(case.task, ""),
                batch=case.batch,
                threads=self.threads,
                seed=self.seed,
                folder=str(own),
                checkout=str(self.checkouts.get(who.kind, "")),
                **made,
            )
            jobs.append(job)
        return jobs


def _made(model: str, who: Contestant, shop: Workshop) -> dict[str, str]:
    """What a peer's job names."""
    if who.kind == "zofx":
        return {}
    if who.kind == "bare":
        return {"graph": str(shop.plain(model, who.quant))}
    return {"weights": str(shop.weights(model))}


def batch_of(job: Job, steps: int) -> tuple[dict[str, Any], Shapes]:
    """What a step of zofx reads.

    Args:
        job: of zofx.
        steps: how many there will be.

    Returns:
        The first batch in words, for the results; and the shapes of the largest, and of the tables
        it brings.
    """
    run = prepared(job)
    batches = [run.batch(step * job.batch) for step in range(steps)]
    first = batches[0]
    scored = (first.batch.targets[..., 0] != IGNORED).sum(axis=1)
    largest = max((encoded.batch for encoded in batches), key=lambda b: b.input_ids.size)
    words = {
        "batch": job.batch,
        "objective": run.config.objective,
        "candidates": _most(first.counts.astype(bool).sum(axis=1)),
        "scored_tokens": _most(scored),
        "rows": len(first.batch.input_ids),
        "tokens": first.batch.input_ids.shape[1],
    }
    roles = {row.name: row.role for row in run.model.manifest.tensors}
    own = Vocabulary(Path(job.artifact) / layout.WEIGHTS, roles).words(largest)
    given = own.number(largest).named() | dict(own.tables)
    return words, {name: values.shape for name, values in given.items()}


def _most(counts: IntArray) -> int:
    return int(counts.max())


def fitting(
    jobs: Sequence[Job], shape: Mapping[str, Any], free: int | None
) -> tuple[list[Job], list[dict[str, str]]]:
    """Those that fit into the free memory together, the first first.

    All stay loaded and one at a time works: together they take what each keeps, and once the most
    that one takes while it works.

    Args:
        jobs: of a case.
        shape: of its batch.
        free: bytes; None where the system does not tell.

    Returns:
        The jobs to do, and why the others are left out.
    """
    chosen: list[Job] = []
    left_out, keeping, working = [], 0, 0
    for job in jobs:
        keeps, works = needed(job, shape)
        total = keeping + keeps + max(working, works)
        if free is not None and total > free:
            why = f"with it {total / 1e9:.1f} GB would be needed, and {free / 1e9:.1f} GB are free"
            left_out.append({"contestant": job.contestant.label, "why": why})
            continue
        keeping, working = keeping + keeps, max(working, works)
        chosen.append(job)
    return chosen, left_out


def needed(job: Job, shape: Mapping[str, Any]) -> tuple[int, int]:
    """About how many bytes a contestant keeps, and how many more it takes while it works.

    zofx and inference keep the artifact's tensors twice, for an engine may repack them. A peer
    keeps weights in float32. In a step it has the largest of them three times more, and four times
    the logits: those of the whole vocabulary at every position of a row per candidate. What is kept
    for a backward pass is counted as 25 values of the hidden width per layer and token.
    """
    folder = Path(job.artifact)
    if not job.weights:
        names = (layout.WEIGHTS, layout.TRAINABLES)
        return SPARE + 2 * sum((folder / name).stat().st_size for name in names), 0
    weights, largest = _parameters(Path(job.weights))
    config = read_manifest(folder, check=False).config
    alone = shape["objective"] == "likelihood"
    tokens = shape["tokens"] * shape["batch"] * (1 if alone else shape["candidates"])
    values = 3 * largest + 4 * tokens * config["vocab_size"]
    if job.contestant.kind == "lora":
        values += 25 * tokens * config["hidden_size"] * config["num_hidden_layers"]
    return SPARE + 4 * weights, 4 * values


def _parameters(folder: Path) -> tuple[int, int]:
    """How many weights a folder of safetensors has, and how many the largest tensor."""
    from safetensors import safe_open

    sizes = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            sizes += [prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    return int(sum(sizes)), int(max(sizes))


def free_bytes() -> int | None:
    """Memory that processes may still take; None where the system does not tell."""
    text = MEMINFO.read_text() if MEMINFO.is_file() else ""
    lines = (line.split() for line in text.splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)

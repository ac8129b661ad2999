"""One quantity grows, all else stays: seconds of a step at each point, taken in turns.

    rows      rows of a batch, of one length        x: tokens
    length    tokens of a row, one number of rows   x: tokens; attention grows with their square
    layers    layers of the model, all sliced       x: layers
    trainables    layers with trainables, of one model      x: trainables
    weights   fraction that trains, of one model    x: trained weights

A point is a process of its own that does what `zofx tune` does; each takes one step, then the next,
so that what slows the machine for a while slows all (`benchmarks.step.match`). Models are Llamas of
random weights: no kernel looks at values.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from benchmarks.random_llama import SCATTERED, Shape, make_checkpoint, make_scores
from benchmarks.step.contestants import prepared
from benchmarks.step.job import Contestant, Job
from benchmarks.step.match import Protocol, measured
from benchmarks.step.tasks import write_synthetic
from zofx.compiler.methods import METHODS
from zofx.errors import ZofxError
from zofx.runs.compiled_model import open_model

Row: TypeAlias = dict[str, Any]

METHOD: Final = "senszoq"
EVERY_MATRIX: Final = "select-sensitive.cover=1"
"""Random scores rank no matrix above another, so none is left out."""
HAS_TRAINABLES: Final = 0.01
"""Where trainables are counted: dense enough that each touches all columns of its matrix."""


class MeasurementError(ZofxError):
    """A point could not be measured."""


@dataclass(frozen=True)
class Point:
    """What a step is taken of.

    Attributes:
        layers: of the model.
        sliced: how many of them have trainables.
        fraction: of the weights of these that trains; None for the method's own.
        rows: of a batch.
        length: tokens of a row.
    """

    layers: int
    sliced: int
    fraction: float | None
    rows: int
    length: int


@dataclass(frozen=True)
class Sweep:
    """Points that differ in one quantity.

    Attributes:
        name: of it.
        by: which figure of a point is x.
        points: in ascending order.
        straight: whether its cost is claimed to be a line.
    """

    name: str
    by: str
    points: Sequence[Point]
    straight: bool = True


def sweeps_of(given: argparse.Namespace) -> list[Sweep]:
    """All of them; what one does not vary stands in the middle of its range.

    Where the weights grow, a batch is one short row: what they cost does not depend on it.
    """
    layers, most = _middle(given.layers), max(given.layers)
    middle = Point(layers, layers, None, _middle(given.rows), _middle(given.lengths))
    small = replace(middle, rows=1, length=min(given.lengths))
    whole = replace(middle, layers=most, fraction=HAS_TRAINABLES)
    return [
        Sweep("rows", "tokens", [replace(middle, rows=n) for n in given.rows]),
        Sweep(
            "length", "tokens", [replace(middle, length=n) for n in given.lengths], straight=False
        ),
        Sweep("layers", "layers", [replace(middle, layers=n, sliced=n) for n in given.layers]),
        Sweep("trainables", "trainables", [replace(whole, sliced=n) for n in given.layers]),
        Sweep("weights", "weights", [replace(small, fraction=f) for f in given.fractions]),
    ]


def _middle(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


@dataclass(frozen=True)
class Ranked(Shape):
    """A Llama of which some layers have sensitivity scores.

    Attributes:
        sliced: how many, from the first.
    """

    sliced: int

    @property
    def linears(self) -> dict[str, tuple[int, ...]]:
        """The matrices of these layers."""
        parts = [f".layers.{number}." for number in range(self.sliced)]
        return {n: s for n, s in super().linears.items() if any(part in n for part in parts)}


@dataclass(frozen=True)
class Bench:
    """Makes what points need, once, and measures them.

    Attributes:
        root: where it is made.
        hidden: width of the models.
        vocabulary: their tokens.
        quant: frozen format.
        runtime: by name.
        threads: of every step.
    """

    root: Path
    hidden: int
    vocabulary: int
    quant: str
    runtime: str
    threads: int

    def measure(self, sweep: Sweep, protocol: Protocol) -> list[Row]:
        """A row for every point.

        Raises:
            MeasurementError: one cannot take its steps.
        """
        folder = self.root / sweep.name
        jobs = [self.job(point, folder / str(n)) for n, point in enumerate(sweep.points)]
        taken, failed = measured(jobs, protocol, folder)
        if failed:
            raise MeasurementError(f"sweep '{sweep.name}': {failed[0]['error']}")
        return [
            {**self._facts(point, job), **_times(row)}
            for point, job, row in zip(sweep.points, jobs, taken, strict=True)
        ]

    def job(self, point: Point, folder: Path) -> Job:
        """The arguments of a point's process; what they name is made first."""
        folder.mkdir(parents=True)
        artifact = self.artifact(point)
        return Job(
            contestant=Contestant("zofx", METHOD, self.quant, self.runtime),
            artifact=str(artifact), task=str(self._task(point.length, artifact)), data="",
            batch=point.rows, threads=self.threads, seed=0, folder=str(folder),
        )  # fmt: skip

    def artifact(self, point: Point) -> Path:
        """The compiled model of a point."""
        folder = self.root / f"artifact-{point.layers}-{point.sliced}-{point.fraction}"
        if not folder.exists():
            self._compile(point, folder)
        return folder

    def attention(self, point: Point) -> float:
        """Multiply-adds of attention's two products as a share of all in a layer."""
        layer = Ranked(self.hidden, 1, self.vocabulary, sliced=1)
        quadratic = 2 * point.length * self.hidden
        return quadratic / (quadratic + sum(map(prod, layer.linears.values())))

    def _compile(self, point: Point, folder: Path) -> None:
        from zofx.compiler.compile import compile_model
        from zofx.compiler.options import Options
        from zofx.compiler.sensitivity.scores import load_scores
        from zofx.models.checkpoint import open_checkpoint

        made = self.root / f"checkpoint-{point.layers}"
        shape = Ranked(self.hidden, point.layers, self.vocabulary, point.sliced)
        rng = np.random.Generator(np.random.Philox(key=point.layers))
        if not made.exists():
            make_checkpoint(made, shape, "F16", rng)
        checkpoint, file = open_checkpoint(str(made)), self.root / f"{folder.name}.scores"
        make_scores(file, checkpoint.hash, shape, SCATTERED, rng)
        options = Options(self.quant, fraction=point.fraction, settings=(EVERY_MATRIX,))
        compile_model(
            checkpoint, METHODS[METHOD], folder, scores=load_scores(file), options=options
        )

    def _task(self, length: int, artifact: Path) -> Path:
        """Rows of exactly so many tokens, and two candidates."""
        path = self.root / f"rows-{length}.jsonl"
        if not path.exists():
            model = open_model(artifact)
            adds_bos = model.manifest.model["special"]["adds_bos"]
            write_synthetic(f"two-{length}", model.tokenizer, adds_bos, path)
        return path

    def _facts(self, point: Point, job: Job) -> Row:
        """What x may be, as the run has it."""
        run = prepared(job, self.runtime)
        trainables = run.model.manifest.trainables
        return {
            "layers": point.layers,
            "rows": point.rows,
            "tokens": int(run.batch(0).batch.input_ids.size),
            "trainables": len(trainables),
            "weights": sum(map(prod, trainables.values())),
            "attention": self.attention(point),
        }


def _times(row: Row) -> Row:
    """What is kept of what the step benchmark records."""
    names = ("median", "quartiles", "seconds", "shares", "busy_while_waiting")
    return {name: row[name] for name in names}

"""Runs of a fleet in which two of four workers are killed: θ is what the journal replays to.

    python -m benchmarks.fleet.kills ART --task FILE --runs 20 -o results/fleet-kills.json

Victims and steps are drawn anew for every run, and what was killed joins again while the run goes
on. A run counts if it ends, if both deaths were noticed, and if θ of the head, and of all four
workers in a last forward, is the one that its journal replays to; else the exit code is 1.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray

from benchmarks.machine import describe, save
from zofx.runs.evaluation import Evaluation
from zofx.runs.metrics_log import StepMetrics
from zofx.runs.prepare import Prepared, prepare
from zofx.runs.tune import start, train
from zofx.runtimes import RUNTIMES
from zofx.runtimes.fleet.crew import Member
from zofx.runtimes.fleet.runtime import FleetRuntime
from zofx.runtimes.fleet.session import FleetSession
from zofx.runtimes.fleet.spec import parse_fleet
from zofx.session import Batch
from zofx.zo.theta import digest
from zofx.zo.types import FloatArray, Key

STEPS: Final = 12
WORKERS: Final = 4


class Killer:
    """An observer of a run that kills processes.

    Args:
        moments: step → the process that does not outlive it.
    """

    def __init__(self, moments: dict[int, int]) -> None:
        self._moments = moments

    def step(self, metrics: StepMetrics) -> None:
        """Kill who is due."""
        if metrics.step in self._moments:
            os.kill(self._moments.pop(metrics.step), signal.SIGKILL)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Case:
    """A forward that gives every worker something to do.

    Attributes:
        batch: of several rows.
        keys: Q directions.
        matrix: f32[P, Q].
    """

    batch: Batch
    keys: Sequence[Key]
    matrix: FloatArray


def complete(session: FleetSession) -> list[Member]:
    """The workers, when all of them are at work, or two minutes later."""
    members, deadline = session._crew.members, time.monotonic() + 120
    while len(session._crew.now()) < len(members) and time.monotonic() < deadline:
        time.sleep(0.1)
    return session._crew.now()


def killed(session: FleetSession, prepared: Prepared, case: Case, chance: random.Random) -> str:
    """Make a run and kill two workers on the way.

    Args:
        session: of four workers, at the θ that the run starts from.
        prepared: of STEPS steps, with a folder.
        case: a forward after the run.
        chance: who dies, and when.

    Returns:
        What went wrong; "" if nothing did.
    """
    pids = [ray.get(member.actor.pid.remote()) for member in complete(session)]
    moments = dict(zip(chance.sample(range(STEPS - 1), 2), chance.sample(pids, 2), strict=True))
    outcome = train(prepared, session, [Killer(moments)])
    if outcome.steps != STEPS:
        return f"ended after {outcome.steps} steps"
    model = prepared.model
    replayed = digest(outcome.run.theta(model.folder, model.manifest, STEPS)[1])
    if digest(session.read()) != replayed:
        return "θ is not what the journal replays to"
    news, deadline = session.messages(), time.monotonic() + 60
    while len(news) < 2 and time.monotonic() < deadline:  # who died idle is noticed here
        session.evaluate(case.batch, case.keys, case.matrix)
        news += session.messages()
    if len([text for text in news if "another process takes its place" in text]) != 2:
        return f"two were killed, and what was noticed is {news}"
    if len(complete(session)) != WORKERS:
        return "not all came back"
    session.evaluate(case.batch, case.keys, case.matrix)  # compares all four
    news = session.messages()
    return f"after all were back: {news}" if news else ""


def main(line: Sequence[str] | None = None) -> int:
    """So many runs; returns 1 if something went wrong in one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet.kills", description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--runs", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="results, as JSON")
    given = parser.parse_args(line)
    options: dict[str, Any] = {
        "task": given.task, "runtime": "ort", "threads": 1, "steps": STEPS, "batch_size": 4,
        "lr": 1e-4, "eps": 1e-3, "eval_every": 100,
    }  # fmt: skip
    runtime = FleetRuntime(parse_fleet(str(WORKERS), "ort", "cpu"), "both", hash_every=1, hung=5.0)
    session = runtime.load(given.artifact, threads=1, rows=4)
    initial = RUNTIMES["ort"].load(given.artifact, threads=1).read()
    chance, wrong = random.Random(given.seed), []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.runs):
            session.write(initial)
            prepared = start(prepare(given.artifact, options), Path(folder) / str(number))
            encoded = prepared.batch(0)
            keys = [Key(1, 0), Key(1, 0, 1)]
            matrix = np.float32(1e-3) * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
            why = killed(session, prepared, Case(encoded.batch, keys, matrix), chance)
            print(f"run {number}: {why or 'well'}", flush=True)
            wrong += [f"run {number}: {why}"] if why else []
    session.close()
    if given.out is not None:
        save(given.out, {
            "benchmark": "fleet kills", "machine": describe(), "runs": given.runs,
            "killed": 2 * given.runs, "seed": given.seed, "wrong": wrong,
            "seconds": round(time.monotonic() - began),
        })  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

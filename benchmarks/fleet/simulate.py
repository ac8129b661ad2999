"""How far a fleet scales, simulated from measured parts: nobody here has a thousand machines.

    head       s = s_send · calls + s_take · calls      its processor, one call after the other
    worker     latency + cell / speed · jitter          all of them at once
    failure    a worker that dies in a step: its cell is made again by another, after its limit
    step       sending + the last cell's return + taking, while the moves go out unwaited

Measured: seconds of the head's processor per call that is sent and taken, bytes per call (this
machine, actors that do nothing, the arguments of a real cell), seconds of a row on one thread (a
result of `python -m benchmarks.fleet`). Assumed, and on the command line: latency, jitter of
speeds, failures per worker and hour. Work per worker stays the same: a fleet twice as large has
twice the rows or queries.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import ray

from benchmarks.fleet.__main__ import CANDIDATES, MATRIX, token_rows
from benchmarks.machine import describe, save
from zofx.runtimes.fleet.session import FLOOR, SLACK
from zofx.runtimes.fleet.worker import Scores
from zofx.zo.types import Key, Ray

SIZES: Final = (8, 64, 1000)
CALLS: Final = 400


@dataclass(frozen=True)
class Parts:
    """What a step is made of.

    Attributes:
        send: seconds of the head's processor per call that is sent.
        take: per result that is taken.
        bytes: of a worker's calls in a step, there and back.
        row: seconds of one row under both probes on one thread.
    """

    send: float
    take: float
    bytes: int
    row: float


@dataclass(frozen=True)
class World:
    """What is assumed.

    Attributes:
        latency: seconds there and back.
        jitter: standard deviation of the logarithm of a cell's seconds.
        failures: deaths per worker and hour.
        rows: per worker and step.
    """

    latency: float
    jitter: float
    failures: float
    rows: int


class Idle:
    """A worker that computes nothing."""

    def evaluate(self, cell: Any) -> Scores:
        """Scores of the size that a cell has."""
        return Scores(np.zeros((len(MATRIX), len(cell[0].input_ids), CANDIDATES), np.float32), 0.0)

    def apply(self, moves: Any) -> None:
        """Nothing."""


def measured(rows: int, tokens: int, row: float) -> Parts:
    """The head's share of a call, with two workers that do nothing."""
    cell = (token_rows(1000, rows, tokens), [Key(0, 0)], MATRIX)
    moves = [(Ray(Key(0, 0), 1e-4),)]
    actors = [ray.remote(Idle).options(num_cpus=1).remote() for _ in range(2)]
    ray.get([actor.evaluate.remote(cell) for actor in actors])
    began = time.process_time()
    calls = [actors[n % 2].evaluate.remote(cell) for n in range(CALLS)]
    sent = time.process_time()
    for actor in actors:
        for _ in range(CALLS // 2):
            actor.apply.remote(moves)
    moved = time.process_time()
    results = [ray.get(call) for call in calls]
    taken = time.process_time()
    size = sum(len(ray.cloudpickle.dumps(part)) for part in (cell, results[0], moves))
    send = (sent - began + moved - sent) / CALLS
    return Parts(send, (taken - moved) / CALLS, size, row)


def simulated(
    parts: Parts, world: World, workers: int, steps: int, seed: int = 0
) -> dict[str, Any]:
    """Steps of a fleet of this size."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    compute = world.rows * parts.row
    head = workers * (parts.send + parts.take)
    seconds = []
    for _ in range(steps):
        sending = parts.send * np.arange(1, workers + 1)
        cells = compute * np.exp(world.jitter * rng.standard_normal(workers))
        dead = rng.random(workers) < world.failures * (compute + world.latency) / 3600
        again = np.where(dead, FLOOR + SLACK * compute + world.latency + compute, 0.0)
        back = np.sort(sending + world.latency + cells + again)
        taken = 0.0
        for arrival in back:  # one after the other, as they come
            taken = max(taken, float(arrival)) + parts.take
        seconds.append(taken)
    step = float(np.mean(seconds))
    return {
        "workers": workers,
        "steps_per_second": 1 / step,
        "rows_per_second": workers * world.rows / step,
        "head_busy": head / step,
        "bytes_per_second": workers * parts.bytes / step,
        "efficiency": compute / step,
        "bound_by": "the head" if head > step / 2 else "the slowest worker",
    }


def main(line: Sequence[str] | None = None) -> int:
    """Measure the parts, simulate, and print a table."""
    given = _parser().parse_args(line)
    result = json.loads(given.result.read_text(encoding="utf-8"))
    row = median(result["result"]["one_worker"]["alone_seconds"]) / result["protocol"]["rows"]
    world = World(given.latency / 1e3, given.jitter, given.failures, given.rows)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="error", object_store_memory=1 << 27,
    )  # fmt: skip
    try:
        parts = measured(given.rows, result["protocol"]["tokens"], row)
    finally:
        ray.shutdown()
    table = [simulated(parts, world, size, given.steps) for size in SIZES]
    most = int(parts.row * world.rows / (parts.send + parts.take))
    print(f"parts: {parts}\nassumed: {world}")
    for entry in table:
        print(
            f"{entry['workers']:>5} workers: {entry['steps_per_second']:6.2f} steps/s, "
            f"{entry['rows_per_second']:8.0f} rows/s, head {entry['head_busy']:.0%} busy, "
            f"{entry['bytes_per_second'] / 1e6:.2f} MB/s, efficiency {entry['efficiency']:.0%}, "
            f"bound by {entry['bound_by']}"
        )
    print(f"the head has as much to do as a worker from {most} workers on")
    if given.out is not None:
        save(given.out, {
            "benchmark": "fleet simulation", "machine": describe(), "parts": asdict(parts),
            "assumed": asdict(world), "result": table, "head_is_the_limit_from": most,
        })  # fmt: skip
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet.simulate", description="Simulate a fleet of any size."
    )
    add = parser.add_argument
    add("result", type=Path, help="of python -m benchmarks.fleet")
    add("--rows", type=int, default=2, metavar="N", help="per worker and step")
    add("--latency", type=float, default=1.0, metavar="MS", help="there and back")
    add("--jitter", type=float, default=0.1, help="of a cell's seconds, as a logarithm")
    add("--failures", type=float, default=0.01, help="per worker and hour")
    add("--steps", type=int, default=2000, metavar="N")
    add("-o", "--out", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What a fleet on this machine costs and wins, step by step, against one session of this process.

    overhead    a fleet of one worker − the same session here, in turns    ms of a step
    bytes       arguments and results of a step's calls, pickled           without Ray's own frames
    speed-up    one session of k threads ÷ k workers of one thread each

A step is a forward of both probes and a move along one ray. The path of every arrangement is the
same: θ has to be the same bit for bit, or nothing is written.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import numpy as np
import ray
from tokenizers import Tokenizer

from benchmarks.machine import describe, save
from zofx.runtimes import RUNTIMES
from zofx.runtimes.fleet.runtime import FleetRuntime
from zofx.runtimes.fleet.session import FleetSession
from zofx.runtimes.fleet.spec import parse_fleet
from zofx.runtimes.fleet.worker import Scores
from zofx.session import Batch, Session
from zofx.zo.theta import digest
from zofx.zo.types import Key, Ray

MATRIX: Final = np.array([[1e-3], [-1e-3]], np.float32)
CANDIDATES: Final = 6
WARM_UP: Final = 3
"""Steps before the first that counts."""


def main(line: Sequence[str] | None = None) -> int:
    """Measure and record; returns 1 if θ depends on the arrangement."""
    given = _parser().parse_args(line)
    batch = _batch(given.artifact, given.rows, given.tokens)
    ray.init(
        address="local", num_cpus=1 + given.workers, include_dashboard=False,
        log_to_driver=False, logging_level="error", object_store_memory=1 << 27,
    )  # fmt: skip
    try:
        one = _timed(given, batch, 1)
        many = _timed(given, batch, given.workers)
    finally:
        ray.shutdown()
    same = one.pop("same") and many.pop("same")
    if not same:
        print("error: theta differs between a fleet and one session", file=sys.stderr)
        return 1
    result = {"one_worker": one, "workers": many, "bytes_per_step": _bytes(batch, given.workers)}
    if given.out is not None:
        names = ("rows", "tokens", "workers", "runtime", "steps")
        protocol = {name: getattr(given, name) for name in names}
        protocol["versions"] = {"ray": ray.__version__}
        results = {"benchmark": "fleet", "machine": describe(), "protocol": protocol}
        save(given.out, {**results, "result": result})
    print(_line("overhead of one worker, ms", [1e3 * x for x in one["differences"]]))
    print(_line(f"speed-up of {given.workers} workers", many["ratios"]))
    print(f"bytes per step, {given.workers} workers: {result['bytes_per_step']}")
    return 0


def _timed(given: argparse.Namespace, batch: Batch, workers: int) -> dict[str, Any]:
    """Seconds of steps, the fleet's and the session's in turns; the session has as many threads."""
    spec = parse_fleet(str(workers), given.runtime, "cpu")
    fleet = FleetRuntime(spec, "rows").load(given.artifact, threads=1, rows=given.rows)
    alone = RUNTIMES[given.runtime].load(given.artifact, threads=workers, rows=given.rows)
    try:
        _wait(fleet, workers)
        pairs = []
        for number in range(WARM_UP + given.steps):
            pair = _step(alone, batch, number), _step(fleet, batch, number)
            if number >= WARM_UP:
                pairs.append(pair)
        same = digest(alone.read()) == digest(fleet.read())
        if fleet.messages():
            raise SystemExit("error: a worker was lost while it was measured; nothing is recorded")
    finally:
        fleet.close()
        alone.close()
    return {
        "same": same,
        "alone_seconds": [a for a, _ in pairs],
        "fleet_seconds": [b for _, b in pairs],
        "differences": [b - a for a, b in pairs],
        "ratios": [a / b for a, b in pairs],
    }


def _wait(fleet: FleetSession, workers: int) -> None:
    """All workers, so that no late one is counted as a slow fleet."""
    deadline = time.monotonic() + 120
    while len(fleet._crew.now()) < workers:
        if time.monotonic() > deadline:
            raise SystemExit(f"error: {workers} workers were not at work within 120 s")
        time.sleep(0.1)


def _step(session: Session, batch: Batch, number: int) -> float:
    began = time.perf_counter()
    session.evaluate(batch, [Key(0, number)], MATRIX)
    session.move([Ray(Key(0, number), 1e-4)])
    return time.perf_counter() - began


def _bytes(batch: Batch, workers: int) -> int:
    """Of all workers: rows, keys and matrix there, scores back, the ray of the move there."""
    key, total = [Key(0, 0)], 0
    for rows in np.array_split(np.arange(len(batch.input_ids)), workers):
        scores = np.zeros((len(MATRIX), len(rows), CANDIDATES), np.float32)
        calls = (0, batch.rows(rows), key, MATRIX), Scores(scores, 0.0), (0, [(Ray(key[0], 1e-4),)])
        total += sum(len(ray.cloudpickle.dumps(call)) for call in calls)
    return total


def _batch(artifact: Path, rows: int, tokens: int) -> Batch:
    """Rows of the artifact's own tokens, all full."""
    words = Tokenizer.from_file(str(artifact / "tokenizer.json")).get_vocab_size()
    return token_rows(words, rows, tokens)


def token_rows(words: int, rows: int, tokens: int) -> Batch:
    """Random tokens below a number, one scored position with six candidates per row."""
    rng = np.random.Generator(np.random.Philox(key=0))
    ids = rng.integers(words, size=(rows, tokens))
    targets = rng.integers(words, size=(rows, 1, CANDIDATES))
    return Batch(ids, np.ones_like(ids), np.full((rows, 1), tokens - 1), targets, relative=True)


def _line(name: str, values: Sequence[float]) -> str:
    low, _, high = quantiles(values)
    return f"{name}: median {median(values):.3f}, quartiles {low:.3f} to {high:.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet", description="Time a fleet against one session."
    )
    add = parser.add_argument
    add("artifact", type=Path)
    add("--runtime", default="ort")
    add("--rows", type=int, default=16, metavar="N", help="of the batch")
    add("--tokens", type=int, default=24, metavar="T", help="of a row, about as TREC has")
    add("--workers", type=int, default=2, metavar="K", help="of one thread, for the speed-up")
    add("--steps", type=int, default=40, metavar="N", help="that are timed, of each")
    add("-o", "--out", type=Path, metavar="FILE", help="results, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

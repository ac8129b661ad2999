"""What a batch takes in so many forwards, one after the other on all threads, or a thread each.

    workers of   rows/k rows, rows/k rows, …   k forwards, L at a time, on threads/L threads each

From these times are the cost_model of `runtimes/host/batching.py`: another forward, a position more
in a forward, and when threads do forwards of their own. Scores have to be the same in every
arrangement up to a number per row, as rows are relative.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final
from unittest import mock

import numpy as np
from machine import describe, save
from tokenizers import Tokenizer

from zofx.runtimes import ort
from zofx.runtimes.host import engine_session
from zofx.runtimes.host.batching import ROWS_PER_WORKER, CostModel
from zofx.session import Batch
from zofx.zo.types import FloatArray, IntArray, Key

MATRIX: Final = np.array([[1e-3], [-1e-3]], np.float32)
CANDIDATES: Final = 6
TOLERANCE: Final = 1e-4
"""Of scores, which are logarithms: products of other shapes are summed in another order."""

PAUSE: Final = 0.2
"""Seconds before every way: threads of the one before spin a while, on a processor of its own."""


def main(line: Sequence[str] | None = None) -> int:
    """Measure and record; returns 1 if scores depend on the arrangement."""
    given = _parser().parse_args(line)
    sessions = {
        workers: ort.RUNTIME.load(given.artifact, threads=given.threads, rows=rows)
        for workers, rows in ((1, 1), (given.threads, ROWS_PER_WORKER * given.threads))
    }
    if all(session.batching.workers == 1 for session in sessions.values()):
        raise SystemExit(
            f"error: {given.artifact} has one worker (products of floats), or --threads is 1"
        )
    words = Tokenizer.from_file(str(given.artifact / "tokenizer.json")).get_vocab_size()
    batches = [_batch(given.rows, tokens, words) for tokens in given.tokens]
    batches_timed = [_of_batch(sessions, batch, given.rounds) for batch in batches]
    for session in sessions.values():
        session.close()
    if given.out is not None:
        protocol = {"rows": given.rows, "threads": given.threads, "rounds": given.rounds}
        results = {"benchmark": "workers", "machine": describe(), "protocol": protocol}
        save(given.out, {**results, "result": batches_timed})
    for row in batches_timed:
        print(_line(row))
    return 0 if all(row["same"] for row in batches_timed) else 1


def _of_batch(sessions: dict[int, ort.OrtSession], batch: Batch, rounds: int) -> dict[str, Any]:
    """All arrangements, in turns."""
    rows, tokens = batch.input_ids.shape
    counts = [k for k in (1, 2, 4, 8, 16, 32) if k <= rows]
    ways = [(workers, k) for workers in sessions for k in counts if k >= workers]
    seconds: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    scores: dict[tuple[int, int], FloatArray] = {}
    for number in range(rounds + 1):
        for way in ways:
            workers, k = way
            time.sleep(PAUSE)
            with mock.patch.object(engine_session, "by_length", _Cut(k)):
                start = time.perf_counter()
                scores[way] = sessions[workers].evaluate(batch, [Key(0, 0)], MATRIX)
                passed = time.perf_counter() - start
            if number:  # the first round warms up
                seconds[way].append(passed)
    relative = [score - score[:, :, :1] for score in scores.values()]
    same = all(np.abs(other - relative[0]).max() <= TOLERANCE for other in relative)
    timed = [
        {"workers": workers, "forwards": k, "median": median(times), "quartiles": quantiles(times)}
        for (workers, k), times in seconds.items()
    ]
    return {"tokens": tokens, "same": bool(same), "ways": timed}


class _Cut:
    """In place of the cheapest groups: so many of about the same number of rows."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self, batch: Batch, cost_model: CostModel) -> Iterator[tuple[IntArray, Batch]]:
        for rows in np.array_split(np.arange(len(batch.input_ids)), self._count):
            yield rows, batch.rows(rows)


def _batch(rows: int, tokens: int, words: int) -> Batch:
    """Random tokens, all rows full, one scored position with six candidates each."""
    rng = np.random.Generator(np.random.Philox(key=0))
    ids = rng.integers(words, size=(rows, tokens))
    targets = rng.integers(words, size=(rows, 1, CANDIDATES))
    last = np.full((rows, 1), tokens - 1)
    return Batch(ids, np.ones_like(ids), last, targets, relative=True)


def _line(row: dict[str, Any]) -> str:
    lines = [f"rows of {row['tokens']} tokens" + ("" if row["same"] else ": SCORES DIFFER")]
    for way in row["ways"]:
        low, _, high = way["quartiles"]
        lines.append(
            f"  {way['forwards']:>2} forwards, {way['workers']} at a time: {way['median']:.3f} s "
            f"({low:.3f}–{high:.3f})"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time a batch in one forward or several, in turn or side by side."
    )
    add = parser.add_argument
    add(
        "artifact",
        type=Path,
        help="compiled with --activations int8 (the default of senszoq), or with --quant int4",
    )
    add("--rows", type=int, default=16, metavar="N", help="of the batch")
    add("--tokens", type=int, nargs="+", default=[24, 96], metavar="T", help="of a row")
    add("--threads", type=int, default=2, metavar="N")
    add("--rounds", type=int, default=10, metavar="N")
    add("-o", "--out", type=Path, metavar="FILE", help="results, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

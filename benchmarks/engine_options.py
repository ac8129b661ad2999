"""What options of ONNX Runtime do to the seconds and the memory of a step.

    a process per option:   options changed as an engine is opened ─▶ the steps of `zofx tune`

The first is what zofx does (`runtimes/ort.py`); the second as well, and tells by how much processes
differ that do the same; each of the others changes one thing. Steps are taken in turns, as in
`benchmarks.step`, on the same rows; a ratio is between times of one round.
Losses have to be the same under all of them, up to the order in which kernels sum.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final
from unittest import mock

import numpy as np
import onnxruntime

from benchmarks.machine import describe, save
from benchmarks.step import child
from benchmarks.step.contestants import zofx
from benchmarks.step.job import Contestant, Job
from benchmarks.step.match import Protocol, measured
from benchmarks.step.turns import Turns
from zofx.artifact.layout import NOISE
from zofx.runtimes import ort
from zofx.runtimes.host import theta
from zofx.runtimes.host.batching import BatchingPolicy, cpu_batching_policy
from zofx.zo.types import FloatArray, Key, key_words

Options = onnxruntime.SessionOptions
CHILD: Final = (sys.executable, "-m", "benchmarks.engine_options", "--child")
WARM_UP: Final = 2
TOLERANCE: Final = 1e-4
"""Of a loss of a few nats."""


def _entry(name: str, value: str) -> Callable[[Options], None]:
    return lambda options: options.add_session_config_entry(name, value)


def _setting(name: str, value: Any) -> Callable[[Options], None]:
    return lambda options: setattr(options, name, value)


CHANGES: Final[dict[str, Callable[[Options], None]]] = {
    "threads that sleep": _entry("session.intra_op.allow_spinning", "0"),
    "nodes side by side": _setting("execution_mode", onnxruntime.ExecutionMode.ORT_PARALLEL),
    "no arena": _setting("enable_cpu_mem_arena", False),
    "a plan of memory per shape": _setting("enable_mem_pattern", True),
    "no packed weights": _entry("session.disable_prepacking", "1"),
    "no rewriting at load": _setting(
        "graph_optimization_level", onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    ),
}
"""Name → how it changes the options of an engine."""

AS_IT_IS, AGAIN, SHARED = "as it is", "as it is, again", "threads share every op"
BOUND, DRAWN = "inputs and output bound", "z by noise.onnx"
NAMES: Final = (AS_IT_IS, AGAIN, SHARED, *CHANGES, BOUND, DRAWN)


def main(line: Sequence[str] | None = None) -> int:
    """Measure and record; returns 1 if a process fails, or losses differ."""
    given = _parser().parse_args(line)
    protocol = Protocol(given.rounds, WARM_UP)
    with tempfile.TemporaryDirectory() as name:
        jobs = [_job(given, option, Path(name)) for option in given.options]
        rows, failed = measured(jobs, protocol, Path(name), CHILD)
    compared = [_compared(row, rows[0]) for row in rows]
    if given.out is not None:
        asked = {name: getattr(given, name) for name in ("task", "batch", "threads", "rounds")}
        results = {"benchmark": "engine_options", "machine": describe(), "protocol": asked}
        save(given.out, {**results, "result": compared, "failed": failed})
    for row in compared:
        print(_line(row))
    return 1 if failed or any(row["difference"] > TOLERANCE for row in compared) else 0


def _job(given: argparse.Namespace, option: str, folder: Path) -> Job:
    own = folder / option
    own.mkdir()
    return Job(
        Contestant("zofx", option, runtime="ort"), str(given.artifact.resolve()), given.task, "",
        given.batch, given.threads, 0, str(own),
    )  # fmt: skip


def _compared(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """A row of results, beside the first option's."""
    ratios = [a / b for a, b in zip(row["seconds"], first["seconds"], strict=True)]
    return {
        "option": row["method"],
        "median": row["median"],
        "ratio": median(ratios),
        "ratio_quartiles": quantiles(ratios, method="inclusive"),
        "peak_bytes": row["peak_bytes"],
        "difference": abs(row["first_loss"] - first["first_loss"]),
    }


def _line(row: dict[str, Any]) -> str:
    low, _, high = row["ratio_quartiles"]
    differ = "" if row["difference"] <= TOLERANCE else f"  LOSS DIFFERS by {row['difference']:.1g}"
    return (
        f"{row['option']:<27} {row['median']:.3f} s  {row['ratio']:.2f} ({low:.2f}–{high:.2f})  "
        f"{row['peak_bytes'] / 1e6:.0f} MB{differ}"
    )


# --- the process of an option ---------------------------------------------------------------------


def _contest(job: Job, turns: Turns) -> None:
    """`zofx tune`, but for the option."""
    with _changed(job.contestant.method, Path(job.artifact), job.threads):
        zofx(job, turns)


@contextmanager
def _changed(option: str, artifact: Path, threads: int) -> Iterator[None]:
    """With the option, whoever opens an engine."""
    opened = onnxruntime.InferenceSession

    def change(path: Path, options: Options, **more: Any) -> Any:
        CHANGES[option](options)
        return opened(path, options, **more)

    with ExitStack() as stack:
        if option in CHANGES:
            stack.enter_context(mock.patch.object(onnxruntime, "InferenceSession", change))
        if option == SHARED:
            stack.enter_context(mock.patch.object(ort, "cpu_batching_policy", _shared))
        if option == BOUND:
            stack.enter_context(mock.patch.object(ort.OrtSession, "_forward", _bound))
        if option == DRAWN:
            drawn = _Drawn(artifact / NOISE, threads)
            instead = mock.patch.object(theta.HostTheta, "draw", lambda _, key: drawn.draw(key))
            stack.enter_context(instead)
        yield


def _shared(*conditions: Any) -> BatchingPolicy:
    """In place of the pace that zofx has for a program: without workers."""
    return replace(cpu_batching_policy(*conditions), workers=1)


def _bound(session: ort.OrtSession, feeds: dict[str, Any]) -> FloatArray:
    """In place of a session's forward: its arrays are bound, not handed to `run`."""
    binding = session._engine.io_binding()
    for name, fed in feeds.items():
        if name in session._reads:
            shared = isinstance(fed, np.ndarray)
            value = onnxruntime.OrtValue.ortvalue_from_numpy(fed) if shared else fed
            binding.bind_ortvalue_input(name, value)
    binding.bind_output("logprob")
    session._engine.run_with_iobinding(binding)
    (scores,) = binding.copy_outputs_to_cpu()
    return np.asarray(scores)


class _Drawn:
    """In place of numpy's draws: those of the artifact's own model, of all trainables at once."""

    def __init__(self, model: Path, threads: int) -> None:
        options = Options()
        options.intra_op_num_threads = threads
        self._engine = onnxruntime.InferenceSession(model, options)
        self._names = [value.name.removesuffix(".z") for value in self._engine.get_outputs()]

    def draw(self, key: Key) -> dict[str, FloatArray]:
        """z(key) of every trainable."""
        draws = self._engine.run(None, {"keys": key_words((key,)).view(np.int64)})
        return {name: z[0] for name, z in zip(self._names, draws, strict=True)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time steps, and take their memory, under options of ONNX Runtime."
    )
    add = parser.add_argument
    add("artifact", type=Path, help="compiled folder")
    add("--task", default="trec", metavar="NAME", help="a task of zofx, or a .jsonl file")
    add("--batch", type=int, default=16, metavar="N", help="examples per step")
    add("--threads", type=int, default=2, metavar="N")
    add("--rounds", type=int, default=25, metavar="N", help="turns of each that count")
    add("--options", nargs="+", default=list(NAMES), choices=NAMES, metavar="OPTION")
    add("-o", "--out", type=Path, metavar="FILE", help="results, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(child.main(_contest) if sys.argv[1:] == ["--child"] else main())

"""What options of ONNX Runtime do to the seconds and the memory of a forward.

    a process per option, all alive:  A B C … A B C …     z and a forward each, a pause between

The first is what zofx does (`zofx/runtimes/ort.py`); each of the others changes one thing. A ratio
is between times of one round. Scores have to be the same under all of them.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from subprocess import PIPE
from typing import Any, Final
from unittest import mock

import numpy as np
import onnxruntime
from lanes import MATRIX, batch_of
from machine import describe, save
from tokenizers import Tokenizer

from zofx.runtimes import ort
from zofx.zo.types import FloatArray, Key, key_words

Options = onnxruntime.SessionOptions
PAUSE: Final = 0.1
"""Seconds between two turns: threads look for more work for some milliseconds."""
WARM_UP: Final = 2
TOLERANCE: Final = 1e-4
"""Of scores, which are logarithms: another kernel sums in another order."""


def _entry(name: str, value: str) -> Callable[[Options], None]:
    return lambda options: options.add_session_config_entry(name, value)


def _setting(name: str, value: Any) -> Callable[[Options], None]:
    return lambda options: setattr(options, name, value)


CHANGES: Final[dict[str, Callable[[Options], None]]] = {
    "as it is": lambda options: None,
    "one thread": _setting("intra_op_num_threads", 1),
    "threads that sleep": _entry("session.intra_op.allow_spinning", "0"),
    "nodes side by side": _setting("execution_mode", onnxruntime.ExecutionMode.ORT_PARALLEL),
    "no arena": _setting("enable_cpu_mem_arena", False),
    "a plan of memory per shape": _setting("enable_mem_pattern", True),
    "no packed weights": _entry("session.disable_prepacking", "1"),
    "no rewriting at load": _setting(
        "graph_optimization_level", onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    ),
    "inputs and output bound": lambda options: None,
    "z by noise.onnx": lambda options: None,
}
"""Name → how it changes the options of an engine; the last two change who calls it."""


def main(line: Sequence[str] | None = None) -> int:
    """Measure and record; returns 1 if scores differ."""
    given = _parser().parse_args(line)
    if given.only:
        _take_turns(given)
        return 0
    found = _measured(given)
    first = found[given.options[0]]
    rows = []
    for name, turns in found.items():
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(turns, first, strict=True)]
        pairs = zip(turns, first, strict=True)
        rows.append(
            {
                "option": name,
                "seconds": median(turn["seconds"] for turn in turns),
                "z_seconds": median(turn["z_seconds"] for turn in turns),
                "ratio": median(ratios),
                "ratio_quartiles": quantiles(ratios, method="inclusive"),
                "peak_bytes": turns[-1]["peak_bytes"],
                "difference": max(_apart(a["scores"], b["scores"]) for a, b in pairs),
            }
        )
    if given.out is not None:
        asked = ("rows", "tokens", "threads", "rounds")
        protocol = {name: getattr(given, name) for name in asked}
        results = {"benchmark": "engine_options", "machine": describe(), "protocol": protocol}
        save(given.out, {**results, "result": rows})
    for row in rows:
        print(_told(row))
    return 0 if all(row["difference"] <= TOLERANCE for row in rows) else 1


def _apart(scores: Any, others: Any) -> float:
    return float(np.abs(np.array(scores) - np.array(others)).max())


def _measured(given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Option → what each of its turns took; those of the first rounds warm up."""
    asked = ("rows", "tokens", "threads")
    words = [word for name in asked for word in (f"--{name}", str(getattr(given, name)))]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in given.options}
    with ExitStack() as stack:
        line = [sys.executable, __file__, str(given.artifact), *words, "--only"]
        children = {
            name: stack.enter_context(
                subprocess.Popen([*line, name], stdin=PIPE, stdout=PIPE, text=True)
            )
            for name in given.options
        }
        for number in range(WARM_UP + given.rounds):
            for name, child in children.items():
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write("step\n")
                child.stdin.flush()
                if not (answer := child.stdout.readline()):
                    raise SystemExit(f"error: the process with the option '{name}' ended")
                if number >= WARM_UP:
                    found[name].append(json.loads(answer))
                time.sleep(PAUSE)
    return found


def _take_turns(given: argparse.Namespace) -> None:
    """Load as zofx does, but for the option; a line asks for a step, a line says what it took."""
    words = Tokenizer.from_file(str(given.artifact / "tokenizer.json")).get_vocab_size()
    batch = batch_of(given.rows, given.tokens, words)
    with mock.patch.object(onnxruntime, "InferenceSession", _Changed(CHANGES[given.only])):
        session = ort.RUNTIME.load(given.artifact, threads=given.threads, rows=given.rows)
    if given.only == "inputs and output bound":
        session._forward = _Bound(session)
    if given.only == "z by noise.onnx":
        session._slices._draws = _Drawn(given.artifact / "noise.onnx", given.threads)
    for step, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        session._slices.probes([Key(0, step)], MATRIX)
        made = time.perf_counter()
        scores = session.evaluate(batch, [Key(0, step)], MATRIX)
        answer = {
            "seconds": time.perf_counter() - start,
            "z_seconds": made - start,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            "scores": (scores - scores[:, :, :1]).tolist(),
        }
        print(json.dumps(answer), flush=True)
    session.close()


class _Changed:
    """In place of `onnxruntime.InferenceSession`: the options are changed first."""

    def __init__(self, change: Callable[[Options], None]) -> None:
        self._change = change
        self._open = onnxruntime.InferenceSession

    def __call__(self, path: Path, options: Options, **more: Any) -> Any:
        self._change(options)
        return self._open(path, options, **more)


class _Bound:
    """In place of a session's forward: nothing is looked up or wrapped by `run`."""

    def __init__(self, session: ort.OrtSession) -> None:
        self._engine, self._reads = session._engine, session._reads

    def __call__(self, inputs: dict[str, Any], feeds: dict[str, Any]) -> FloatArray:
        binding = self._engine.io_binding()
        for name, fed in {**inputs, **feeds}.items():
            if name in self._reads:
                shared = isinstance(fed, np.ndarray)
                value = onnxruntime.OrtValue.ortvalue_from_numpy(fed) if shared else fed
                binding.bind_ortvalue_input(name, value)
        binding.bind_output("logprob")
        self._engine.run_with_iobinding(binding)
        (scores,) = binding.copy_outputs_to_cpu()
        return np.asarray(scores)


class _Drawn:
    """In place of numpy's draws of a key: those of the artifact's own model, kept for a step."""

    def __init__(self, model: Path, threads: int) -> None:
        options = Options()
        options.intra_op_num_threads = threads
        self._engine = onnxruntime.InferenceSession(model, options)
        self._names = [value.name.removesuffix(".z") for value in self._engine.get_outputs()]
        self._kept: tuple[Key | None, dict[str, FloatArray]] = (None, {})

    def __call__(self, key: Key) -> dict[str, FloatArray]:
        if self._kept[0] != key:
            words = key_words((key,)).view(np.int64)
            draws = self._engine.run(None, {"keys": words})
            self._kept = key, {n: z[0] for n, z in zip(self._names, draws, strict=True)}
        return self._kept[1]


def _told(row: dict[str, Any]) -> str:
    low, _, high = row["ratio_quartiles"]
    differ = "" if row["difference"] <= TOLERANCE else f"  SCORES DIFFER by {row['difference']:.1g}"
    return (
        f"{row['option']:<27} {row['seconds']:.3f} s  {row['ratio']:.2f} ({low:.2f}–{high:.2f})  "
        f"z {1e3 * row['z_seconds']:.2f} ms  {row['peak_bytes'] / 1e6:.0f} MB{differ}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time a forward, and take its memory, under options of ONNX Runtime."
    )
    add = parser.add_argument
    add("artifact", type=Path, help="compiled folder")
    add("--rows", type=int, default=16, metavar="N", help="of the batch")
    add("--tokens", type=int, default=24, metavar="T", help="of a row")
    add("--threads", type=int, default=2, metavar="N")
    add("--rounds", type=int, default=25, metavar="N", help="turns of each")
    add("--options", nargs="+", default=list(CHANGES), choices=list(CHANGES), metavar="OPTION")
    add("--only", choices=list(CHANGES), help=argparse.SUPPRESS)
    add("-o", "--out", type=Path, metavar="FILE", help="results, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

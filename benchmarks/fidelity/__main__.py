"""zofx beside the public trainers of its methods, step by step, along the same directions.

    checkouts of public code ─▶ every case of every checkout ─▶ table, results.json
    exit code 0   every step is as expected: equal up to derived rounding, or a known fault shows
    exit code 1   some step is not
    exit code 2   no checkout, or not the right one

The public code is run where it lies and is no part of this project.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.fidelity import lozo, mezo, zobench
from benchmarks.fidelity.case import Peer
from benchmarks.fidelity.compare import Row, compared
from benchmarks.fidelity.public import commit
from benchmarks.fidelity.subject import EPS, SEED, Ground
from benchmarks.machine import describe, save
from zofx.cli.console import columns, say
from zofx.errors import UsageError, ZofxError

PEERS: Final = (mezo.PEER, lozo.PEER, zobench.PEER)


def main(words: Sequence[str] | None = None) -> int:
    """Compare with every checkout that is given."""
    given = _parser().parse_args(words)
    checkouts = {
        peer: Path(path) for peer in PEERS if (path := getattr(given, peer.option)) is not None
    }
    missing = [peer for peer in PEERS if peer not in checkouts]
    if missing:
        say(_missing_text(missing))
    try:
        if not checkouts:
            raise UsageError("there is nothing to compare with: give at least one checkout")
        results = measured(checkouts, given.steps)
    except ZofxError as error:
        say(f"error: {error}")
        return error.exit_code
    if given.out:
        save(given.out, results)
    print(table(results))
    return 0 if all(row["as_expected"] for row in results["cases"]) else 1


def measured(checkouts: Mapping[Peer, Path], steps: int) -> dict[str, Any]:
    """The results of all cases.

    Raises:
        UsageError: a checkout is not what it should be.
    """
    disable_progress_bar()
    torch.set_num_threads(1)
    rows, evidence = [], {}
    with TemporaryDirectory(prefix="zofx-fidelity-") as folder:
        ground = Ground(Path(folder), steps)
        for peer, checkout in checkouts.items():
            for case in peer.cases:
                say(case.label)
                run = ground.trajectory(case.method, case.numbers)
                rows.append({"peer": peer.option, **compared(case, checkout, run)})
            if peer.evidence:
                first = ground.trajectory(peer.cases[0].method, peer.cases[0].numbers)
                evidence[peer.option] = peer.evidence(checkout, first)
    return {
        "benchmark": "fidelity",
        "machine": describe(),
        "protocol": {"model": "tiny OPT", "steps": steps, "eps": EPS, "seed": SEED},
        "peers": {
            peer.option: {"repository": peer.repository, "commit": commit(checkout)}
            for peer, checkout in checkouts.items()
        },
        "cases": rows,
        "evidence": evidence,
    }


def table(results: Mapping[str, Any]) -> str:
    """A line per case: the largest differences over steps, and what they may be."""
    head = (
        "public code", "zofx", "losses", "allowed", "θ in step", "allowed", "share",
        "fault shows", "textbook", "freely", "theirs f32", "verdict",
    )  # fmt: skip
    lines = columns([head, *(_line(row) for row in results["cases"])])
    also = [
        f"{peer}: {name.replace('_', ' ')}: {value}"
        for peer, evidence in results["evidence"].items()
        for name, value in evidence.items()
    ]
    return "\n".join([lines, *also])


def _line(row: Row) -> tuple[str, ...]:
    steps = row["in_step"]
    plain = [step for step in steps if not step["fault_shows"]]
    free = row["freely"]
    return (
        row["case"],
        row["method"],
        _worst(steps, "losses", "difference"),
        _worst(steps, "losses", "tolerance"),
        _worst(plain, "weights", "difference"),
        _worst(plain, "weights", "tolerance"),
        f"{max(step['weights']['share'] for step in plain):.2f}" if plain else "–",
        f"{len(steps) - len(plain)} of {len(steps)}" if row["fault"] else "",
        _worst(steps, "textbook", "difference"),
        f"{free['zofx_from_float64']['path'][-1]:.0e}",
        f"{free['float32_from_float64']['path'][-1]:.0e}",
        _verdict(row),
    )


def _worst(steps: Sequence[Row], what: str, number: str) -> str:
    return f"{max(step[what][number] for step in steps):.1e}" if steps else "–"


def _verdict(row: Row) -> str:
    if not row["as_expected"]:
        steps = [step["step"] for step in row["in_step"] if not step["as_expected"]]
        return f"NOT AS EXPECTED at steps {steps}"
    return "differs as its fault predicts" if row["fault"] else "agrees"


def _missing_text(missing: Sequence[Peer]) -> str:
    lines = [f"  {peer.how}" for peer in missing]
    return "\n".join(["not compared, for want of a checkout of public code:", *lines])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fidelity",
        description="Compare zofx with public trainers, step by step, along the same directions.",
    )
    add = parser.add_argument
    for peer in PEERS:
        add(f"--{peer.option}", metavar="CHECKOUT", help=f"of {peer.repository}")
    add("--steps", type=int, default=20, metavar="N", help="of every run (20)")
    add("-o", "--out", type=Path, metavar="RESULT.json", help="write the results here")
    return parser


if __name__ == "__main__":
    sys.exit(main())

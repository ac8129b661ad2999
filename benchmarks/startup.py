"""How long the command line takes to answer, beside an interpreter that does nothing.

    each round: python -c pass, then every command once     A B C A B C …
    wall        from start to end of the process            what a person waits
    processor   user + system time of the process           what it costs, on a busy machine too

The median over all rounds counts; the first round fills the caches and is left out.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from machine import describe, save

BASELINE: Final = "python -c pass"
COMMANDS: Final = {
    BASELINE: ("-c", "pass"),
    **{
        f"zofx {words}": ("-m", "zofx", *words.split())
        for words in ("--help", "list methods", "list passes", "list runtimes", "list tasks")
    },
}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, record, tell; returns 1 if a command takes longer than it may."""
    given = _parser().parse_args(words)
    rounds = [
        {name: _once(command) for name, command in COMMANDS.items()}
        for _ in range(given.rounds + 1)
    ]
    timed = {
        name: {
            "wall_seconds": round(median(each[name][0] for each in rounds[1:]), 4),
            "processor_seconds": round(median(each[name][1] for each in rounds[1:]), 4),
        }
        for name in COMMANDS
    }
    slow = [name for name, row in timed.items() if row["processor_seconds"] > given.limit]
    results: dict[str, Any] = {
        "benchmark": "startup",
        "machine": describe(),
        "protocol": {"rounds": given.rounds, "limit_seconds": given.limit},
        "result": timed,
        "within": not slow,
    }
    if given.out is not None:
        save(given.out, results)
    for name, row in timed.items():
        late = f"  OVER {given.limit:g} s" if name in slow else ""
        print(
            f"{name:<20} {row['wall_seconds']:.3f} s, "
            f"{row['processor_seconds']:.3f} s of a processor{late}"
        )
    return 1 if slow else 0


def _once(command: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds of one process.

    Raises:
        SystemExit: it failed; its output is on stderr.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen did not wait itself
    if process.returncode:
        raise SystemExit(f"error: python {' '.join(command)} ended with code {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how fast `zofx` starts.")
    add = parser.add_argument
    add("--rounds", type=int, default=15, metavar="N", help="that count (15)")
    add("--limit", type=float, default=0.3, metavar="S", help="processor seconds of each (0.3)")
    add("-o", "--out", type=Path, metavar="RESULT.json", help="write the results here")
    return parser


if __name__ == "__main__":
    sys.exit(main())

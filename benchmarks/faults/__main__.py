"""Damage, kills and full disks: a row per campaign, and exit code 1 if anything was lost.

A campaign of 0 cases is left out, and its row in the results stays as it was.

python -m benchmarks.faults --artifacts 500 --journals 500 --kills 40 --json results/faults.json
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from random import Random

from benchmarks.faults import damage, ends, isolated
from benchmarks.faults.subject import Subject
from benchmarks.machine import commit, describe

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    """How many cases of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.faults")
    counts = {
        "artifacts": 500, "journals": 500, "kills": 40, "writers": 24, "pairs": 8, "disks": 40,
        "signals": 6,
    }  # fmt: skip
    for name, count in counts.items():
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=HERE.parent / "results" / "faults.json")
    return parser.parse_args()


def campaigns(subject: Subject, asked: argparse.Namespace) -> list[isolated.Row]:
    """Those that are asked for, the quick ones first."""
    random = Random(asked.seed)
    each = asked.artifacts // 2
    todo = [
        (asked.journals, lambda n: damage.journals(subject, n, random)),
        (asked.signals, lambda n: ends.signals(subject, n, random)),
        (asked.kills, lambda n: ends.kills_of_tune(subject, n, random)),
        (asked.writers, lambda n: ends.kills_of_writers(subject, n, random)),
        (asked.pairs, lambda n: ends.pairs(subject, n)),
        (asked.disks, lambda n: ends.full_disks(subject, n, random)),
        (each, lambda n: damage.artifacts(subject, "ort", n, random)),
        (each, lambda n: damage.artifacts(subject, "torch", n, random)),
    ]
    rows = []
    for count, campaign in todo:
        if count:
            began = time.monotonic()
            rows.append(row := campaign(count))
            print(
                f"{row.name:<40} tried {row.tried:>5}  harmless {row.harmless:>5}  refused "
                f"{row.refused:>5}  lost {len(row.lost):>3}  {time.monotonic() - began:.0f} s",
                flush=True,
            )
            save(asked, row)
    return rows


def save(asked: argparse.Namespace, row: isolated.Row) -> None:
    """Put a row in the place of one of its name; other campaigns keep theirs."""
    stored = json.loads(asked.json.read_text(encoding="utf-8")) if asked.json.is_file() else {}
    rows = {kept["name"]: kept for kept in stored.get("rows", [])}
    rows[row.name] = {**asdict(row), "seed": asked.seed}
    result = {"machine": describe(), "commit": commit(), "rows": list(rows.values())}
    asked.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Make the subject, run the campaigns."""
    asked = arguments()
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(Path(folder))
        log = str(subject.root / "log")
        made = isolated.run(subject.make, log)
        assert made == "harmless", Path(log).read_text(encoding="utf-8")
        rows = campaigns(subject, asked)
    return int(any(row.lost for row in rows))


if __name__ == "__main__":
    sys.exit(main())

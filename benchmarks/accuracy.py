"""What tuning gains: accuracy before and after, for frozen formats × seeds, and whether it is real.

    MODEL ─compile─▶ artifact, one per format ─▶ accuracy on test, before
                     └─ for every seed: trial ─▶ accuracy after, seconds per step, θ checked

A trial (trial.py) tunes on one runtime, replays its journal on the other bit for bit and, for the
first seed, exports its model and lets transformers alone answer the test split.
Artifacts and run folders are kept in --work and results are saved after every trial: the same
command goes on where it was interrupted, to the step.
"""

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from machine import commit, describe, save
from trial import Judge, before, trial

from zofx.cli.console import Progress, columns, say
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options, pipeline_for
from zofx.compiler.sensitivity.rank import rank_on_text
from zofx.compiler.sensitivity.scores import Scores, load_scores
from zofx.errors import UsageError, ZofxError
from zofx.models.checkpoint import Checkpoint, open_checkpoint
from zofx.runs.compiled_model import open_model

Results: TypeAlias = dict[str, Any]

NOT_PROTOCOL: Final = ("quant", "seeds", "out", "work")
TUNING: Final = ("steps", "batch_size", "queries", "refresh", "lr", "eps", "schedule")
DRAWING: Final = ("task", "data", "train", "dev", "eval_every", "eval_size", "threads")


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing from the results, then print all of them."""
    given = _parser().parse_args(words)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        results = run(given)
    except ZofxError as error:
        say(f"error: {error}")
        return error.exit_code
    print(table(results))
    return 0


def run(given: argparse.Namespace) -> Results:
    """Every format, every seed that is not in the results yet; returns the results, saved.

    Raises:
        UsageError: the results there are of another protocol.
        ZofxError: whatever a run raises; the results so far are kept.
    """
    results = _begun(given)
    work = given.work or Path("artifacts") / given.out.stem
    judge = Judge(given.limit, given.eval_batch_size)
    for quant in given.quant:
        artifact = _artifact(given, work, quant)
        _require_recorded(results, quant, artifact)
        if quant not in results["compiled"]:
            results["compiled"][quant] = before(artifact, _options(given, given.seeds[0]), judge)
            save(given.out, results)
        done = {row["seed"] for row in results["runs"] if row["quant"] == quant}
        for seed in given.seeds:
            if seed in done:
                continue
            say(f"{quant}, seed {seed}")
            folder = work / f"{quant}-seed{seed}"
            export_to = work / f"{quant}-exported" if seed == given.seeds[0] else None
            row = trial(artifact, _options(given, seed), folder, judge, export_to)
            results["runs"].append({"quant": quant, "seed": seed, "commit": commit(), **row})
            save(given.out, results)
    return results


def _artifact(given: argparse.Namespace, work: Path, quant: str) -> Path:
    """Compile, unless a former invocation did."""
    checkpoint, folder = open_checkpoint(given.model), work / quant
    method = METHODS[given.method]
    options = Options(quant, given.activations, fraction=given.fraction, settings=given.set)
    pipeline = pipeline_for(method, options)
    if folder.exists():
        had = open_model(folder).manifest
        wanted = str(pipeline)
        if (had.model["hash"], had.pipeline) != (checkpoint.hash, wanted):
            raise UsageError(
                f"{folder} is {had.model['source']} compiled by {had.pipeline}, and {given.model} "
                f"by {wanted} is asked for; give another --work"
            )
        return folder
    work.mkdir(parents=True, exist_ok=True)
    scores = _scores(given, work, checkpoint) if pipeline.needs_scores else None
    with Progress(f"compile {quant}") as bar:
        compile_model(
            checkpoint, method, folder, scores=scores, options=options,
            progress=lambda _, done, total: bar(done, total),
        )  # fmt: skip
    return folder


def _require_recorded(results: Results, quant: str, artifact: Path) -> None:
    """The artifact must be the one that the results so far were made with.

    Raises:
        UsageError: it is another one.
    """
    recorded = results["compiled"].get(quant, {}).get("artifact")
    own = open_model(artifact).manifest.hash
    if recorded not in (None, own):
        raise UsageError(
            f"{artifact} ({own[:12]}) is not the artifact of the results ({recorded[:12]}); "
            "give the --work they were made in, or another -o"
        )


def _scores(given: argparse.Namespace, work: Path, checkpoint: Checkpoint) -> Scores:
    """Sensitivity from the given file, or ranked once on the given text."""
    if not (given.sensitivity or given.calibration):
        raise UsageError(
            f"method {given.method} ranks weights: give --sensitivity or --calibration"
        )
    file = given.sensitivity or work / "scores.safetensors"
    if given.sensitivity is None and not file.exists():
        rank_on_text(checkpoint, given.calibration).save(file)
    scores = load_scores(file)
    scores.check_model(checkpoint)
    return scores


def _options(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    options = {name: getattr(given, name) for name in (*DRAWING, *TUNING)}
    return {"seed": seed, "runtime": given.runtime, **options}


def _begun(given: argparse.Namespace) -> Results:
    """The results so far; new ones where there is no file."""
    protocol = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(given).items()
        if name not in NOT_PROTOCOL
    }
    fresh = {
        "benchmark": "accuracy", "machine": describe(), "protocol": protocol,
        "compiled": {}, "runs": [],
    }  # fmt: skip
    if not given.out.is_file():
        return fresh
    results: Results = json.loads(given.out.read_bytes())
    had = results.get("protocol", {})
    if differing := [name for name in protocol if protocol[name] != had.get(name)]:
        raise UsageError(
            f"{given.out} was made with another {', '.join(differing)}; results of two protocols "
            "do not go into one file: choose another -o and --work"
        )
    return results


def table(results: Results) -> str:
    """One line per run, then the mean over seeds per format; accuracies on test in percent."""
    rows: list[tuple[str, ...]] = [
        ("format", "seed", "before", "best", "(step)", "last", "s/step", "θ ort=torch", "exported")
    ]
    for run in results["runs"]:
        untrained = results["compiled"][run["quant"]]["before"]
        digests = run["theta_sha256"]
        plain = run.get("transformers")
        rows.append(
            (
                run["quant"], str(run["seed"]), _share(untrained), _share(run["best"]),
                f"({run['best']['step']})", _share(run["last"]), f"{run['seconds_per_step']:.3f}",
                digests["ort"][:8] if digests["ort"] == digests["torch"] else "DIFFERS",
                f"{plain['accuracy']:.1%}, {plain['differing_answers']} differ" if plain else "",
            )
        )  # fmt: skip
    return "\n".join([columns(rows), *_means(results)])


def _share(judged: Mapping[str, Any]) -> str:
    low, high = judged["interval95"]
    return f"{judged['accuracy']:.1%} [{low:.1%}, {high:.1%}]"


def _means(results: Results) -> list[str]:
    lines = []
    for quant, compiled in results["compiled"].items():
        after = [run["best"]["accuracy"] for run in results["runs"] if run["quant"] == quant]
        if after:
            untrained, mean = compiled["before"]["accuracy"], statistics.mean(after)
            lines.append(
                f"{quant}: {untrained:.1%} → {mean:.1%}, mean of {len(after)} seeds "
                f"({min(after):.1%} to {max(after):.1%}), {100 * (mean - untrained):+.1f} points"
            )
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Accuracy before and after tuning, checked.")
    add = parser.add_argument
    add("model", metavar="MODEL", help="as for `zofx compile`")
    add("--method", default="senszoq", metavar="NAME", help="senszoq")
    add("--set", action="append", default=[], metavar="PASS.OPTION=VALUE", help="may be repeated")
    ranks = parser.add_mutually_exclusive_group()
    ranks.add_argument("--sensitivity", type=Path, metavar="FILE", help="ranks made before")
    ranks.add_argument("--calibration", metavar="TEXT", help="text to rank weights on, once")
    add("--quant", nargs="+", default=["nf4", "int4"], metavar="FORMAT", help="nf4 int4")
    add("--activations", metavar="FORMAT", help="as for `zofx compile`")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="0 1 2")
    add("--fraction", type=float, metavar="F", help="share of the weights that trains")
    add("--task", required=True, metavar="NAME|FILE.jsonl")
    add("--data", metavar="DIR", help="read the task's records from here")
    for name in ("train", "dev", "eval-every", "eval-size"):
        add(f"--{name}", type=int, metavar="N", help="as for `zofx tune`")
    for name in ("steps", "batch-size", "queries", "refresh"):
        add(f"--{name}", type=int, metavar="N", help="as for `zofx tune`")
    for name in ("lr", "eps"):
        add(f"--{name}", type=float, help="as for `zofx tune`")
    add("--schedule", metavar="SHAPE", help="constant, linear or cosine")
    add("--limit", type=int, metavar="N", help="test examples; all of them if absent")
    add("--eval-batch-size", type=int, default=16, metavar="B", help="examples per forward (16)")
    add("--runtime", default="ort", metavar="NAME", help="to tune on: ort")
    add("--threads", type=int, metavar="N", help="of the runtimes")
    add("-o", "--out", type=Path, required=True, metavar="RESULT.json")
    add("--work", type=Path, metavar="DIR", help="artifacts/RESULT if absent")
    return parser


if __name__ == "__main__":
    sys.exit(main())

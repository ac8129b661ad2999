"""How much memory compiling takes, against the size of the checkpoint.

    random checkpoint of W bytes ─`zofx compile --quant FORMAT`, own process─▶ peak resident set
    passes if    peak ≤ W/4 + 1.5 GB

A compiler with the checkpoint in memory would need W; the artifact of four bits per weight is W/4
of an fp16 checkpoint; 1.5 GB is for torch, transformers, onnx and the tensors at work.
The checkpoint is a Llama of random weights, with random sensitivity scores of f32 (2 W where the
checkpoint is fp16).

The kernel counts what a process had before `exec` as the new program's, so this one imports
neither torch nor transformers; and the child's own figure is asked for (wait4), not the largest of
all children.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from machine import describe, save
from random_llama import SCATTERED, WIDTHS, Shape, make_checkpoint, make_scores

FINGERPRINT: Final = (
    "import sys; from pathlib import Path; from zofx.models.safetensors_folder import "
    "fingerprint, open_shards; "
    "print(fingerprint(open_shards(Path(sys.argv[1]))[1]))"
)

RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
"""getrusage counts kilobytes on Linux and bytes on macOS."""


def main(words: Sequence[str] | None = None) -> int:
    """Make, compile, measure, record; returns 1 if the bound is broken or the compiler fails."""
    given = _parser().parse_args(words)
    with _folder(given.keep) as folder:
        results = _measured(given, folder)
    if given.out is not None:
        save(given.out, results)
    print(_summary(results["result"], given.spare))
    return 0 if results["result"]["within"] else 1


def _measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rng = np.random.Generator(np.random.Philox(key=0))
    shape = Shape.of_bytes(
        given.gigabytes * 1e9, WIDTHS[given.dtype], given.hidden, given.vocabulary
    )
    checkpoint, scores = folder / "checkpoint", folder / "scores.safetensors"
    weights = make_checkpoint(checkpoint, shape, given.dtype, rng)
    make_scores(scores, _fingerprint(checkpoint), shape, SCATTERED, rng)
    peak, seconds = compile_apart(checkpoint, scores, folder / "artifact", given.quant)
    report = json.loads((folder / "artifact" / "manifest.json").read_bytes())["report"]
    bound = int(weights / 4 + given.spare * 1e9)
    return {
        "benchmark": "compile_memory",
        "machine": describe(),
        "protocol": {"dtype": given.dtype, "quant": given.quant, **asdict(shape)},
        "result": {
            "weights_bytes": weights,
            "scores_bytes": scores.stat().st_size,
            "artifact_bytes": sum(f.stat().st_size for f in (folder / "artifact").iterdir()),
            "peak_rss_bytes": peak,
            "bound_bytes": bound,
            "within": peak <= bound,
            "seconds": round(seconds, 2),
            "seconds_by_stage": report["seconds"],
        },
    }


def _fingerprint(checkpoint: Path) -> str:
    """`Checkpoint.hash`, from a process of its own: it takes torch."""
    command = [sys.executable, "-c", FINGERPRINT, str(checkpoint)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def compile_apart(checkpoint: Path, scores: Path, out: Path, quant: str) -> tuple[int, float]:
    """Compile in a process of its own.

    Returns:
        Its largest resident set in bytes, and its wall clock in seconds.

    Raises:
        SystemExit: it failed; its output is on stderr.
    """
    command = [
        sys.executable, "-m", "zofx", "compile", str(checkpoint), "--method", "senszoq",
        "--quant", quant, "--sensitivity", str(scores), "-o", str(out),
    ]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    # Popen did not wait itself, so it gets the code here.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: `zofx compile` ended with code {process.returncode}")
    return usage.ru_maxrss * RSS_UNIT, seconds


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where the files go: a temporary folder, or a new one that stays."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="zofx-compile-memory-") as name:
        yield Path(name)


def _summary(result: dict[str, Any], spare: float) -> str:
    size = {key: f"{result[key] / 1e9:.3f} GB" for key in result if key.endswith("_bytes")}
    return (
        f"checkpoint {size['weights_bytes']}, scores {size['scores_bytes']}, artifact "
        f"{size['artifact_bytes']}, {result['seconds']:.0f} s\n"
        f"peak resident set {size['peak_rss_bytes']}, bound W/4 + {spare:g} GB = "
        f"{size['bound_bytes']}: {'within' if result['within'] else 'OVER'}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure the peak memory of `zofx compile` on a checkpoint of random weights."
    )
    add = parser.add_argument
    add("--gigabytes", type=float, default=4.2, metavar="W", help="of weights; about (4.2)")
    add("--spare", type=float, default=1.5, metavar="GB", help="allowed beyond W/4 (1.5)")
    add("--dtype", choices=sorted(WIDTHS), default="F16", help="they are stored in (F16)")
    add("--hidden", type=int, default=2048, metavar="N", help="a multiple of 128 (2048)")
    add("--vocabulary", type=int, default=32000, metavar="N", help="tokens (32000)")
    add("--quant", default="int4", metavar="FORMAT", help="of the frozen weights (int4)")
    add("--keep", type=Path, metavar="DIR", help="make the files in this new folder and keep them")
    add("-o", "--out", type=Path, metavar="RESULT.json", help="write the results here")
    return parser


if __name__ == "__main__":
    sys.exit(main())

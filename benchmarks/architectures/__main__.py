"""Which architectures compile, and are right: all of transformers, one process each.

    python -m architectures -o results/architectures.jsonl [--only PATTERN] [--columns mezo lora]

A line of the result is an architecture. A run that was stopped goes on with those that are not
there yet; two runs may share a file. Every process is a copy of one that has imported everything.
"""

import argparse
import fcntl
import json
import logging
import multiprocessing
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from architectures.judge import COLUMNS, Verdict, judge
from architectures.table import page, summary

SECONDS = 240.0


def main(words: Sequence[str] | None = None) -> int:
    """Judge what is not judged yet, then print the counts."""
    given = _parser().parse_args(words)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    out = Path(given.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in architectures(given.only):
        if _claim(out, name):
            _append(out, _in_a_process(name, given.columns, given.seconds))
    print(summary(read(out)))
    if given.page:
        about = (
            f"`python -m architectures --columns {' '.join(given.columns)}`, transformers "
            f"{transformers.__version__}, torch {torch.__version__}, {date.today():%Y-%m-%d}."
        )
        text = page(read(out), architectures(), about)
        Path(given.page).write_text(text, encoding="utf-8")
    return 0


def architectures(only: str = "") -> list[str]:
    """All names, "causal/llama", that a pattern is in."""
    names = [f"causal/{kind}" for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    names += [f"masked/{kind}" for kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES]
    return [name for name in names if re.search(only, name)]


def read(out: Path) -> list[dict[str, object]]:
    """The lines there are; a claim without a result is none."""
    lines = (
        [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        if out.is_file()
        else []
    )
    return [line for line in lines if "outcomes" in line]


def _claim(out: Path, name: str) -> bool:
    """Take an architecture that nobody has, or whose taker is gone."""
    with out.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        for line in map(json.loads, file.read().splitlines()):
            if line["architecture"] == name and ("outcomes" in line or _alive(line["process"])):
                return False
        file.write(json.dumps({"architecture": name, "process": os.getpid()}) + "\n")
    return True


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return process != os.getpid()


def _append(out: Path, verdict: Verdict) -> None:
    with out.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(verdict.to_json()) + "\n")
    print(
        verdict.architecture,
        verdict.made or verdict.outcomes,
        f"{verdict.seconds:.0f} s",
        flush=True,
    )


def _in_a_process(name: str, columns: list[str], seconds: float) -> Verdict:
    """A crash or a hang of one ends that one."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    start = time.perf_counter()
    with TemporaryDirectory(prefix="architecture-") as work:
        child = context.Process(target=_child, args=(theirs, name, columns, Path(work)))
        child.start()
        theirs.close()
        verdict = _received(ours, name, seconds)
        child.kill()
        child.join()
    verdict.seconds = round(time.perf_counter() - start, 1)
    return verdict


def _received(ours: Any, name: str, seconds: float) -> Verdict:
    if not ours.poll(seconds):
        return Verdict(name, outcomes={"mezo": f"crash: no end after {seconds:.0f} s"})
    try:
        verdict: Verdict = ours.recv()
    except EOFError:
        return Verdict(name, outcomes={"mezo": "crash: the process died"})
    return verdict


def _child(theirs: Any, name: str, columns: list[str], work: Path) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        if not os.environ.get("SHOW"):
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        theirs.send(judge(name, columns, work))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="architectures", description=__doc__)
    parser.add_argument("-o", "--out", default="results/architectures.jsonl")
    parser.add_argument("--only", default="", metavar="PATTERN", help="in `causal/llama`")
    parser.add_argument("--columns", nargs="+", default=["mezo"], choices=list(COLUMNS))
    parser.add_argument("--page", metavar="FILE", help="also write the results as a page")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one architecture")
    return parser


if __name__ == "__main__":
    sys.exit(main())

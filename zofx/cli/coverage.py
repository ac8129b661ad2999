"""zofx coverage: how much of a task's squared gradient an artifact's mask holds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import Progress, columns, say
from zofx.cli.options import Artifact, Json, add_command

if TYPE_CHECKING:
    from zofx.compiler.sensitivity.mask_coverage import Coverage, Share

ALL = "all"
HEADER = ("matrix", "gradient", "chosen", "covered", "best", "random")


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "coverage", coverage)


def coverage(
    artifact: Artifact,
    scores_file: Annotated[
        Path,
        typer.Option(
            "--sensitivity", metavar="FILE", help="Made by `zofx sensitivity MODEL --task NAME`."
        ),
    ],
    json_: Json = False,
) -> None:
    """Tell how much of a task's squared gradient lies in the part of a model that trains.

    SensZOQ chooses that part once, on a text, and trains it on every task. Scores of a task say
    what it gives up: a table has, for each matrix and for all,

        covered    the share of the squared gradient inside the mask
        best       the share inside the best mask of that many entries, made on the task itself
        random     the share that a random mask of that many is expected to hold

    and `gradient`, the matrix's part of the whole. Where covered is near best, the mask transfers;
    where it is near random, compile with these scores, or with a larger --fraction. Scores of
    another text are compared just so.

    Example:
        zofx sensitivity ./my-model --task trec -o trec.safetensors
        zofx coverage art --sensitivity trec.safetensors
    """
    from zofx.artifact.manifest import read_manifest
    from zofx.compiler.sensitivity.mask_coverage import coverage as measure
    from zofx.compiler.sensitivity.mask_coverage import read_mask
    from zofx.compiler.sensitivity.scores import load_scores

    scores = load_scores(scores_file)
    say(f"reading {artifact}, every file checked")
    manifest = read_manifest(artifact)
    scores.check_hash(f"the model of {artifact}", manifest.model["hash"])
    mask = read_mask(artifact, manifest)
    with Progress("coverage") as bar:
        result = measure(scores, mask, bar)
    if json_:
        about = {"artifact": str(artifact), "hash": manifest.hash, "measured_on": scores.about.text}
        print(json.dumps({**about, **_payload(result)}, indent=1, allow_nan=False))
    else:
        print(f"{artifact} on {scores.about.text}\n{_table(result)}")


def _payload(coverage: "Coverage") -> dict[str, Any]:
    total = coverage.whole.total
    rows = {name: _numbers(share, total) for name, share in coverage.matrices.items()}
    return {ALL: _numbers(coverage.whole, total), "matrices": rows}


def _numbers(share: "Share", total: float) -> dict[str, Any]:
    """The printed numbers of a share, with its part of the whole gradient."""
    return {
        "gradient": share.total / total if total else 0.0,
        "chosen": share.chosen,
        "weights": share.weights,
        "covered": share.covered,
        "best": share.best,
        "random": share.random,
    }


def _table(coverage: "Coverage") -> str:
    """A line per matrix, and one of all."""
    total = coverage.whole.total
    matrices = sorted(coverage.matrices.items(), key=lambda item: _order(item[0]))
    lines = [
        _line(name, _numbers(share, total)) for name, share in (*matrices, (ALL, coverage.whole))
    ]
    return columns([HEADER, *lines], "  ")


def _line(name: str, numbers: dict[str, Any]) -> tuple[str, ...]:
    chosen = f"{numbers['chosen']:,} of {numbers['weights']:,}"
    shares = (f"{numbers[key]:.2%}" for key in ("covered", "best"))
    return (name, f"{numbers['gradient']:.2%}", chosen, *shares, f"{numbers['random']:.3%}")


def _order(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part) if part.isdecimal() else -1, part) for part in name.split(".")]

"""zofx inspect · zofx diff: what is inside an artifact or a run."""

import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofx.cli.console import columns, size
from zofx.cli.options import Json, add_command
from zofx.errors import UsageError

if TYPE_CHECKING:
    from zofx.artifact.manifest import Manifest

STAGES = "stages"


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    add_command(app, "inspect", inspect)
    add_command(app, "diff", diff)


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact or a run.")],
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="PASS", help="Print the program as PASS left it."),
    ] = None,
    json_: Json = False,
) -> None:
    """Say what an artifact or a run is, or print a program.

    The stages that --after prints are there if the model was compiled with --save-stages; after
    the last pass the program is always there.

    Examples:
        zofx inspect art
        zofx inspect art --after split-sparse
        zofx inspect run --json
    """
    from zofx.runs.run_folder import RUN

    if (folder / RUN).is_file():
        if after is not None:
            raise UsageError(f"{folder} is a run; --after prints a program of an artifact")
        payload = _run(folder)
        print(json.dumps(payload, indent=1) if json_ else _run_text(payload))
        return
    from zofx.artifact.manifest import read_manifest

    manifest = read_manifest(folder, check=False)
    if after is not None:
        print(_stage(folder, manifest, after), end="")
        return
    payload = _artifact(folder, manifest)
    print(json.dumps(payload, indent=1) if json_ else _artifact_text(payload))


def diff(
    before: Annotated[
        Path, typer.Argument(metavar="A", help="An artifact, a printed stage, or a run.")
    ],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    json_: Json = False,
) -> None:
    """Show how two programs differ, as a unified diff; or how two runs do.

    Of runs: the settings that differ, the first step whose records do and what of them, the
    evaluations side by side, and how far θ of one is from θ of the other.

    Examples:
        zofx diff art-int4 art-nf4
        zofx diff art/stages/03-select-sensitive.txt art/stages/04-split-sparse.txt
        zofx diff runs/one runs/other --json
    """
    from zofx.runs.run_folder import RUN

    if (before / RUN).is_file() and (after / RUN).is_file():
        _print_runs(before, after, as_json=json_)
        return
    from zofx.artifact.layout import PROGRAM

    files = [path / PROGRAM if path.is_dir() else path for path in (before, after)]
    for file in files:
        if not file.is_file():
            raise UsageError(f"there is no printed program {file}; name an artifact or a stage")
    from difflib import unified_diff

    old, new = (file.read_text(encoding="utf-8").splitlines(keepends=True) for file in files)
    changed = "".join(unified_diff(old, new, str(files[0]), str(files[1]), n=2))
    print(changed or "the programs are the same\n", end="")


def _print_runs(before: Path, after: Path, *, as_json: bool) -> None:
    from zofx.cli.run_diff import fields_of, text_of
    from zofx.runs.comparison import compare
    from zofx.runs.run_folder import RunFolder

    compared = compare(RunFolder.open(before), RunFolder.open(after))
    if as_json:
        print(json.dumps(fields_of(compared), ensure_ascii=False))
    else:
        print(text_of(compared, str(before), str(after)))


def _stage(folder: Path, manifest: "Manifest", after: str) -> str:
    """The printed program after a pass."""
    from zofx.artifact.layout import PROGRAM
    from zofx.ir.pipeline_syntax import name_of, passes_of

    passes = [name_of(part) for part in passes_of(manifest.pipeline)]
    if after == passes[-1]:
        return (folder / PROGRAM).read_text(encoding="utf-8")
    if after not in (*passes, "capture"):
        raise UsageError(f"--after {after}: this artifact's passes are {', '.join(passes)}")
    files = sorted((folder / STAGES).glob(f"*-{after}.txt"))
    if not files:
        raise UsageError(
            f"{folder} keeps no program after {after}: compile it again with --save-stages"
        )
    return files[0].read_text(encoding="utf-8")


def _artifact(folder: Path, manifest: "Manifest") -> dict[str, Any]:
    tensors: Counter[str] = Counter()
    for row in manifest.tensors:
        tensors[f"{row.role} {row.form or row.dtype.lower()}"] += prod(row.shape)
    return {
        "artifact": str(folder),
        "hash": manifest.hash,
        "method": manifest.method,
        "pipeline": manifest.pipeline,
        "model": {key: manifest.model[key] for key in ("source", "architecture", "max_positions")},
        "noise": manifest.noise.to_dict(),
        "defaults": dict(manifest.recipe),
        "trainables": {name: list(shape) for name, shape in manifest.trainables.items()},
        "trained_weights": sum(prod(shape) for shape in manifest.trainables.values()),
        "elements": dict(tensors),
        "bytes": {name: (folder / name).stat().st_size for name in manifest.files},
        "report": dict(manifest.report),
    }


def _artifact_text(payload: dict[str, Any]) -> str:
    remarks = payload["report"].get("remarks", {})
    skipped = [
        f"{name}: {' '.join(remark.split())}"
        for name, remarks_of_pass in remarks.items()
        for remark in remarks_of_pass
        if remark.startswith("skipped")
    ]
    rows: list[tuple[str, ...]] = [
        ("method", payload["method"]),
        ("pipeline", payload["pipeline"]),
        ("model", f"{payload['model']['source']} ({payload['model']['architecture']})"),
        ("positions", str(payload["model"]["max_positions"])),
        ("noise", payload["noise"]["kind"]),
        (
            "trains",
            f"{payload['trained_weights']:,} weights in {len(payload['trainables'])} trainables",
        ),
        ("defaults", ", ".join(f"{key}={value}" for key, value in payload["defaults"].items())),
        ("hash", payload["hash"]),
    ]
    elements = [(kind, f"{count:,}") for kind, count in sorted(payload["elements"].items())]
    files = [(name, size(count)) for name, count in payload["bytes"].items()]
    return "\n".join(
        [
            payload["artifact"],
            columns(rows, "  "),
            "elements",
            columns(elements, "  "),
            "files",
            columns(files, "  "),
            *(["skipped", *(f"  {line}" for line in skipped)] if skipped else []),
        ]
    )


def _run(folder: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from zofx.runs.run_folder import RunFolder

    run = RunFolder.open(folder)
    journal = run.journal()
    losses = [float(record.losses.mean()) for record in journal]
    tail = losses[-(len(losses) // 10 or 1) :]
    return {
        "run": str(folder),
        **asdict(run.config),
        "steps_made": journal.next_step,
        "torn_bytes": journal.torn,
        "first_loss": losses[0] if losses else None,
        "recent_loss": sum(tail) / len(tail) if tail else None,
        "evaluations": [
            {"step": step, **evaluation.to_dict()} for step, evaluation in run.evaluations().items()
        ],
        "best_step": run.best(),
    }


def _run_text(payload: dict[str, Any]) -> str:
    from zofx.runs.evaluation import Evaluation

    settings = ", ".join(f"{key}={value}" for key, value in payload["settings"].items())
    rows: list[tuple[str, ...]] = [
        ("task", f"{payload['task']['name']} (seed {payload['task']['seed']})"),
        ("artifact", f"{payload['folder']} ({payload['artifact'][:12]})"),
        ("settings", settings),
        ("objective", payload["objective"]),
        ("runtime", f"{payload['engine']['runtime']} on {payload['engine']['device']}"),
        ("steps", f"{payload['steps_made']} of {payload['settings']['steps']}"),
    ]
    if payload["first_loss"] is not None:
        rows.append(
            ("loss", f"{payload['first_loss']:.4f} first, {payload['recent_loss']:.4f} recently")
        )
    lines = [payload["run"], columns(rows, "  ")]
    for row in payload["evaluations"]:
        mark = "  (best)" if row["step"] == payload["best_step"] else ""
        lines.append(f"  step {row['step']:>6}  dev {Evaluation.from_dict(row)}{mark}")
    return "\n".join(lines)

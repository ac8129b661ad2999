"""zofx export, zofx merge: what other tools load, and an artifact that begins where a run ended."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from zofx.cli.completion import names_of
from zofx.cli.console import Progress, say
from zofx.cli.options import Artifact, Json, add_command, step_of
from zofx.errors import UsageError

Step = Annotated[str, typer.Option("--step", metavar="best|last|N", help="Which θ of the run.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    add_command(app, "export", export)
    add_command(app, "merge", merge)


def export(  # noqa: PLR0913  a verb has many options
    artifact: Artifact,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="The folder to make.")],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Write this run's trainables.")
    ] = None,
    step: Step = "best",
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="hf: a merged checkpoint; gguf: for llama.cpp; peft: a LoRA adapter; "
            "onnx-adapter: for graph.onnx.",
            autocompletion=names_of("export"),
        ),
    ] = "hf",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", help="hf, gguf: float32, bfloat16 or float16; gguf: also q8_0, q4_0."
        ),
    ] = "float32",
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="peft: the model that the adapter names; the one compiled, if absent.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", metavar="R", help="peft: approximate what is no LoRA by one of this rank."
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push", metavar="OWNER/NAME", help="Upload OUT to the hub; new ones are private."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Write an artifact, or a run of it, as other tools load it, with a model card.

    hf: the trainables are added into the weights they were cut from, and what was quantized is
    written as what it stands for. The exported model answers as the artifact does, to rounding;
    where the artifact multiplies activations of 8 bits (`senszoq` does), the export multiplies
    floats, and answers whose candidates are close may differ.

    gguf: the same as a file for llama.cpp. It is read back before it is published: a model that
    transformers would read in another way is refused with what differs.

    peft: LoRA that was trained as such is written exactly, without torch. It belongs on the model
    that it was trained beside: where that is stored in 8 or 4 bits, on `zofx export DIR --to hf`.
    Other methods change matrices by no low rank: --rank R writes the nearest LoRA and states its
    error, or they are refused with the reason.

    onnx-adapter: the trainables as a file that ONNX Runtime loads beside the artifact's graph.onnx.

    Examples:
        zofx export art --run run --to hf -o tuned
        python -c "from transformers import pipeline; pipeline('text-generation', 'tuned')"
        zofx export lora-art --run run --to peft --base ./model -o adapter
    """
    from zofx.api.export import ExportOptions, require_format
    from zofx.api.export import export as export_
    from zofx.files.atomic import require_free
    from zofx.runs.export.hub import require_repository, upload
    from zofx.runs.export.subject import Subject
    from zofx.runs.run_folder import RunFolder

    options = ExportOptions(dtype, base, rank)
    require_format(to, options)
    if push is not None:
        require_repository(push)
    require_free(out)
    subject = Subject.of(artifact, None if run is None else RunFolder.open(run), step_of(step))
    if to in ("hf", "gguf"):
        say("loading torch and transformers")
    with Progress("export") as bar:
        note = export_(subject, to, out, options, progress=bar)
    address = None if push is None else upload(out, push, f"{subject}, as {to}")
    if json_:
        about = {"out": str(out), "to": to, **subject.to_dict(), "note": note, "pushed": address}
        print(json.dumps(about, ensure_ascii=False))
    else:
        print(f"{out}: {subject}, as {to}" + (f"\nnote: {note}" if note else ""))
        if address is not None:
            print(f"pushed: {address}")


def merge(
    artifact: Artifact,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="The folder to make.")],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Whose trainables it gets.")
    ] = None,
    step: Step = "best",
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", metavar="DIR", help="A LoRA of PEFT's, instead of a run."),
    ] = None,
    json_: Json = False,
) -> None:
    """Write an artifact that begins where a run of another one ended, or with a LoRA of PEFT's.

    Graphs and frozen weights are the same; what trains starts from the run's values. It needs the
    run no longer, evaluates as the run did, and trains on: another task, other settings. Where
    another method or format is to follow, export --to hf and compile that instead.

    --adapter takes the values from a folder that PEFT wrote: every matrix that the artifact trains
    has to be in it, at the same rank, and nothing else.

    Directions follow from --seed, step and name: give the next run another seed than the first
    one's, or it goes along the same directions again.

    Examples:
        zofx merge art --run run -o art2
        zofx tune art2 --task other.jsonl --seed 1
        zofx merge lora-art --adapter ./peft-lora -o lora-art2
    """
    from zofx.files.atomic import require_free
    from zofx.runs.export.merged_artifact import merge as merge_
    from zofx.runs.export.subject import Subject
    from zofx.runs.run_folder import RunFolder

    require_free(out)
    if (run is None) == (adapter is None):
        raise UsageError("merging takes a run or an adapter: give --run or --adapter")
    if adapter is not None:
        from zofx.runs.export.peft_start import start_of

        subject = replace(Subject.of(artifact), theta=start_of(artifact, adapter))
        manifest = merge_(
            subject, out, {"artifact": subject.manifest.hash, "adapter": str(adapter)}
        )
        said = f"the values of {adapter}"
    else:
        assert run is not None
        subject = Subject.of(artifact, RunFolder.open(run), step_of(step))
        manifest, said = merge_(subject, out), str(subject)
    if json_:
        about = {"out": str(out), **subject.to_dict(), "hash": manifest.hash}
        print(json.dumps(about, ensure_ascii=False))
    else:
        print(f"{out}: {artifact} at {said}, artifact {manifest.hash[:12]}")

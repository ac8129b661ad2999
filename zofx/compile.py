"""The verb: checkpoint ─capture─▶ Program ─passes─▶ Program ─write─▶ artifact.

Everything between reading and writing is lazy: no pass holds more than one weight, and the writer
makes one tensor at a time.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import torch

from zofx import artifact
from zofx.adapters import adapter_for
from zofx.artifact import Manifest, TensorRow
from zofx.assembly import Options, pipeline_for
from zofx.checkpoint import Checkpoint
from zofx.cutting import split
from zofx.directions import noise_of
from zofx.frontend import captured
from zofx.graphfile import dump_graph
from zofx.methods import Method
from zofx.pipeline import After, Pass, Remark
from zofx.printer import show
from zofx.program import MOVING, STILL, Lazy, Program, Role
from zofx.runtimes.onnx_export import to_onnx
from zofx.runtimes.onnx_noise import build_noise_model
from zofx.shards import DTYPES
from zofx.tensorfile import TensorFile
from zofx.zo.laws import Noise

Progress: TypeAlias = Callable[[str, int, int], None]  # (what, done, of how many)

SPELLED = {dtype: text for text, dtype in DTYPES.items()}


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass
class Report:
    """What the compiler said, collected through the pipeline's callback."""

    seconds: dict[str, float] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)

    def after(self, also: After) -> After:
        """The callback, chained with another one."""

        def record(
            item: Pass, before: Program, now: Program, remarks: tuple[Remark, ...], seconds: float
        ) -> None:
            self.seconds[item.name] = round(seconds, 3)
            self.remarks[item.name] = [str(remark) for remark in remarks]
            also(item, before, now, remarks, seconds)

        return record


def compile_model(
    checkpoint: Checkpoint,
    method: Method,
    out: Path,
    *,
    scores: Mapping[str, Lazy] | None = None,
    options: Options | None = None,
    after: After = lambda *_: None,
    progress: Progress = no_progress,
) -> Manifest:
    """Compile a checkpoint into an artifact folder.

    Args:
        checkpoint: what to compile.
        method: the pipeline and the defaults of a run.
        out: the folder to make; it appears only when everything went well.
        scores: sensitivity by weight, where the pipeline asks for it.
        options: changes to the method's pipeline.
        after: called after every pass.
        progress: called as work is done.

    Raises:
        ZofxError: see the passes; nothing is left behind.
    """
    options = options or Options()
    pipeline = pipeline_for(method, options)
    report = Report()
    with artifact.new_folder(out, replace=options.force) as folder:
        start = time.perf_counter()
        progress("capture", 0, 1)
        program = captured(checkpoint, options).with_(scores=scores or {})
        report.seconds["capture"] = round(time.perf_counter() - start, 3)
        progress("passes", 0, len(pipeline.passes))
        program = pipeline.run(program, report.after(after))
        start = time.perf_counter()
        files = write_program(program, folder, progress)
        (folder / artifact.TOKENIZER).write_text(checkpoint.tokenizer.to_str())
        report.seconds["write"] = round(time.perf_counter() - start, 3)
        manifest = Manifest(
            method=method.name,
            pipeline=", ".join(program.history),
            recipe=asdict(method.settings),
            model=_model_description(checkpoint, options),
            config=checkpoint.config.to_dict(),
            noise=noise_of(program),
            tensors=_rows(program),
            files={
                name: artifact.file_digest(folder / name) for name in (*files, artifact.TOKENIZER)
            },
            report={"seconds": report.seconds, "remarks": report.remarks},
        )
        (folder / artifact.MANIFEST).write_text(manifest.to_json())
    return manifest


def write_program(program: Program, folder: Path, progress: Progress = no_progress) -> list[str]:
    """Write a compiled program's tensors and graphs; returns the names of the files."""
    weights = tensor_file(program, folder / artifact.WEIGHTS, *STILL)
    slices = tensor_file(program, folder / artifact.SLICES, *MOVING)
    for done, spec in enumerate(program.tensors.values()):
        progress("weights", done, len(program.tensors))
        target = slices if spec.role in MOVING else weights
        target.write(spec.name, tensor_bytes(program, spec.name))
    progress("graphs", 0, 2)
    (folder / artifact.PROGRAM).write_text(show(program))
    below, above = split(program)
    written = [artifact.WEIGHTS, artifact.SLICES, artifact.PROGRAM]
    for part, graph, model, result in (
        (above, artifact.GRAPH, artifact.ONNX, "logprob"),
        (below, artifact.BELOW_GRAPH, artifact.BELOW_ONNX, artifact.HIDDEN),
    ):
        if part is not None:
            (folder / graph).write_text(dump_graph(part.graph))
            onnx.save(to_onnx(part, weights.span, artifact.WEIGHTS, result), folder / model)
            written += [graph, model]
    progress("graphs", 1, 2)
    noise = noise_of(program)
    if not any(law.mask or law.turn for law in noise.laws.values()):
        onnx.save(_noise_model(program, noise, weights), folder / artifact.NOISE)
        written.append(artifact.NOISE)
    return written


def tensor_bytes(program: Program, name: str) -> memoryview:
    """A tensor as it is stored; numpy has no bfloat16, so never an array of its own type."""
    return program.load(name).contiguous().flatten().view(torch.uint8).numpy().data


def tensor_file(program: Program, path: Path, *roles: Role) -> TensorFile:
    """A new file with room for the tensors of these roles, none written yet."""
    return TensorFile(
        path,
        {
            spec.name: (SPELLED[spec.dtype], spec.shape, spec.dtype.itemsize)
            for spec in program.tensors.values()
            if spec.role in roles
        },
    )


def _noise_model(program: Program, noise: Noise, weights: TensorFile) -> onnx.ModelProto:
    table = next((name for name in program.tensors if name.startswith("noise.")), None)
    place = (artifact.WEIGHTS, *weights.span(table)) if table else None
    slices = {spec.name: spec.shape for spec in program.slices}
    return build_noise_model(slices, noise.kind, table_file=place)


def _rows(program: Program) -> tuple[TensorRow, ...]:
    return tuple(
        TensorRow(s.name, str(s.role), s.shape, SPELLED[s.dtype], s.origin, s.form, s.origin_shape)
        for s in program.tensors.values()
    )


def _model_description(checkpoint: Checkpoint, options: Options) -> dict[str, Any]:
    """What the manifest says of the model; an adapter takes some of its positions."""
    before = adapter_for(options.adapter).tokens if options.adapter else 0
    positions = checkpoint.max_positions
    return checkpoint.description | {"max_positions": positions and positions - before}

"""Write a program as the files of an artifact, tensor by tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import onnx
import torch

from zofx.artifact import layout
from zofx.artifact.manifest import TensorRow
from zofx.artifact.safetensors_writer import TensorFile
from zofx.ir.directions import noise_of
from zofx.ir.graph_json import dump_graph
from zofx.ir.partition import split
from zofx.ir.printer import show
from zofx.ir.program import Program, results_of
from zofx.ir.residuals import partition
from zofx.ir.schema import FROZEN_ROLES, HIDDEN, RESIDUAL, UPDATED_ROLES, Role
from zofx.models.safetensors_folder import DTYPES
from zofx.runtimes.onnx_export.export import to_onnx
from zofx.runtimes.onnx_export.noise_model import build_noise_model
from zofx.zo.random.direction_spec import Noise

Progress: TypeAlias = Callable[[str, int, int], None]  # (what, done, of how many)

SPELLED = {dtype: text for text, dtype in DTYPES.items()}


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


def write_program(
    program: Program,
    folder: Path,
    progress: Progress = no_progress,
    joint: Program | None = None,
) -> list[str]:
    """Write a compiled program's tensors and graphs; returns the names of the files.

    Args:
        program: what is evaluated.
        folder: where to.
        progress: told of every tensor.
        joint: scores and gradients (`reverse-mode`), of the same tensors.
    """
    weights = tensor_file(program, folder / layout.WEIGHTS, *FROZEN_ROLES)
    trainables = tensor_file(program, folder / layout.TRAINABLES, *UPDATED_ROLES)
    for done, spec in enumerate(program.tensors.values()):
        progress("weights", done, len(program.tensors))
        target = trainables if spec.role in UPDATED_ROLES else weights
        target.write(spec.name, tensor_bytes(program, spec.name))
    progress("graphs", 0, 2)
    (folder / layout.PROGRAM).write_text(show(program))
    below, above = split(program)
    written = [layout.WEIGHTS, layout.TRAINABLES, layout.PROGRAM]
    for part, graph, model, result in (
        (above, layout.GRAPH, layout.ONNX, "logprob"),
        (below, layout.PREFIX_GRAPH, layout.PREFIX_ONNX, HIDDEN),
    ):
        if part is not None:
            (folder / graph).write_text(dump_graph(part.graph))
            onnx.save(to_onnx(part, weights.span, layout.WEIGHTS, (result,)), folder / model)
            written += [graph, model]
    if joint is not None:
        written += _write_joint(joint, folder, weights)
    progress("graphs", 1, 2)
    noise = noise_of(program)
    if program.trainables and not any(s.mask or s.turn for s in noise.specs.values()):
        onnx.save(_noise_model(program, noise, weights), folder / layout.NOISE)
        written.append(layout.NOISE)
    return written


def _write_joint(joint: Program, folder: Path, weights: TensorFile) -> list[str]:
    """The forward graph with residuals, and the backward graph."""
    _, above = split(joint)
    forward, backward = partition(above)
    kept = len(results_of(forward.graph)) - 1
    residuals = [f"{RESIDUAL}.{number}" for number in range(kept)]
    exact = [s.name for s in joint.tensors.values() if s.role is Role.EXACT]
    for part, graph, model, results in (
        (forward, layout.FORWARD_GRAPH, layout.FORWARD_ONNX, ["logprob", *residuals]),
        (backward, layout.BACKWARD_GRAPH, layout.BACKWARD_ONNX, [f"{n}.gradient" for n in exact]),
    ):
        (folder / graph).write_text(dump_graph(part.graph))
        onnx.save(to_onnx(part, weights.span, layout.WEIGHTS, results), folder / model)
    return [
        layout.FORWARD_GRAPH, layout.FORWARD_ONNX, layout.BACKWARD_GRAPH, layout.BACKWARD_ONNX,
    ]  # fmt: skip


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
    place = (layout.WEIGHTS, *weights.span(table)) if table else None
    trainables = {spec.name: spec.shape for spec in program.trainables}
    return build_noise_model(trainables, noise.kind, table_file=place)


def _rows(program: Program) -> tuple[TensorRow, ...]:
    return tuple(
        TensorRow(s.name, str(s.role), s.shape, SPELLED[s.dtype], s.origin, s.form, s.origin_shape)
        for s in program.tensors.values()
    )

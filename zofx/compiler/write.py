"""Write a program as the files of an artifact, tensor by tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import onnx
import torch

from zofx.artifact import layout
from zofx.artifact.manifest import TensorRow
from zofx.artifact.safetensors_writer import TensorFile
from zofx.errors import UnsupportedError
from zofx.ir.directions import noise_of
from zofx.ir.graph_json import dump_graph, op_types
from zofx.ir.partition import split
from zofx.ir.printer import show
from zofx.ir.program import Program, results_of
from zofx.ir.residuals import partition
from zofx.ir.schema import FROZEN_ROLES, HIDDEN, RESIDUAL, UPDATED_ROLES, Role
from zofx.models.safetensors_folder import DTYPES
from zofx.runtimes.onnx_check import NOISE_OPS, OPS
from zofx.runtimes.onnx_export.export import onnx_op_types, to_onnx
from zofx.runtimes.onnx_export.noise_model import build_noise_model
from zofx.zo.random.direction_spec import Noise

Progress: TypeAlias = Callable[[str, int, int], None]  # (what, done, of how many)

SPELLED = {dtype: text for text, dtype in DTYPES.items()}


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Written:
    """The files of a program.

    Attributes:
        files: their names.
        ops: those that hold a graph → the ops it calls.
    """

    files: tuple[str, ...]
    ops: Mapping[str, tuple[str, ...]]


def write_program(
    program: Program,
    folder: Path,
    progress: Progress = no_progress,
    joint: Program | None = None,
) -> Written:
    """Write a compiled program's tensors and graphs.

    Args:
        program: what is evaluated.
        folder: where to.
        progress: called after every tensor.
        joint: scores and gradients (`reverse-mode`), of the same tensors.
    """
    weights = tensor_file(program, folder / layout.WEIGHTS, *FROZEN_ROLES)
    trainables = tensor_file(program, folder / layout.TRAINABLES, *UPDATED_ROLES)
    for done, spec in enumerate(program.tensors.values()):
        progress("weights", done, len(program.tensors))
        target = trainables if spec.role in UPDATED_ROLES else weights
        target.write(spec.name, tensor_bytes(program, spec.name))
    progress("graphs", 0, 2)
    (folder / layout.PROGRAM).write_text(show(program), encoding="utf-8")
    prefix, remainder = split(program)
    ops: dict[str, tuple[str, ...]] = {}
    for part, graph, model, result in (
        (remainder, layout.GRAPH, layout.ONNX, "logprob"),
        (prefix, layout.PREFIX_GRAPH, layout.PREFIX_ONNX, HIDDEN),
    ):
        if part is not None:
            (folder / graph).write_text(dump_graph(part.graph), encoding="utf-8")
            ops[graph] = op_types(part.graph)
            exported = to_onnx(part, weights.span, layout.WEIGHTS, (result,))
            ops[model] = _save(exported, folder / model)
    if joint is not None:
        ops |= _write_joint(joint, folder, weights)
    progress("graphs", 1, 2)
    noise = noise_of(program)
    if program.trainables and not any(s.mask or s.turn for s in noise.specs.values()):
        ops[layout.NOISE] = _save(_noise_model(program, noise, weights), folder / layout.NOISE)
    return Written((layout.WEIGHTS, layout.TRAINABLES, layout.PROGRAM, *ops), ops)


def _save(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    ops = onnx_op_types(model)
    if unknown := set(ops) - (NOISE_OPS if path.name == layout.NOISE else OPS):
        raise UnsupportedError(
            "this program cannot be stored",
            [
                f"{path.name} may not call {name}: list it in runtimes/onnx_check.py"
                for name in unknown
            ],
        )
    onnx.save(model, path)
    return ops


def _write_joint(joint: Program, folder: Path, weights: TensorFile) -> dict[str, tuple[str, ...]]:
    """Forward graph with residuals, and backward graph: their files, and the ops of each."""
    _, remainder = split(joint)
    forward, backward = partition(remainder)
    kept = len(results_of(forward.graph)) - 1
    residuals = [f"{RESIDUAL}.{number}" for number in range(kept)]
    exact = [s.name for s in joint.tensors.values() if s.role is Role.EXACT]
    ops: dict[str, tuple[str, ...]] = {}
    for part, graph, model, results in (
        (forward, layout.FORWARD_GRAPH, layout.FORWARD_ONNX, ["logprob", *residuals]),
        (backward, layout.BACKWARD_GRAPH, layout.BACKWARD_ONNX, [f"{n}.gradient" for n in exact]),
    ):
        (folder / graph).write_text(dump_graph(part.graph), encoding="utf-8")
        ops[graph] = op_types(part.graph)
        ops[model] = _save(to_onnx(part, weights.span, layout.WEIGHTS, results), folder / model)
    return ops


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
        TensorRow(
            s.name, str(s.role), s.shape, SPELLED[s.dtype], s.origin, str(s.form), s.origin_shape
        )
        for s in program.tensors.values()
    )

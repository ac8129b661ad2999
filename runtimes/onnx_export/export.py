"""Program → graph.onnx: the same computation for a stock ONNX Runtime, weights by reference.

    directions ─▶ inputs `TRAINABLE.z`     noise.onnx (or the host) makes them
    op         ─▶ ONNX function        ours (`onnx_lowerings`) or torch.onnx's, one by one
    ops        ─▶ one op               where ONNX has it (`onnx_fusions`)
    weights    ─▶ initializers         that point into weights.safetensors by offset
    tables     ─▶ inputs               with a default that does

The model holds no weights. An input with a default is no constant to ONNX Runtime: a run may bring
another, and no packed copy is made of it, as of constants that are multiplied.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir
import torch
import torch.utils._pytree as pytree  # noqa: TID251
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    InlinePass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnx_ir.tape import Tape
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.onnx._internal.exporter._core import (  # noqa: TID251  the fence of its exporter
    _exported_program_to_onnx_program,
)
from torch.onnx._internal.exporter._decomp import (  # noqa: TID251
    get_onnx_implemented_overloads,
)
from torch.onnx._internal.exporter._fx_passes import (  # noqa: TID251
    decompose_with_registry,
    insert_type_promotion_nodes,
)
from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: TID251

from zofx import __version__
from zofx.ir.directions import directions_of, draw_of
from zofx.ir.facts import PARTED
from zofx.ir.ops import zofx_ops
from zofx.ir.program import Program, TensorSpec, placeholders, results_of, shape_of
from zofx.ir.rewrite import Editor
from zofx.ir.schema import FROZEN_ROLES, KEYS, VOCABULARY, Role
from zofx.ir.sparse_cost import as_block
from zofx.ir.symbols import OpOverload
from zofx.runtimes.onnx_export import transposes
from zofx.runtimes.onnx_export.contrib_ops import ms
from zofx.runtimes.onnx_export.fusions import fuse, share
from zofx.runtimes.onnx_export.guards import guard_attention, name_outputs
from zofx.runtimes.onnx_export.lowerings import TRANSLATIONS

OPSET = 23  # the first with Attention


def to_onnx(
    program: Program,
    place: Callable[[str], tuple[int, int]],
    weights: str,
    results: Sequence[str] = ("logprob",),
) -> onnx.ModelProto:
    """Lower a compiled program.

    Args:
        program: perturbed and stacked.
        place: offset and length in bytes of a frozen tensor in the weights file.
        weights: name of that file, next to the model's.
        results: names of the outputs.

    Returns:
        A model whose inputs are the batch, the probe matrix `coefficients` f32[P, Q], and per
        trainable θ (`NAME.slice`) and its directions (`NAME.slice.z`), and the state
        beside them; output `logprob` f32[P, N, C]. A frozen prefix has the tokens as inputs
        and `hidden` f32[N, T, H] as output.
    """
    fed = feed_directions(program)
    model = translate(exported_program(fed))
    fuse(model)
    if PARTED.name in program.facts:
        guard_attention(model)
    share(model)
    name_outputs(model)
    names = [str(node.target) for node in placeholders(fed.graph)]
    for name, value in zip(names, list(model.graph.inputs), strict=True):
        value.name = name
    _name_outputs(model, results)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # where it came from; ONNX Runtime holds that as it does codes
    frozen = {s.name: s for s in program.tensors.values() if s.role in FROZEN_ROLES}
    scattered = {*_scattered(fed.graph), *transposes.unpacked_codes(fed.graph)}
    for value in list(model.graph.inputs):
        if value.name in frozen:
            spec = frozen[str(value.name)]
            if spec.role is Role.FROZEN and spec.dtype == torch.int64:
                # Shapes may depend on it, and what infers them opens no file.
                value.const_value = ir.tensor(program.load(spec.name).numpy(), name=spec.name)
            else:
                _refer(value, spec, weights, *place(spec.name))
            if spec.role not in VOCABULARY and spec.name not in scattered:
                model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
    model.opset_imports.update({"": OPSET, ms.domain: ms.version})
    # Of torch it is only made: the same program is the same bytes under any version of it.
    model.producer_name, model.producer_version = "zofx", __version__
    return ir.to_proto(model)


def _name_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """A value has one name: one that is an output twice, or an input too, is copied."""
    outputs = model.graph.outputs
    for place, (value, name) in enumerate(zip(list(outputs), names, strict=True)):
        if value.producer() is None or value in list(outputs)[:place]:
            tape = Tape()
            copy = tape.op("Identity", [value])
            copy.type, copy.shape = value.type, value.shape
            model.graph.extend(tape.nodes)
            outputs[place] = value = copy
        value.name = name


def onnx_op_types(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the ops a model calls, in order, each once: "Add", "com.microsoft.MatMulNBits"."""
    names = set()
    for node in ir.from_proto(model).graph.all_nodes():
        names.add(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
    return tuple(sorted(names))


def _scattered(graph: fx.Graph) -> Iterator[str]:
    """Indices of entries that are multiplied one by one, of which no bits are unpacked."""
    for node in graph.find_nodes(op="call_function", target=zofx_ops.sparse_linear.default):
        x, _, index, out, columns, deepest = node.args
        if not as_block(shape_of(index)[0], columns, deepest, out, shape_of(x)[-1]):
            yield str(index.target)


def _refer(value: ir.Value, spec: TensorSpec, weights: str, offset: int, length: int) -> None:
    """Make an input an initializer whose bytes are elsewhere."""
    assert value.dtype is not None
    value.const_value = ir.ExternalTensor(
        weights, offset, length, value.dtype, shape=ir.Shape(spec.shape), name=spec.name
    )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without torch.onnx's warnings: no torchvision, no module names; a program needs neither."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@cache
def _registry() -> ONNXRegistry:
    """What every op becomes: torch.onnx's table, half a second to make, and ours over it."""
    registry = ONNXRegistry.from_torchlib(opset_version=OPSET)
    for target, function in {**TRANSLATIONS, **transposes.TRANSLATIONS}.items():
        registry.register_op(target, function)
    return registry


@_without_advice()
def translate(exported: ExportedProgram) -> ir.Model:
    """Op by op, through torch.onnx's own functions for aten and ours for zofx.

    `torch.onnx.export` would trace the program again to decompose it, which with P·N rows costs
    minutes of symbolic algebra. Almost always there is a function for every op already; where one
    is missing, the program is decomposed as torch.onnx does. These entry points are internals of
    torch, whose version is pinned.
    """
    registry = _registry()
    known = get_onnx_implemented_overloads(registry)
    calls = {n.target for n in exported.graph.nodes if n.op == "call_function"}
    if any(isinstance(target, OpOverload) and target not in known for target in calls):
        exported = decompose_with_registry(exported, registry)
    insert_type_promotion_nodes(exported.graph_module)
    model = _exported_program_to_onnx_program(
        exported, registry=registry, lower="at_conversion"
    ).model
    InlinePass()(model)  # torch.onnx has functions for some ops; not every engine has functions
    # By the version it is known which outputs are optional. ONNX Runtime keeps one that nobody
    # reads, such as the keys and values of Attention, to the end of a run.
    model.opset_imports[""] = OPSET
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    return model


def feed_directions(program: Program) -> Program:
    """Replace what depends on keys alone by an input per trainable, and drop the keys."""
    edit = Editor(program)
    for name, direction in dict(directions_of(edit.graph)).items():
        draw = draw_of(direction)
        value = draw.meta["val"]
        edit.replace(draw, edit.add_input(f"{name}.z", value.shape, value.dtype))
    fed = edit.done()
    for keys in [n for n in placeholders(fed.graph) if n.target == KEYS]:
        fed.graph.erase_node(keys)
    return fed


def exported_program(program: Program) -> ExportedProgram:
    """A program as torch.export's container, every tensor a user input."""
    graph = fx.Graph()
    result: Any = graph.graph_copy(program.graph, {})
    graph.output(result if isinstance(result, tuple) else (result,))
    inputs = list(placeholders(graph))
    for number, node in enumerate(inputs):
        node.target = node.name = f"input_{number}"
    returned = results_of(graph)
    signature = ExportGraphSignature(
        [InputSpec(InputKind.USER_INPUT, TensorArgument(n.name), None) for n in inputs],
        [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(n.name), None) for n in returned],
    )
    arguments = pytree.tree_structure((tuple(range(len(inputs))), {}))
    results = pytree.tree_structure(tuple(range(len(returned))))
    return ExportedProgram(
        root=fx.GraphModule(torch.nn.Module(), graph),
        graph=graph,
        graph_signature=signature,
        state_dict={},
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", ModuleCallSignature([], [], arguments, results))],
    )

"""Model → Program, by torch.export on fake tensors: no weight is read, or even allocated, to trace.

    input_ids[N, T], attention_mask[N, T], positions[N, S], targets[N, S, C]  →  logprob[N, C]

The model's logits are narrowed to the scored positions and scored there; everything else
(cross-entropy over candidates, accuracy, F1, a reward) is arithmetic on these numbers, so one graph
serves every objective. Works for any transformers architecture that torch.export takes; there is
no code here for a particular one.
"""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from zofx import ops
from zofx.errors import CaptureError
from zofx.program import INPUTS, Lazy, Program, Role, TensorSpec
from zofx.verify import verify

# Sizes of the example batch: distinct, so that no two axes are taken for the same one.
ROWS, TOKENS, SCORED, ALTERNATIVES = 3, 11, 2, 5
LIMIT = 2**20


class Scorer(nn.Module):
    """A language model that scores alternatives at chosen positions."""

    def __init__(self, model: nn.Module, causal: bool) -> None:
        super().__init__()
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        # Positions count tokens, not padding, as `generate` does; a masked LM finds its own.
        self.gives_positions = causal and "position_ids" in accepted
        self.options = {"use_cache": False} if "use_cache" in accepted else {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, targets: Tensor
    ) -> Tensor:
        """Log-probabilities f32[N, C]."""
        options: dict[str, Any] = dict(self.options)
        if self.gives_positions:
            options["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **options).logits
        scores: Tensor = ops.score_targets(ops.select_positions(logits, positions), targets)
        return scores


def capture(model: nn.Module, loaders: Mapping[str, Lazy], *, causal: bool) -> Program:
    """Trace a model into a program.

    Args:
        model: in eval mode; parameters may be on the meta device already, buffers hold their
            values. It is left with shapes only.
        loaders: a recipe for every parameter, by its name in the model.
        causal: whether it predicts the next token (else: the masked one).

    Raises:
        CaptureError: torch.export cannot trace the model.
    """
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    _make_fake(model, mode)
    exported = _export(Scorer(model, causal), mode)
    names = _input_names(exported, model)
    graph = _lift(exported, names)
    tensors: dict[str, TensorSpec] = {}
    data: dict[str, Lazy] = {}
    for node in graph.find_nodes(op="placeholder"):
        name = str(node.target)
        if name in INPUTS:
            continue
        value = node.meta["val"]
        form = "" if name in loaders else "computed"
        tensors[name] = TensorSpec(name, Role.FROZEN, tuple(value.shape), value.dtype, form=form)
        data[name] = _recipe(name, value.dtype, loaders, buffers, exported.constants)
    program = Program(graph, tensors, data)
    verify(program, "capture")
    return program


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Give every parameter and buffer a shape on the CPU and no memory; tied weights stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = _fake_like(tensor, mode)
                    table[name] = made[id(tensor)]  # type: ignore[assignment]


def _fake_like(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def _export(scorer: Scorer, mode: FakeTensorMode) -> ExportedProgram:
    def ids(*shape: int) -> Tensor:
        with mode:
            return torch.zeros(*shape, dtype=torch.long)

    n, t, s, c = (Dim(name, min=1, max=LIMIT) for name in "NTSC")
    examples = (
        ids(ROWS, TOKENS), ids(ROWS, TOKENS), ids(ROWS, SCORED), ids(ROWS, SCORED, ALTERNATIVES),
    )  # fmt: skip
    axes = ({0: n, 1: t}, {0: n, 1: t}, {0: n, 1: s}, {0: n, 1: s, 2: c})
    kind = type(scorer.model).__name__
    try:
        with torch.no_grad():
            exported = torch.export.export(scorer, examples, dynamic_shapes=axes, strict=False)
            if _needs_functionalization(exported):
                exported = _functionalized(exported)
    except (
        Exception
    ) as error:  # torch.export raises many kinds; all of them mean the same to the user
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CaptureError(
            f"torch.export cannot trace {kind}: {first}\n"
            "zofx compiles what torch.export takes with dynamic batch and sequence; "
            "check `torch.export.export(model, …, strict=False)` on its own, or take another model"
        ) from error
    return exported


def _needs_functionalization(exported: ExportedProgram) -> bool:
    return any(
        getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        for node in exported.graph.nodes
    )


def _functionalized(exported: ExportedProgram) -> ExportedProgram:
    with warnings.catch_warnings():  # torch warns of its own use of its own pytrees
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)
        functional: ExportedProgram = exported.run_decompositions({})
        return functional


def _input_names(exported: ExportedProgram, model: nn.Module) -> dict[str, str]:
    """Placeholder → name; a tied weight goes by the first of its names."""
    first = {id(tensor): name for name, tensor in reversed(list(model.named_parameters()))}
    by_name = dict(model.named_parameters(remove_duplicate=False))
    names = {}
    for spec in exported.graph_signature.input_specs:
        target = (spec.target or "").removeprefix("model.")
        if spec.kind is InputKind.PARAMETER:
            target = first[id(by_name[target])]
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            target = f"constant.{spec.target}"
        names[spec.arg.name] = target or spec.arg.name
    return names


def _lift(exported: ExportedProgram, names: Mapping[str, str]) -> fx.Graph:
    """The exported graph: placeholders renamed, unread weights dropped, only shapes kept."""
    graph = fx.Graph()
    moved: dict[fx.Node, fx.Node] = {}
    made: dict[str, fx.Node] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            name = names[node.name]
            if name not in made and (node.users or name in INPUTS):
                made[name] = graph.placeholder(name)
                made[name].meta["val"] = node.meta["val"]
            if name in made:
                moved[node] = made[name]
        elif node.op == "output":
            (result,) = node.args[0]
            graph.output(moved[result]).meta["val"] = result.meta["val"]
        elif node.op == "call_function":
            moved[node] = graph.node_copy(node, moved.__getitem__)
            moved[node].meta = {"val": node.meta.get("val")}
        else:
            raise CaptureError(
                f"the traced model holds a {node.op} node ({node.target}), which cannot be "
                "rewritten; "
                "control flow and nested modules inside forward are not supported"
            )
    return graph


def _recipe(
    name: str,
    dtype: torch.dtype,
    loaders: Mapping[str, Lazy],
    buffers: Mapping[str, Tensor],
    constants: Mapping[str, Any],
) -> Lazy:
    if name in loaders:
        return lambda: loaders[name]().to(dtype)
    if name in buffers:
        return lambda: buffers[name]
    key = name.removeprefix("constant.")
    if key in constants:
        return lambda: constants[key]
    raise CaptureError(
        f"no data for '{name}': the checkpoint has no such tensor and the model computes none"
    )

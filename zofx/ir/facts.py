"""Facts: invariants of a program with a name and a check. They guard the order of passes.

A pass names the facts that it requires, establishes, destroys and conflicts with; they may depend
on its options. A pipeline checks the order before running anything, and every fact that holds again
after each pass; so a pass that breaks what an earlier one achieved is caught where it happens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from zofx.ir.formats import format_of
from zofx.ir.formats.format import Format
from zofx.ir.ops import zofx_ops
from zofx.ir.program import Program, is_call, output_node, shape_of
from zofx.ir.schema import COEFFICIENTS, FROZEN_ROLES, KEYS, TOKENS, Form, Role
from zofx.ir.traits import Trait, has

aten = torch.ops.aten


@dataclass(frozen=True)
class Fact:
    """An invariant.

    Attributes:
        name: as printed.
        check: one sentence why it does not hold, or None.
        cure: what to do where no pass of a pipeline makes it so.
        undo: what to do where a pass makes it so, and it must not be.
    """

    name: str
    check: Callable[[Program], str | None]
    cure: str = "add a pass that makes it so"
    undo: str = field(default="", compare=False)

    def undone_by(self, what: str) -> "Fact":
        """The same fact, as a pass establishes it that knows how to do without."""
        return replace(self, undo=what)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Conflict:
    """A fact under which a pass cannot run.

    Attributes:
        fact: what must not hold.
        why: the reason, and what to do about the pass that conflicts.
    """

    fact: Fact
    why: str


def _first(nodes: list[fx.Node], what: str) -> str | None:
    return f"{what}: {nodes[0].format_node()}" if nodes else None


def _canonical(program: Program) -> str | None:
    stray = [
        n
        for n in program.graph.nodes
        if has(n, Trait.IDENTITY) or has(n, Trait.ASSERTION) or is_call(n, aten.addmm.default)
    ]
    return _first(stray, "not in canonical form")


def _narrowed(program: Program) -> str | None:
    (scores,) = output_node(program.graph).all_input_nodes
    while not is_call(scores, zofx_ops.score_targets.default):
        if not scores.all_input_nodes:
            return "the program scores nothing"
        scores = scores.all_input_nodes[0]
    logits, targets = scores.args[0], scores.args[1]
    if not (isinstance(logits, fx.Node) and isinstance(targets, fx.Node)):
        return "the scores have no logits"
    if is_call(logits, zofx_ops.select_positions.default) and is_call(
        logits.args[0], aten.linear.default
    ):
        return "the head runs at every position, scored or not"
    return None


def _selected(program: Program) -> str | None:
    chosen = any(choice.entries is not None for choice in program.choices.values())
    return None if chosen else "no coordinates are chosen"


def _chosen(program: Program) -> str | None:
    whole = {name for name, choice in program.choices.items() if choice.whole}
    gone = sorted(whole - program.tensors.keys())
    return f"{gone[0]} is chosen, and not there" if gone else None


def _sliced(program: Program) -> str | None:
    exact = any(spec.role is Role.EXACT for spec in program.tensors.values())
    return None if program.trainables or exact else "nothing would train: no tensor is trainable"


def _quantized(program: Program) -> str | None:
    """No weight is stored twice; what could not be quantized at all is whole, and remarked."""
    calls = [n for n in program.graph.nodes if has(n, Trait.QUANTIZED_PRODUCT)]
    codes = [program.tensors[str(n.args[1].target)] for n in calls]
    whole = [spec.origin for spec in codes if spec.origin in program.tensors]
    return f"{whole[0]} is there both quantized and whole" if whole else None


def _all_train(program: Program) -> str | None:
    """Tensors that a model computes, and integers, are no parameters."""
    rest = (
        spec.name
        for spec in program.tensors.values()
        if spec.role in FROZEN_ROLES
        and spec.form != Form.COMPUTED
        and spec.dtype.is_floating_point
        and not (program.choice(spec.name).fixed or program.choice(spec.name).whole)
    )
    name = next(rest, None)
    return f"{name} does not train" if name else None


def _refreshed(program: Program) -> str | None:
    return None if any(b.base for b in program.bases.values()) else "no matrix is refreshed"


def _exact(program: Program) -> str | None:
    roles = {spec.role for spec in program.tensors.values()}
    return None if Role.EXACT in roles else "no tensor trains by exact gradients"


def _formats(program: Program) -> list[Format]:
    """Those that products with frozen matrices are of."""
    return [stored for node in program.graph.nodes if (stored := format_of(node))]


def _block_scaled(program: Program) -> str | None:
    other = next((f for f in _formats(program) if f.dequantize_op is None), None)
    return f"a matrix is in {other.name}, whose scales cannot train" if other else None


def _row_scaled(program: Program) -> str | None:
    other = next((f for f in _formats(program) if not f.integers), None)
    return f"a matrix is in {other.name}, whose products are of floats" if other else None


def _rounded(program: Program) -> str | None:
    rounded = program.graph.find_nodes(op="call_function", target=zofx_ops.linear_rounded.default)
    return None if rounded else "no product is of integers"


def _perturbed(program: Program) -> str | None:
    if KEYS not in program.inputs or COEFFICIENTS not in program.inputs:
        return f"the program takes no {KEYS} and {COEFFICIENTS}"
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.target in {s.name for s in program.trainables}:
            known = (zofx_ops.perturb.default, zofx_ops.mask_small.default)
            raw = [user for user in node.users if not is_call(user, *known)]
            if raw:
                return f"{node.target} is read without its perturbation: {raw[0].format_node()}"
    return None


def _stacked(program: Program) -> str | None:
    (result,) = output_node(program.graph).all_input_nodes
    if not is_call(result, zofx_ops.split_probes.default):
        return "the result has no axis of probes"
    return None if len(shape_of(result)) == 3 else "the result is not [P, N, C]"


def _parted(program: Program) -> str | None:
    (result,) = output_node(program.graph).all_input_nodes
    whole = result.args[0] if is_call(result, zofx_ops.split_probes.default) else None
    return None if is_call(whole, aten.cat.default) else "the result is not put together of parts"


def _cut(program: Program) -> str | None:
    cuts = program.graph.find_nodes(op="call_function", target=zofx_ops.cut.default)
    if len(cuts) != 1:
        return f"there are {len(cuts)} cuts"
    prefix, rest = set[fx.Node](), list(cuts)
    while rest:
        prefix.add(node := rest.pop())
        rest += [a for a in node.all_input_nodes if a not in prefix]
    still = {name for name, s in program.tensors.items() if s.role in FROZEN_ROLES}
    moving = [n for n in prefix if n.op == "placeholder" and n.target not in (*TOKENS, *still)]
    return _first(moving, "the frozen prefix reads a tensor that moves")


def _forward_mode(program: Program) -> str | None:
    (result,) = output_node(program.graph).all_input_nodes
    if len(shape_of(result)) != 3:
        return "the result is not [1 + P, N, C]"
    perturbed = program.graph.find_nodes(op="call_function", target=zofx_ops.perturb.default)
    return _first(list(perturbed), "a trainable is read through a perturbation")


CANONICAL = Fact("canonical", _canonical)
NARROWED = Fact("narrowed", _narrowed)
COORDINATES_SELECTED = Fact("selected", _selected)
TENSORS_SELECTED = Fact("chosen", _chosen)
HAS_TRAINABLES = Fact("sliced", _sliced)
ALL_TRAIN = Fact("all-train", _all_train)
REFRESHED = Fact("refreshed", _refreshed)
EXACT = Fact("exact", _exact)
QUANTIZED = Fact("quantized", _quantized, "store matrices in a frozen format: --quant FORMAT")
BLOCK_SCALED = Fact(
    "block-scaled",
    _block_scaled,
    "block-wise integers have scales and nothing else beside their codes: "
    "name --quant int4 or int8",
)
ROW_SCALED = Fact(
    "row-scaled",
    _row_scaled,
    "products are of integers where a matrix has one scale per row: "
    "--set quantize-frozen.format=int8-row, or --activations none",
)
ROUNDED = Fact("rounded", _rounded)
PERTURBED = Fact("perturbed", _perturbed)
STACKED = Fact("stacked", _stacked)
PARTED = Fact("parted", _parted)
CUT = Fact("cut", _cut)
FORWARD_MODE = Fact("forward-mode", _forward_mode)

TRAINING = (COORDINATES_SELECTED, TENSORS_SELECTED, HAS_TRAINABLES)
"""What a pass establishes that decides what trains."""

"""The directions of a program, read off its graph: the single place they are written down.

perturb(θ, mask_small(mask_turn(mask_random(direction(keys, …), …), …), θ, …) · scale, C)
└───────────────────────── state ───────────┴── keys alone ──┘
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from zofx.ir.ops import zofx_ops
from zofx.ir.program import Program, is_call
from zofx.zo.random.direction_spec import DirectionSpec, Noise, RandomMask, Turn
from zofx.zo.random.noise import Kind

aten = torch.ops.aten

DRAWS = (zofx_ops.direction.default, zofx_ops.mask_random.default, zofx_ops.mask_turn.default)


def directions_of(graph: fx.Graph) -> Iterator[tuple[str, fx.Node]]:
    """Slice → the node of its direction, whole."""
    for node in graph.nodes:
        if is_call(node, zofx_ops.perturb.default, zofx_ops.combine.default):
            yield str(node.args[0].target), node.args[1]


def draw_of(direction: fx.Node) -> fx.Node:
    """The part of a direction that depends on the keys alone."""
    while not is_call(direction, *DRAWS):
        direction = direction.args[0]  # type: ignore[assignment]  # each op's first operand is z
    return direction


def noise_of(program: Program) -> Noise:
    """The artifact's description of the program's directions."""
    every = {name: _spec(node) for name, node in directions_of(program.graph)}
    kind: Kind = next((spec.kind for spec in every.values()), "gaussian")
    specs = {name: spec for name, spec in every.items() if spec != DirectionSpec(kind)}
    return Noise(kind, specs, program.bases)


def _spec(node: fx.Node) -> DirectionSpec:
    """Walk up from a direction to its draw."""
    fields: dict[str, Any] = {}
    while not is_call(node, zofx_ops.direction.default):
        z, *rest = node.args
        if is_call(node, zofx_ops.mask_random.default):
            _, _, keep, interval = rest
            fields["mask"] = RandomMask(keep, interval)  # type: ignore[arg-type]  # as the schema says
        elif is_call(node, zofx_ops.mask_turn.default):
            fields["turn"] = Turn(*rest[1:])  # type: ignore[arg-type]
        elif is_call(node, zofx_ops.mask_small.default):
            fields["limit"] = rest[1]
        elif is_call(node, aten.mul.Tensor):
            fields["scale"] = str(rest[0].target)  # type: ignore[union-attr]
        node = z  # type: ignore[assignment]
    return DirectionSpec(kind=node.args[4], **fields)  # type: ignore[arg-type]

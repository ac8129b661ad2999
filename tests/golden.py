"""Goldens and their oracles: what a rewritten program looks like, and what it means.

    after, remarks = apply("split-sparse", before)
    assert_golden(show(after, remarks), "…")                 structure, the whole of it
    assert_same_meaning(before, after, batch(), bound)       meaning, within a bound from the pass

`ZOFX_ACCEPT=1 pytest` writes what came out into the tests; read the diff before committing it.
Weights are small integers unless a test asks for others: f32 sums of their products are exact, so
what a pass merely reorders has to stay bit-equal.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import expecttest
import torch
from torch import Tensor, fx, nn

from zofx.ir.pipeline import Pass, Pipeline, Remark
from zofx.ir.program import Loader, Program, output_node
from zofx.ir.rewrite import run_node
from zofx.models.capture import capture
from zofx.models.safetensors_folder import StoredTensor
from zofx.passes import PASSES
from zofx.zo.types import Key

os.environ.setdefault("ZOFX_VERIFY", "full")
if os.environ.get("ZOFX_ACCEPT"):
    os.environ["EXPECTTEST_ACCEPT"] = "1"

Inputs: TypeAlias = Mapping[str, Tensor]

UNIT = 2.0**-24  # unit round-off of f32
KEY = Key(seed=5, step=7)


def assert_golden(actual: str, expected: str) -> None:
    """The text is the one pinned in the test; says how to accept another."""
    try:
        expecttest.assert_expected_inline(actual, expected, skip=1)
    except AssertionError as error:
        error.add_note("If the new text is right: ZOFX_ACCEPT=1 pytest, then read the diff.")
        raise
    if os.environ.get("ZOFX_ACCEPT"):  # the diff to read is git's; leave no copies
        Path(f"{sys._getframe(1).f_code.co_filename}.bak").unlink(missing_ok=True)


def captured(
    model: nn.Module, *, integers: bool = True, stored: torch.dtype | None = None
) -> Program:
    """A toy traced, with weights that depend on nothing but their number and shape.

    They are in no checkpoint, or in one that stores them in some element type.
    """
    random = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=random)
        weights[name] = (value * 2).round() if integers else value
    recipes: dict[str, Loader] = {n: partial(torch.clone, w) for n, w in weights.items()}
    if stored is not None:
        recipes = {
            n: StoredTensor(tuple(w.shape), stored, partial(w.to, stored))
            for n, w in weights.items()
        }
    return capture(model.eval(), recipes, causal=True)


def decided(program: Program, aspect: str) -> dict[str, Any]:
    """Tensor → what is decided of one aspect, where it is."""
    values = {name: getattr(choice, aspect) for name, choice in program.choices.items()}
    return {name: v for name, v in values.items() if v is not None and v is not False}


def with_scores(program: Program, *names: str) -> Program:
    """Scores for weights of a program: distinct, positive, fixed."""
    scores = {}
    for number, name in enumerate(names):
        random = torch.Generator().manual_seed(number)
        scores[name] = partial(torch.clone, torch.rand(shape(program, name), generator=random))
    return program.choosing("scores", scores)


def selected(program: Program, **places: list[int]) -> Program:
    """Coordinates chosen by hand; a _ in a name stands for a dot."""
    index = {n.replace("_", "."): torch.tensor(p, dtype=torch.int32) for n, p in places.items()}
    facts = program.facts | {"canonical", "selected"}
    return program.choosing("entries", index).with_(facts=facts)


def shape(program: Program, name: str) -> tuple[int, ...]:
    """Of a tensor; a name that canonicalize is yet to make gets the shape it will have."""
    if name in program.tensors:
        return program.tensors[name].shape
    return program.tensors[name.removesuffix(".T")].shape[::-1]


def batch(
    rows: int = 3, tokens: int = 5, vocabulary: int = 7, coefficients: Any = (0.25,)
) -> dict[str, Tensor]:
    """Inputs of every kind; the first row is padded, one position is not scored."""
    random = torch.Generator().manual_seed(1)

    def integers(top: int, *size: int) -> Tensor:
        return torch.randint(0, top, size, generator=random)

    mask = torch.ones(rows, tokens, dtype=torch.int64)
    mask[0, :2] = 0
    targets = integers(vocabulary, rows, 2, 4)
    targets[0, 1] = -100
    table = torch.tensor(coefficients, dtype=torch.float32)
    keys = [Key(KEY.seed, KEY.step, query).words() for query in range(table.shape[-1])]
    return {
        "input_ids": integers(vocabulary, rows, tokens),
        "attention_mask": mask,
        "positions": integers(tokens, rows, 2),
        "targets": targets,
        "keys": torch.tensor(keys),
        "coefficients": table,
    }


@dataclass
class Applied:
    """Collects the remarks of passes."""

    remarks: list[Remark] = field(default_factory=list)

    def __call__(
        self, item: Pass, before: Program, now: Program, remarks: tuple[Remark, ...], _: float
    ) -> None:
        self.remarks += remarks


def apply(text: str, program: Program) -> tuple[Program, list[Remark]]:
    """Run a pipeline, order and facts checked."""
    applied = Applied()
    return Pipeline.parse(text, PASSES).run(program, applied), applied.remarks


def values(program: Program, inputs: Inputs) -> dict[fx.Node, Any]:
    """Every node's value, op by op: the reference of all runtimes."""
    values_of: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            name = str(node.target)
            values_of[node] = program.load(name) if name in program.tensors else inputs[name]
        elif node.op == "call_function":
            values_of[node] = run_node(node, values_of.__getitem__)
    return values_of


def run(program: Program, inputs: Inputs) -> Tensor:
    """The program's result."""
    (result,) = output_node(program.graph).all_input_nodes
    value: Tensor = values(program, inputs)[result]
    return value


def logits(program: Program, inputs: Inputs) -> Tensor:
    """What the program scores, of one probe after the other: [P·N, S, V]."""
    scores = program.graph.find_nodes(
        op="call_function", target=torch.ops.zofx.score_targets.default
    )
    values_of = values(program, inputs)
    return torch.cat([values_of[node.args[0]] for node in scores])


def assert_same_meaning(
    before: Program, after: Program, inputs: Inputs, bound: Tensor | None = None
) -> None:
    """Bit-equal results; with a bound, logits that differ by no more than it."""
    if bound is None:
        torch.testing.assert_close(run(after, inputs), run(before, inputs), rtol=0, atol=0)
        return
    error = (logits(after, inputs) - logits(before, inputs)).abs()
    assert (error <= bound).all(), f"off by {error.max()}, bound there {bound[error > bound][0]}"


def summation_bound(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """How far two f32 evaluations of x·Wᵀ + b can be apart, in any order of summation.

    Each is within γ·(|x|·|W|ᵀ + |b|) of the exact value, γ = n·u / (1 − n·u), n = in + 3 roundings.
    """
    roundings = (weight.shape[1] + 3) * UNIT
    total = x.abs().double() @ weight.abs().double().t()
    if bias is not None:
        total = total + bias.abs().double()
    return 2 * roundings / (1 - roundings) * total

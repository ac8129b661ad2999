"""Fused ops: the whole graph before and after as text, and both within the bound of their meaning.

module ──translated──▶ before ──fuse──▶ after          ONNX Runtime runs both
         ──float64──▶ exact ± bound  ∋  before, after
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from tests.artifacts import CASES, Family
from tests.golden import assert_golden
from tests.runtimes import reference
from zofx.runtimes.onnx_export.export import OPSET, translate
from zofx.runtimes.onnx_export.fusions import fuse, share

Inputs: TypeAlias = tuple[Tensor, ...]

UNIT = 2.0**-24
ROWS, TOKENS, HEADS, WIDTH = 3, 5, 4, 8
SCALE = WIDTH**-0.5


def translated(module: nn.Module, inputs: Inputs) -> ir.Model:
    """A module in ONNX, not fused; what has rows and tokens has any number of both."""
    sizes = {ROWS: Dim.DYNAMIC, TOKENS: Dim.DYNAMIC}
    dynamic = tuple({a: sizes[n] for a, n in enumerate(x.shape) if n in sizes} for x in inputs)
    exported = torch.export.export(module, inputs, dynamic_shapes=(dynamic,))
    model = translate(exported)
    model.opset_imports[""] = OPSET
    return model


def fused(model: ir.Model) -> ir.Model:
    """Another model, with what there is one op for."""
    after = ir.from_proto(ir.to_proto(model))
    fuse(after)
    share(after)
    return after


def on_ort(model: ir.Model, inputs: Inputs) -> Tensor:
    """Its one result."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    engine = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    named = zip(engine.get_inputs(), inputs, strict=True)
    return torch.from_numpy(engine.run(None, {i.name: v.numpy() for i, v in named})[0])


def show(model: ir.Model) -> str:
    """A line per node; inputs and results are numbered, constants written out, zeros left out."""
    names = {value: f"in{number}" for number, value in enumerate(model.graph.inputs)}
    lines = []
    for node in model.graph:
        if node.op_type == "Constant":
            (stored,) = node.attributes.values()
            names[node.outputs[0]] = _entries(stored)
            continue
        names[node.outputs[0]] = f"%{len(lines)}"
        args = ", ".join(names[value] for value in node.inputs if value is not None)
        given = " ".join(f"{a.name}={_entry(a.value)}" for a in node.attributes.values() if a.value)
        lines.append(f"%{len(lines)} = {node.op_type}({args}) {given}".rstrip())
    return "\n".join(lines)


def _entries(attribute: ir.Attr) -> str:
    value = attribute.value
    return str(value.numpy().tolist() if isinstance(value, ir.TensorProtocol) else value)


def _entry(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def normal(*size: int, seed: int = 0) -> Tensor:
    """Entries that depend on nothing but the seed."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def within(models: Mapping[str, ir.Model], inputs: Inputs, exact: Tensor, bound: Tensor) -> None:
    """Each as near the exact result as the bound allows, and not all zero."""
    assert exact.abs().min() > 0
    for name, model in models.items():
        error = (on_ort(model, inputs) - exact).abs()
        assert (error <= bound).all(), f"{name}: off by {error.max()}"


# --- normalization --------------------------------------------------------------------------------


class Norm(nn.Module):
    """w · (x · 1/√(mean x² + ε)), the weight on either side."""

    def __init__(self, left: bool = True, axis: int = -1) -> None:
        super().__init__()
        self.left, self.axis = left, axis

    def forward(self, *inputs: Tensor) -> Tensor:
        x, weight = inputs
        y = x * torch.rsqrt(x.pow(2).mean(self.axis, keepdim=True) + 1e-6)
        return weight * y if self.left else y * weight


@pytest.mark.parametrize("left", [True, False])
def test_a_norm_is_one_op_within_its_bound(left: bool) -> None:
    """Whatever side the weight is on; rows of sizes far apart, each by its own mean."""
    inputs = (normal(ROWS, TOKENS, 64) * normal(ROWS, TOKENS, 1, seed=1).mul(9).exp2(), normal(64))
    before = translated(Norm(left), inputs)
    after = fused(before)
    assert "ReduceMean" in show(before)
    assert_golden(show(after), """%0 = RMSNormalization(in0, in1) axis=-1 epsilon=1e-06""")
    x, weight = (value.double() for value in inputs)
    exact = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    within({"before": before, "after": after}, inputs, exact, (64 / 2 + 8) * UNIT * exact.abs())


def test_a_row_is_normalized_as_it_is_alone() -> None:
    """Bit for bit, so a probe does not see the others."""
    x, weight = normal(ROWS, TOKENS, 64), normal(64, seed=1)
    after = fused(translated(Norm(), (x, weight)))
    alone = [on_ort(after, (row[None], weight)) for row in x]
    assert torch.equal(on_ort(after, (x, weight)), torch.cat(alone))


@pytest.mark.parametrize(
    ("axis", "weight"),
    [(1, (64,)), (-1, (ROWS, 1, 64)), (-1, (1,))],
    ids=["over tokens", "a weight per row", "a scalar"],
)
def test_another_norm_stays_as_it_is(axis: int, weight: tuple[int, ...]) -> None:
    """The op takes a mean of the last axis and one weight for all rows: a trainable has one
    each."""
    before = translated(Norm(axis=axis), (normal(ROWS, TOKENS, 64), normal(*weight)))
    assert show(fused(before)) == show(before)


# --- rotary embedding -----------------------------------------------------------------------------


class Rotary(nn.Module):
    """x·cos + (−x₂ ‖ x₁)·sin, or a mistake in it."""

    def __init__(self, halves: int = 2, cut: int = WIDTH // 2) -> None:
        super().__init__()
        self.halves, self.cut = halves, cut

    def forward(self, *inputs: Tensor) -> Tensor:
        x, angles = inputs
        twice = torch.cat([angles] * self.halves, -1)
        cos, sin = (f(twice).unsqueeze(1) for f in (torch.cos, torch.sin))
        turned = torch.cat((-x[..., self.cut :], x[..., : self.cut]), -1)
        return x * cos + turned * sin


def turning(heads: int = HEADS) -> Inputs:
    return normal(ROWS, heads, TOKENS, WIDTH), normal(ROWS, TOKENS, WIDTH // 2, seed=1) * 9


def test_a_rotation_is_one_op_within_its_bound() -> None:
    """The angles of one half are handed on; a head is as every other."""
    inputs = turning()
    before = translated(Rotary(), inputs)
    after = fused(before)
    assert "Neg" in show(before)
    assert_golden(
        show(after),
        """\
%0 = Concat(in1, in1) axis=-1
%1 = Cos(%0)
%2 = Unsqueeze(%1, [1])
%3 = Sin(%0)
%4 = Unsqueeze(%3, [1])
%5 = Squeeze(%2, (1,))
%6 = Slice(%5, (0,), (4,), (2,))
%7 = Squeeze(%4, (1,))
%8 = Slice(%7, (0,), (4,), (2,))
%9 = RotaryEmbedding(in0, %6, %8)""",
    )
    x, angles = (value.double() for value in inputs)
    cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
    turned = torch.cat((-x[..., WIDTH // 2 :], x[..., : WIDTH // 2]), -1)
    size = (x * cos).abs() + (turned * sin).abs()
    # f32 functions of an angle: a few units of a value that is at most 1
    own = reference.FUNCTION * UNIT * (x.abs() + turned.abs())
    within(
        {"before": before, "after": after}, inputs, x * cos + turned * sin, 3 * UNIT * size + own
    )


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (Rotary(halves=1), (turning()[0], normal(ROWS, TOKENS, WIDTH))),
        (Rotary(cut=2), turning()),
    ],
    ids=["an angle per entry", "cut elsewhere"],
)
def test_another_rotation_stays_as_it_is(module: nn.Module, inputs: Inputs) -> None:
    """The op has one angle for an entry of each half."""
    before = translated(module, inputs)
    assert show(fused(before)) == show(before)


# --- attention ------------------------------------------------------------------------------------


class Attend(nn.Module):
    """Attention as transformers writes it: heads split, turned, repeated, attended to, merged."""

    def __init__(self, times: int, angles: bool = False) -> None:
        super().__init__()
        self.times, self.angles = times, angles

    def forward(self, *inputs: Tensor) -> Tensor:
        q, k, v, mask, *angles = inputs
        rows, tokens, _ = q.shape
        q, k, v = (x.view(rows, tokens, -1, WIDTH).transpose(1, 2) for x in (q, k, v))
        q, k = (Rotary()(x, *angles) if self.angles else x for x in (q, k))
        if self.times > 1:
            k, v = (
                x.unsqueeze(2)
                .expand(rows, HEADS // self.times, self.times, tokens, WIDTH)
                .reshape(rows, HEADS, tokens, WIDTH)
                for x in (k, v)
            )
        y = functional.scaled_dot_product_attention(q, k, v, mask, scale=SCALE)
        return y.transpose(1, 2).reshape(rows, tokens, HEADS * WIDTH)


def attending(times: int, angles: bool = False) -> Inputs:
    """q, k, v of some heads, what each token sees, and angles if any."""
    few = HEADS // times * WIDTH
    q, k, v = (normal(ROWS, TOKENS, n, seed=s) for s, n in enumerate((HEADS * WIDTH, few, few)))
    seen = torch.ones(TOKENS, TOKENS).tril().bool().expand(ROWS, 1, -1, -1).clone()
    return (q, k, v, seen, *turning()[1:]) if angles else (q, k, v, seen)


def test_attention_takes_rows_and_turns_them_as_such() -> None:
    """No head is moved, none copied: five ops for thirty."""
    inputs = attending(2, angles=True)
    before = translated(Attend(2, angles=True), inputs)
    assert_golden(
        show(fused(before)),
        """\
%0 = Concat(in4, in4) axis=-1
%1 = Cos(%0)
%2 = Unsqueeze(%1, [1])
%3 = Sin(%0)
%4 = Unsqueeze(%3, [1])
%5 = Squeeze(%2, (1,))
%6 = Slice(%5, (0,), (4,), (2,))
%7 = Squeeze(%4, (1,))
%8 = Slice(%7, (0,), (4,), (2,))
%9 = RotaryEmbedding(in0, %6, %8) num_heads=4
%10 = RotaryEmbedding(in1, %6, %8) num_heads=2
%11 = Attention(%9, %10, in2, in3) scale=0.353553 q_num_heads=4 kv_num_heads=2""",
    )
    assert Counter(node.op_type for node in before.graph)["Transpose"] == 4


@pytest.mark.parametrize("times", [1, 2, 4])
def test_attention_means_what_it_did(times: int) -> None:
    """Within the bound of either order; query heads that share a key read the one they did."""
    inputs = attending(times)
    before = translated(Attend(times), inputs)
    after = fused(before)
    assert "Transpose(" not in show(after)
    assert "Expand(" not in show(after)
    heads = [x.double().view(ROWS, TOKENS, -1, WIDTH).transpose(1, 2) for x in inputs[:3]]
    q, k, v = (x.requires_grad_() for x in heads)
    k, v = (x.repeat_interleave(times, 1) for x in (k, v))
    rounding = reference.Rounding()
    exact = reference.attention(rounding, q, k, v, inputs[3], scale=SCALE)
    exact = exact.transpose(1, 2).reshape(ROWS, TOKENS, -1)
    bound = rounding.bound(exact).detach()
    within({"before": before, "after": after}, inputs, exact.detach(), bound)


# --- whole programs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "norms", "turns"), [("tiny_llama", 3, 2), ("tiny_gpt2", 0, 0), ("tiny_roberta", 0, 0)]
)
def test_models_of_transformers_fit(family: Family, model: str, norms: int, turns: int) -> None:
    """Every norm, every rotation and every attention of a layer, also below and above a
    trainable."""
    case = next(case for case in CASES if case.model == model)
    graph = onnx.load(family.artifact(case) / "graph.onnx", load_external_data=False).graph
    ops = Counter(node.op_type for node in graph.node)
    assert (ops["RMSNormalization"], ops["RotaryEmbedding"], ops["Attention"]) == (norms, turns, 1)
    assert not ops["Sqrt"] + ops["Neg"]
    (attention,) = (node for node in graph.node if node.op_type == "Attention")
    assert {"q_num_heads", "kv_num_heads"} <= {a.name for a in attention.attribute}

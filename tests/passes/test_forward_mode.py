# ruff: noqa: E501  (lines of printed programs)
"""forward-mode: row 0 is the program, the other rows its derivatives, on both runtimes."""

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.golden import KEY, apply, assert_golden, batch, captured, run, selected
from tests.models.test_capture import CONFIGS, inputs, recipes, weights
from tests.passes.slopes import (
    along,
    directions,
    evaluate,
    exactly,
    rounding_bound,
    scorer,
    slopes,
    wide,
)
from tests.passes.toys import OneLinear, Toy, TwoLinears
from zofx.compiler.write import write_program
from zofx.errors import PipelineError, UnsupportedError
from zofx.ir.patterns import linear_weights
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.rewrite import Editor
from zofx.ir.schema import Role
from zofx.models.capture import capture
from zofx.models.checkpoint import architecture_of, build_on_meta
from zofx.zo.types import Key

# torch loads its forward formulas with what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

PROBES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, -2.0]])
MODELS = ("opt", "llama", "mistral", "qwen2", "gpt2", "roberta")
QUANTIZED = "mistral"


def training(program: Program, *names: str) -> Program:
    """These tensors as trainables, whole."""
    edit = Editor(program)
    for name in names:
        spec = replace(program.tensors[name], role=Role.TRAINABLE)
        edit.replace_data(spec, program.data[name])
    return edit.done(facts=program.facts | {"sliced"})


def with_every_kind_of_slice(name: str) -> Program:
    """A model of one layer: two of its matrices train sparsely, everything else whole.

    What is frozen of those two is quantized in Mistral, whose rows fill a block of 32.
    """
    config = deepcopy(CONFIGS[name])
    config.num_hidden_layers = 1
    if name == QUANTIZED:
        config.hidden_size = 32
    architecture = architecture_of(name, config)
    model = build_on_meta(config, architecture)
    program = capture(model, recipes(weights(model)), causal=architecture == "causal-lm")
    program, _ = apply("canonicalize, narrow-positions", program)
    chosen = linear_weights(program, lambda *_: None)[:2]
    selection = {n: torch.arange(3, program.tensors[n].size, 37).int() for n in chosen}
    facts = program.facts | {"selected"}
    program, _ = apply("split-sparse", program.choosing("entries", selection).with_(facts=facts))
    whole = [
        spec.name
        for spec in program.tensors.values()
        if spec.role is Role.FROZEN and spec.form != "computed" and spec.name not in chosen
    ]
    program = training(program, *whole)
    return apply("quantize-frozen{format=int8}", program)[0] if name == QUANTIZED else program


@dataclass(frozen=True)
class Subject:
    """A model before and after the pass, on one batch."""

    before: Program
    perturbed: Program
    after: Program
    inputs: dict[str, Tensor]

    @cached_property
    def z(self) -> dict[str, Tensor]:
        """Directions of the trainables."""
        return directions(self.after, self.inputs)

    @cached_property
    def slopes(self) -> Tensor:
        """What has to come out, in float64."""
        return slopes(self.before, self.inputs, self.z)

    @cached_property
    def bound(self) -> Tensor:
        """How far float32 may be from it."""
        return rounding_bound(self.after, self.inputs)


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest) -> Subject:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ZOFX_VERIFY")  # to infer all shapes twice takes as long as all the rest
        before = with_every_kind_of_slice(request.param)
        perturbed, _ = apply("insert-perturbation{noise=rademacher}", before)
        after, _ = apply("forward-mode", perturbed)
    keys = torch.tensor([Key(KEY.seed, KEY.step, query).words() for query in range(2)])
    given = {**inputs(2, 7, 2, 2), "keys": keys, "coefficients": PROBES}
    return Subject(before, perturbed, after, given)


def test_row_0_is_the_program(subject: Subject) -> None:
    """Bit for bit what it scores without perturbation."""
    nothing = {**subject.inputs, "coefficients": torch.zeros(2)}
    torch.testing.assert_close(
        run(subject.after, subject.inputs)[0], run(subject.perturbed, nothing), rtol=0, atol=0
    )


def test_the_other_rows_are_its_derivatives(subject: Subject) -> None:
    """Within the roundings of float32, and within 2⁻²⁹ of that in float64, of torch's own."""
    error = (run(subject.after, subject.inputs) - subject.slopes).abs()
    assert (error <= subject.bound).all()
    given = wide(subject.after, subject.inputs)
    error = (evaluate(subject.after.graph, given, exactly) - subject.slopes).abs()
    assert (error <= 2 * 2.0**-29 * subject.bound).all()  # torch's own rounds as well
    assert subject.bound.max() <= 1e-3 * subject.slopes.abs().max()  # or it would show nothing


def test_small_steps_agree(subject: Subject) -> None:
    """A central difference in float64 is off by O(h²) and by 2⁻⁵² / h: with h = 2⁻¹⁷ both are small."""
    score = scorer(subject.before, subject.inputs)
    theta = {name: subject.before.load(name).double() for name in subject.z}
    actual = run(subject.after, subject.inputs)
    for row, slope in zip(PROBES, actual[1:].double(), strict=True):
        step = {name: v * 2.0**-17 for name, v in along(row, subject.z).items()}
        ahead, behind = (
            score({name: value + sign * step[name] for name, value in theta.items()})
            for sign in (1, -1)
        )
        difference = (ahead - behind) * 2.0**16
        assert (difference - slope).abs().max() <= 1e-5 * difference.abs().max()


@pytest.mark.parametrize("subject", ["opt", "llama", QUANTIZED], indirect=True)
def test_onnx_runtime_computes_the_same(subject: Subject, tmp_path: Path) -> None:
    """An ordinary forward graph: both engines are within the roundings of the same numbers."""
    write_program(subject.after, tmp_path)
    engine = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    feeds = {name: v.numpy() for name, v in subject.inputs.items() if name != "keys"}
    for name, z in subject.z.items():
        feeds |= {name: subject.after.load(name).numpy(), f"{name}.z": z.numpy()}
    (actual,) = engine.run(["logprob"], feeds)
    assert ((torch.from_numpy(actual) - subject.slopes).abs() <= subject.bound).all()


def sparse(toy: Toy, **places: list[int]) -> Program:
    """A toy whose trainables are read through perturbations."""
    text = "split-sparse, insert-perturbation{noise=rademacher}"
    after, _ = apply(text, selected(captured(toy), **places))
    return after


def whole(toy: Toy, *names: str) -> Program:
    """The same, with trainables that train whole."""
    before = training(captured(toy), *names)
    after, _ = apply("insert-perturbation{noise=rademacher}", before)
    return after


def test_a_tangent_follows_every_value() -> None:
    """A sparse trainable: the embedding has none, the product with x does not need one of x."""
    before = sparse(OneLinear(), fc_weight=[1, 6, 27])
    after, remarks = apply("forward-mode", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: canonical, forward-mode, sliced
  input      input_ids        i64[N, T]
  input      attention_mask   i64[N, T]
  input      positions        i64[N, S]
  input      targets          i64[N, S, C]
  input      keys             i64[Q, 2]
  input      coefficients     f32[P, Q]
  frozen     embed.weight     f32[7, 4]
  frozen     fc.weight        f32[7, 4]
  frozen     fc.bias          f32[7]
  index      fc.weight.index  i32[3]        index of fc.weight
  trainable  fc.weight.slice  f32[3]        slice of fc.weight
body
  %0 = aten.sym_size.int(coefficients, 0)   : P
  %1 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %2 = aten.linear(%1, fc.weight, fc.bias)   : f32[N, T, 7]
  %3 = zofx.direction(keys, None, fc.weight.slice, [3], rademacher)   : f32[Q, 3]
  %4 = zofx.combine(fc.weight.slice, %3, coefficients)   : f32[P, 3]
  %5 = zofx.sparse_linear(%1, fc.weight.slice, fc.weight.index, 7, 3, 1)   : f32[N, T, 7]
  %6 = aten.sym_size.int(%1, 0)   : N
  %7 = aten.sym_size.int(%1, 1)   : T
  %8 = aten.expand(%1, [%0, %6, %7, 4])   : f32[P, N, T, 4]
  %9 = zofx.sparse_linear(%8, %4, fc.weight.index, 7, 3, 1)   : f32[P, N, T, 7]
  %10 = aten.add.Tensor(%2, %5)   : f32[N, T, 7]
  %11 = zofx.select_positions(%10, positions)   : f32[N, S, 7]
  %12 = aten.unsqueeze(positions, -1)   : i64[N, S, 1]
  %13 = aten.sym_size.int(%11, 1)   : S
  %14 = aten.expand(%12, [%0, %6, %13, 7])   : i64[P, N, S, 7]
  %15 = aten.gather(%9, 2, %14)   : f32[P, N, S, 7]
  %16 = zofx.score_targets(%11, targets)   : f32[N, C]
  %17 = aten.softmax.int(%11, -1)   : f32[N, S, 7]
  %18 = aten.clamp(targets, 0)   : i64[N, S, C]
  %19 = aten.sym_size.int(targets, 2)   : C
  %20 = aten.expand(%18, [%0, %6, %13, %19])   : i64[P, N, S, C]
  %21 = aten.gather(%15, 3, %20)   : f32[P, N, S, C]
  %22 = aten.mul.Tensor(%17, %15)   : f32[P, N, S, 7]
  %23 = aten.sum.dim_IntList(%22, [-1], True)   : f32[P, N, S, 1]
  %24 = aten.sub.Tensor(%21, %23)   : f32[P, N, S, C]
  %25 = aten.ge.Scalar(targets, 0)   : bool[N, S, C]
  %26 = aten._to_copy(%25, dtype=f32)   : f32[N, S, C]
  %27 = aten.sum.dim_IntList(%26, [1])   : f32[N, C]
  %28 = aten.clamp(%27, 1)   : f32[N, C]
  %29 = aten.mul.Tensor(%24, %26)   : f32[P, N, S, C]
  %30 = aten.sum.dim_IntList(%29, [2])   : f32[P, N, C]
  %31 = aten.div.Tensor(%30, %28)   : f32[P, N, C]
  %32 = aten.unsqueeze(%16, 0)   : f32[1, N, C]
  %33 = aten.cat([%32, %31])   : f32[P + 1, N, C]
  return %33
remarks
  applied  trainables   5 values have tangents
""",
    )


def test_what_no_slice_reaches_has_no_tangent() -> None:
    """A head that trains whole: nothing above it is differentiated."""
    before = whole(TwoLinears(), "head.weight")
    after, remarks = apply("forward-mode", before)
    assert_golden(
        show(after, remarks),
        """\
program                                  facts: forward-mode, sliced
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  input      keys            i64[Q, 2]
  input      coefficients    f32[P, Q]
  frozen     embed.weight    f32[7, 4]
  frozen     fc.weight       f32[4, 4]
  trainable  head.weight     f32[7, 4]
body
  %0 = aten.sym_size.int(coefficients, 0)   : P
  %1 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %2 = aten.linear(%1, fc.weight)   : f32[N, T, 4]
  %3 = aten.relu(%2)   : f32[N, T, 4]
  %4 = zofx.direction(keys, None, head.weight, [7, 4], rademacher)   : f32[Q, 7, 4]
  %5 = zofx.combine(head.weight, %4, coefficients)   : f32[P, 7, 4]
  %6 = aten.linear(%3, head.weight)   : f32[N, T, 7]
  %7 = aten.reshape(%3, [-1, 4])   : f32[N*T, 4]
  %8 = aten.transpose.int(%5, 1, 2)   : f32[P, 4, 7]
  %9 = aten.matmul(%7, %8)   : f32[P, N*T, 7]
  %10 = aten.sym_size.int(%6, 0)   : N
  %11 = aten.sym_size.int(%6, 1)   : T
  %12 = aten.reshape(%9, [%0, %10, %11, 7])   : f32[P, N, T, 7]
  %13 = zofx.select_positions(%6, positions)   : f32[N, S, 7]
  %14 = aten.unsqueeze(positions, -1)   : i64[N, S, 1]
  %15 = aten.sym_size.int(%13, 1)   : S
  %16 = aten.expand(%14, [%0, %10, %15, 7])   : i64[P, N, S, 7]
  %17 = aten.gather(%12, 2, %16)   : f32[P, N, S, 7]
  %18 = zofx.score_targets(%13, targets)   : f32[N, C]
  %19 = aten.softmax.int(%13, -1)   : f32[N, S, 7]
  %20 = aten.clamp(targets, 0)   : i64[N, S, C]
  %21 = aten.sym_size.int(targets, 2)   : C
  %22 = aten.expand(%20, [%0, %10, %15, %21])   : i64[P, N, S, C]
  %23 = aten.gather(%17, 3, %22)   : f32[P, N, S, C]
  %24 = aten.mul.Tensor(%19, %17)   : f32[P, N, S, 7]
  %25 = aten.sum.dim_IntList(%24, [-1], True)   : f32[P, N, S, 1]
  %26 = aten.sub.Tensor(%23, %25)   : f32[P, N, S, C]
  %27 = aten.ge.Scalar(targets, 0)   : bool[N, S, C]
  %28 = aten._to_copy(%27, dtype=f32)   : f32[N, S, C]
  %29 = aten.sum.dim_IntList(%28, [1])   : f32[N, C]
  %30 = aten.clamp(%29, 1)   : f32[N, C]
  %31 = aten.mul.Tensor(%26, %28)   : f32[P, N, S, C]
  %32 = aten.sum.dim_IntList(%31, [2])   : f32[P, N, C]
  %33 = aten.div.Tensor(%32, %30)   : f32[P, N, C]
  %34 = aten.unsqueeze(%18, 0)   : f32[1, N, C]
  %35 = aten.cat([%34, %33])   : f32[P + 1, N, C]
  return %35
remarks
  applied  trainables   4 values have tangents
""",
    )


def test_is_pure_and_lazy() -> None:
    """The program it was given prints the same, and no recipe has run."""

    def never() -> Tensor:
        raise AssertionError("a pass made data")

    before = sparse(OneLinear(), fc_weight=[1, 6, 27])
    before = before.with_(data=dict.fromkeys(before.data, never))
    text = show(before)
    apply("forward-mode", before)
    assert show(before) == text


class Strange(TwoLinears):
    """Ops below a layer that no rule knows, one of them twice, and rules behind them."""

    def logits(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return self.head((y.cumprod(1).atan() + x.atan()).relu().cumprod(2))  # type: ignore[no-any-return]


class Biased(TwoLinears):
    """Attention whose mask is made of activations."""

    def logits(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        mask = y @ y.transpose(1, 2)
        attended = torch.nn.functional.scaled_dot_product_attention(y, x, x, attn_mask=mask)
        return self.head(attended)  # type: ignore[no-any-return]


class Cut(TwoLinears):
    """Logits that have the shape of a layer's result and nothing else of it."""

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x + torch.ones_like(self.fc(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("toy", "reasons"),
    [
        (Strange, ["aten.cumprod.default: no rule", "aten.atan.default: no rule"]),
        (
            Biased,
            ["aten.scaled_dot_product_attention.default: no rule for a tangent of its attn_mask"],
        ),
        (Cut, ["no trainable reaches the result"]),
    ],
)
def test_refuses_what_it_cannot_differentiate(toy: type[Toy], reasons: list[str]) -> None:
    """Every op is named, once; ops behind them that have a rule are not."""
    with pytest.raises(UnsupportedError) as caught:
        apply("forward-mode", sparse(toy(), fc_weight=[1, 6, 12]))
    assert str(caught.value) == "\n".join(
        ["forward-mode cannot differentiate this program", *(f"  - {why}" for why in reasons)]
    )


def test_needs_perturbations() -> None:
    """They say where the trainables are, and along what."""
    with pytest.raises(PipelineError) as caught:
        apply("forward-mode", captured(OneLinear()))
    assert str(caught.value) == (
        "pass 0 (forward-mode) needs a program that is 'perturbed', and nothing before it makes "
        "it so; add a pass that makes it so"
    )


def test_leaves_no_perturbation() -> None:
    """What reads θ + C·z has nothing to read any more."""
    after, _ = apply("forward-mode", sparse(OneLinear(), fc_weight=[1, 6, 27]))
    assert "forward-mode" in after.facts
    assert "perturbed" not in after.facts
    out = run(after, batch(coefficients=PROBES.tolist()))
    assert out.shape == (4, 3, 4)

"""Prompts and prefixes: what stands before the text, against eager transformers."""

import weakref
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, Lfm2Config, PreTrainedModel

from tests.golden import KEY, UNIT, apply, assert_golden, logits, run
from tests.models.architectures import (
    CONFIGS,
    SHAPES,
    SIZES,
    VOCABULARY,
    eager,
    inputs,
    recipes,
    scored,
    weights,
)
from tests.passes.toys import OneLinear, Toy
from tests.runtimes import reference
from zofx.errors import UnsupportedError, UsageError
from zofx.ir.ops.directions import direction
from zofx.ir.printer import show
from zofx.ir.program import Loader, Program
from zofx.ir.schema import INPUTS, Role
from zofx.models.capture import capture
from zofx.models.checkpoint import architecture_of, build_on_meta
from zofx.models.soft_prompts import (
    Adapter,
    Prefix,
    Prompt,
    adapter_for,
    cache_argument,
    draw_tokens,
)

PROMPT, PREFIX = Prompt(tokens=6, seed=3), Prefix(tokens=5, seed=3)
CASES: list[tuple[str, Adapter]] = [
    *((name, PROMPT) for name in ("opt", "llama", "gpt2", "roberta")),
    *((name, PREFIX) for name in ("opt", "llama", "mistral", "qwen2", "gpt2")),
]
PADDING = 1


def case_name(case: object) -> str:
    return case if isinstance(case, str) else type(case).__name__


each_case = pytest.mark.parametrize(("name", "adapter"), CASES, ids=case_name)
each_adapter = pytest.mark.parametrize("adapter", [PROMPT, PREFIX], ids=case_name)


@cache
def captured(name: str, adapter: Adapter | None) -> Program:
    """Traced once."""
    architecture = architecture_of(name, CONFIGS[name])
    model = build_on_meta(CONFIGS[name], architecture)
    values = recipes(weights(model))
    return capture(model, values, causal=architecture == "causal-lm", adapter=adapter)


def original(name: str) -> PreTrainedModel:
    return eager(CONFIGS[name], architecture_of(name, CONFIGS[name]))


def with_adapter(
    model: PreTrainedModel, trainables: dict[str, Tensor], given: dict[str, Tensor]
) -> Tensor:
    """What transformers says at the scored positions with these tensors before the text."""
    ids, mask, positions = (given[k] for k in ("input_ids", "attention_mask", "positions"))
    rows, m = torch.arange(len(ids))[:, None], next(iter(trainables.values())).shape[-2]
    mask = torch.cat((torch.ones(len(ids), m, dtype=torch.long), mask), 1)
    counted = (mask.cumsum(1) - 1).clamp(min=0)
    if type(model).__name__.startswith("Roberta"):  # it counts from the id of its padding
        counted = mask.cumsum(1) * mask + PADDING
    if "prompt" in trainables:
        before = trainables["prompt"].expand(len(ids), -1, -1)
        embedded = torch.cat((before, model.get_input_embeddings()(ids)), 1)
        whole = model(inputs_embeds=embedded, attention_mask=mask, position_ids=counted).logits
        return whole[rows, positions + m]
    parts = [part.expand(len(ids), -1, -1, -1) for part in trainables.values()]
    whole = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=counted[:, m:],
        **{cache_argument(model): DynamicCache(list(zip(parts[::2], parts[1::2], strict=True)))},
        use_cache=True,
    ).logits
    return whole[rows, positions]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_case
def test_a_program_is_what_eager_transformers_computes(
    name: str, adapter: Adapter, shape: tuple[int, ...]
) -> None:
    """Given inputs_embeds or past_key_values, on padded batches of shapes it was not traced with.

    The logits have the same bits. The scores are made of them in another order, so they may differ
    by the rounding of a few sums over the vocabulary.
    """
    program, given = captured(name, adapter), inputs(*shape)
    trainables = {spec.name: program.load(spec.name) for spec in program.trainables}
    with torch.no_grad():
        wanted = with_adapter(original(name), trainables, given)
    torch.testing.assert_close(logits(program, given), wanted, rtol=0, atol=0)
    actual, expected = run(program, given), scored(wanted.double(), given["targets"])
    gamma = UNIT * (VOCABULARY + 8)
    assert ((actual - expected).abs() <= gamma * (1 + wanted.abs().max())).all()


@each_case
def test_what_trains_are_slices(name: str, adapter: Adapter) -> None:
    """Of one form, f32, in no checkpoint; every weight is frozen and the inputs are as ever."""
    program, model = captured(name, adapter), original(name)
    layers = range(model.config.num_hidden_layers)
    kinds = [f"prefix.{layer}.{kind}" for layer in layers for kind in ("key", "value")]
    names = ["prompt"] if isinstance(adapter, Prompt) else kinds
    assert [spec.name for spec in program.trainables] == names
    assert (program.inputs, program.facts) == (INPUTS, {"sliced"})
    for spec in program.trainables:
        assert (spec.form, spec.origin, spec.dtype) == ("adapter", None, torch.float32)
        assert spec.shape[-2] == adapter.tokens
    frozen = {s.name for s in program.tensors.values() if s.role is Role.FROZEN and not s.form}
    assert frozen == {name for name, _ in model.named_parameters()}


def meaning(program: Program, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """In f64, and how far an f32 evaluation may be from it."""
    canonical, _ = apply("canonicalize", program.with_(facts=frozenset()))
    tensors = {name: canonical.load(name) for name in canonical.tensors}
    rounding = reference.Rounding()
    result = reference.run(canonical.graph, {**tensors, **given}, rounding)
    return result.detach(), rounding.bound(result)


@pytest.mark.parametrize(
    ("name", "adapter"), [("llama", PROMPT), ("llama", PREFIX), ("gpt2", PREFIX)], ids=case_name
)
def test_it_begins_as_tokens_before_the_text(name: str, adapter: Adapter) -> None:
    """The plain model on (drawn tokens + text) says the same, with rotary and learned positions.

    Both are within the rounding of their programs; the keys and values of a prefix are inputs of
    its program and were rounded before, as they are in the longer text.
    """
    given = inputs(2, 7, 1, 2)
    ids = draw_tokens(adapter, VOCABULARY, CONFIGS[name].pad_token_id).expand(2, -1)
    longer = {
        "input_ids": torch.cat((ids, given["input_ids"]), 1),
        "attention_mask": torch.cat((torch.ones_like(ids), given["attention_mask"]), 1),
        "positions": given["positions"] + adapter.tokens,
        "targets": given["targets"],
    }
    wanted, rounded_before = meaning(captured(name, None), longer)
    program = captured(name, adapter)
    tolerance = meaning(program, given)[1] + rounded_before
    assert ((run(program, given) - wanted).abs() <= tolerance).all()
    without = run(captured(name, None), given)
    assert (without - wanted).abs().max() > 100 * tolerance.max()


@each_adapter
def test_probes_are_moved_adapters(adapter: Adapter) -> None:
    """After all passes, probe p is the captured program with the trainables moved by hand."""
    program, given = captured("llama", adapter), inputs(2, 7, 1, 2)
    text = "canonicalize, narrow-positions, insert-perturbation, stack-probes"
    stacked, remarks = apply(text, program)
    assert [r.verdict for r in remarks if r.subject == "logits"] == ["applied"]
    steps, keys = (0.5, -0.5), torch.tensor([KEY.words()])
    actual = run(stacked, {**given, "keys": keys, "coefficients": torch.tensor(steps)[:, None]})
    table = stacked.load("noise.normal_table")
    for scores, step in zip(actual, steps, strict=True):
        moved = {}
        for spec in program.trainables:
            z = direction(keys, table, spec.name, list(spec.shape), "gaussian")[0]
            moved[spec.name] = program.load(spec.name) + step * z
        by_hand = program.with_(data={**program.data, **recipes(moved)})
        wanted, bound = meaning(by_hand, given)
        assert ((scores - wanted).abs() <= bound).all()
    assert (actual[0] - actual[1]).abs().max() > 1e-3


def test_beginning_reads_one_weight_at_a_time() -> None:
    """Nothing to trace; then each weight once that the last layer's keys and values depend on."""
    model = build_on_meta(CONFIGS["llama"], "causal-lm")
    values = weights(model)
    read: list[str] = []
    alive: list[weakref.ref[Tensor]] = []

    def recipe(name: str) -> Loader:
        def make() -> Tensor:
            assert all(earlier() is None for earlier in alive), f"{read[-1]} is still there"
            value = values[name].clone()
            read.append(name)
            alive.append(weakref.ref(value))
            return value

        return make

    program = capture(model, {name: recipe(name) for name in values}, causal=True, adapter=PREFIX)
    assert not read
    for spec in program.trainables:
        assert program.load(spec.name).isfinite().all()
    ends = (
        "layers.1.input_layernorm.weight",
        "1.self_attn.k_proj.weight",
        "1.self_attn.v_proj.weight",
    )
    assert sorted(read) == sorted(
        n for n in values if "layers.0" in n or "embed" in n or n.endswith(ends)
    )


def test_tokens_are_drawn_by_seed() -> None:
    """The same for the same seed, others for another, all of the vocabulary but padding."""
    drawn = draw_tokens(Prompt(400, seed=1), VOCABULARY, PADDING)
    assert drawn.shape == (1, 400)
    assert torch.equal(drawn, draw_tokens(Prompt(400, seed=1), VOCABULARY, PADDING))
    assert not torch.equal(drawn, draw_tokens(Prompt(400, seed=2), VOCABULARY, PADDING))
    assert set(drawn.flatten().tolist()) == set(range(VOCABULARY)) - {PADDING}


class Embeds(OneLinear):
    """A model that says where it embeds."""

    config = CONFIGS["llama"]

    def get_input_embeddings(self) -> nn.Module:
        return self.embed


class Scaled(nn.Embedding):
    """Three times its weight, as Gemma's is a multiple."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


class Remembers(Embeds):
    """Adds the mean of all values so far."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Any = None, **_: Any
    ) -> SimpleNamespace:
        x = self.embed(input_ids)
        _, values = past_key_values.update(x[:, None], x[:, None] * 2, 0)
        return SimpleNamespace(logits=self.fc(x + values.mean(2)))


def traced(toy: Toy, adapter: Adapter) -> Program:
    return capture(toy.eval(), recipes(weights(toy)), causal=True, adapter=adapter)


def test_a_prompt_begins_as_embeddings() -> None:
    """What the layer gives for the drawn tokens, not what it stores."""
    toy = Embeds()
    toy.embed = Scaled(7, 4)
    wanted = 3 * weights(toy)["embed.weight"][draw_tokens(PROMPT, 7, PADDING)[0]]
    actual = traced(toy, PROMPT).load("prompt")
    torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


def test_a_prompt_is_put_where_tokens_are_embedded() -> None:
    """Rows are longer by it, and the scored positions are moved by it."""
    assert_golden(
        show(traced(Embeds(), Prompt(tokens=2))),
        """\
program                                  facts: sliced
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  frozen     embed.weight    f32[7, 4]
  frozen     fc.weight       f32[7, 4]
  frozen     fc.bias         f32[7]
  trainable  prompt          f32[2, 4]
body
  %0 = aten.sym_size.int(targets, 0)   : N
  %1 = aten.new_full(input_ids, [%0, 2], 2)   : i64[N, 2]
  %2 = aten.cat([%1, input_ids], 1)   : i64[N, T + 2]
  %3 = aten.new_ones(attention_mask, [%0, 2])   : i64[N, 2]
  %4 = aten.cat([%3, attention_mask], 1)   : i64[N, T + 2]
  %5 = aten.add.Tensor(positions, 2)   : i64[N, S]
  %6 = aten.slice.Tensor(%2, 1, 2, 9223372036854775807)   : i64[N, T]
  %7 = aten.embedding(embed.weight, %6)   : f32[N, T, 4]
  %8 = aten.unsqueeze(prompt, 0)   : f32[1, 2, 4]
  %9 = aten.expand(%8, [%0, 2, 4])   : f32[N, 2, 4]
  %10 = aten.cat([%9, %7], 1)   : f32[N, T + 2, 4]
  %11 = aten.linear(%10, fc.weight, fc.bias)   : f32[N, T + 2, 7]
  %12 = zofx.select_positions(%11, %5)   : f32[N, S, 7]
  %13 = zofx.score_targets(%12, targets)   : f32[N, C]
  return %13
""",
    )


def test_a_prefix_is_put_before_keys_and_values() -> None:
    """Every row sees it; the rows stay as long as they were."""
    assert_golden(
        show(traced(Remembers(), Prefix(tokens=2))),
        """\
program                                  facts: sliced
  input      input_ids       i64[N, T]
  input      attention_mask  i64[N, T]
  input      positions       i64[N, S]
  input      targets         i64[N, S, C]
  frozen     embed.weight    f32[7, 4]
  frozen     fc.weight       f32[7, 4]
  frozen     fc.bias         f32[7]
  trainable  prefix.0.key    f32[1, 2, 4]
  trainable  prefix.0.value  f32[1, 2, 4]
body
  %0 = aten.sym_size.int(targets, 0)   : N
  %1 = aten.unsqueeze(prefix.0.key, 0)   : f32[1, 1, 2, 4]
  %2 = aten.expand(%1, [%0, 1, 2, 4])   : f32[N, 1, 2, 4]
  %3 = aten.unsqueeze(prefix.0.value, 0)   : f32[1, 1, 2, 4]
  %4 = aten.expand(%3, [%0, 1, 2, 4])   : f32[N, 1, 2, 4]
  %5 = aten.new_ones(attention_mask, [%0, 2])   : i64[N, 2]
  %6 = aten.cat([%5, attention_mask], 1)   : i64[N, T + 2]
  %7 = aten.embedding(embed.weight, input_ids)   : f32[N, T, 4]
  %8 = aten.unsqueeze(%7, 1)   : f32[N, 1, T, 4]
  %9 = aten.unsqueeze(%7, 1)   : f32[N, 1, T, 4]
  %10 = aten.mul.Tensor(%9, 2)   : f32[N, 1, T, 4]
  %11 = aten.cat([%2, %8], -2)   : f32[N, 1, T + 2, 4]
  %12 = aten.cat([%4, %10], -2)   : f32[N, 1, T + 2, 4]
  %13 = aten.mean.dim(%12, [2])   : f32[N, 1, 4]
  %14 = aten.add.Tensor(%7, %13)   : f32[N, T, 4]
  %15 = aten.linear(%14, fc.weight, fc.bias)   : f32[N, T, 7]
  %16 = zofx.select_positions(%15, positions)   : f32[N, S, 7]
  %17 = zofx.score_targets(%16, targets)   : f32[N, C]
  return %17
""",
    )


STATEFUL = Lfm2Config(
    **SIZES, intermediate_size=32, num_key_value_heads=1, layer_types=["conv", "full_attention"]
)


@pytest.mark.parametrize(
    ("model", "adapter", "why"),
    [
        (build_on_meta(CONFIGS["roberta"], "masked-lm"), PREFIX, "it is a masked model"),
        (build_on_meta(STATEFUL, "causal-lm"), PREFIX, "some of its layers keep a state"),
        (OneLinear(), PREFIX, "it keeps no keys and values"),
        (OneLinear(), PROMPT, "it does not say which layer embeds its tokens"),
    ],
    ids=case_name,
)
def test_a_model_without_a_place_for_it(model: nn.Module, adapter: Adapter, why: str) -> None:
    """The error names the model, the adapter and the reason."""
    kind = f"{type(model).__name__} cannot be given a {type(adapter).__name__.lower()}"
    with pytest.raises(UnsupportedError, match=rf"{kind}\n  - {why}"):
        capture(model, recipes(weights(model)), causal="Masked" not in kind, adapter=adapter)


def test_an_adapter_by_name() -> None:
    """In its usual size; what there is none of is answered with what there is."""
    assert adapter_for("prompt") == Prompt(tokens=10)
    assert adapter_for("prefix") == Prefix(tokens=5)
    with pytest.raises(UsageError, match="there is no adapter 'lora'; there are: prompt, prefix"):
        adapter_for("lora")
    with pytest.raises(UsageError, match="at least one token"):
        Prefix(tokens=0)

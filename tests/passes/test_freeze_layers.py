"""freeze-layers: layers below the first that trains do not train, whoever chooses."""

from types import SimpleNamespace

import pytest
from torch import Tensor, nn

from tests.golden import apply, decided, with_scores
from tests.passes.toys import VOCABULARY, Blocks, OneLinear, Toy, canonical
from zofx.errors import PipelineError
from zofx.ir.pipeline import Pipeline
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.passes import PASSES

BELOW = {"embed.weight", "blocks.0.0.weight", "blocks.0.0.bias", "blocks.0.2.weight"}
ABOVE = {"blocks.1.0.weight", "blocks.1.0.bias", "blocks.1.2.weight", "head.weight"}


class TiedBlocks(Blocks):
    """The head is the embedding; a norm of one number stands before it, and before the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embed.weight
        self.first, self.last = nn.LayerNorm(4), nn.LayerNorm(4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        x = self.first(self.embed(input_ids))
        for block in self.blocks:
            x = x + block(x)
        return SimpleNamespace(logits=self.head(self.last(x)))


class Experts(Toy):
    """Numbers within numbers, and a shorter series elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in "abcd")})
            for _ in "abc"
        )
        self.head = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, VOCABULARY)])

    def logits(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for expert in layer["experts"]:  # type: ignore[index]  # torch does not say what is in it
                x = x + expert(x)
        for part in self.head:
            x = part(x)
        return x


def frozen(toy: type[nn.Module], below: int) -> Program:
    after, _ = apply(f"freeze-layers{{below={below}}}", canonical(toy))
    return after


def test_names_and_the_graph_decide() -> None:
    """Lower blocks and the embedding are fixed, upper ones and the head are not; all else stays."""
    before = canonical(Blocks)
    after, remarks = apply("freeze-layers", before)
    assert decided(after, "fixed").keys() == BELOW
    assert before.tensors.keys() - decided(after, "fixed").keys() == ABOVE
    assert list(map(str, remarks)) == ["applied  tensors   4 of 8 stay"]
    assert show(after) == show(before)


def test_a_tied_head_is_below() -> None:
    """So is a norm before the first block; the one after the last may train."""
    fixed = decided(frozen(TiedBlocks, 1), "fixed").keys()
    assert {"embed.weight", "first.weight", "first.bias"} <= fixed
    assert not fixed & {"last.weight", "last.bias", "blocks.1.0.weight"}


def test_the_longest_series_of_numbers_counts() -> None:
    """Experts have their layer's number; a numbered head comes after all layers."""
    fixed = decided(frozen(Experts, 2), "fixed").keys()
    experts = {f"layers.{layer}.experts.{e}.weight" for layer in (0, 1) for e in range(4)}
    assert fixed == {"embed.weight", *experts}


CHOICES = {
    "select-parameters, split-dense": ABOVE,
    "select-parameters, insert-low-rank{rank=1}, split-dense": ABOVE,
    "select-sensitive{fraction=0.5}, split-sparse": ABOVE - {"blocks.1.0.bias"},
    "insert-lora{rank=1 match=blocks}": {"blocks.1.0.weight", "blocks.1.2.weight"},
}


@pytest.mark.parametrize("choose", CHOICES)
def test_nobody_chooses_what_is_fixed(choose: str) -> None:
    """Whole, thin, sparse or beside it: what trains comes from above."""
    wide = with_scores(canonical(Blocks), *(n for n in BELOW | ABOVE if n.endswith("weight")))
    after, _ = apply(f"freeze-layers, {choose}", wide)
    assert {spec.origin or spec.name for spec in after.trainables} == CHOICES[choose]


@pytest.mark.parametrize("rank", ["select-sensitive{fraction=0.5}", "insert-lora{match=.}"])
def test_what_is_left_out_is_remarked(rank: str) -> None:
    """Every fixed matrix a pass would have taken, with the reason."""
    scored = with_scores(canonical(Blocks), *(n for n in ABOVE if n.endswith("weight")))
    _, remarks = apply(f"freeze-layers, {rank}", scored)
    why = "it is below the first layer that trains"
    assert {r.subject for r in remarks if r.why == why} == {
        "blocks.0.0.weight", "blocks.0.2.weight",
    }  # fmt: skip


@pytest.mark.parametrize(("toy", "below"), [(Blocks, 0), (Blocks, 2), (OneLinear, 1)])
def test_some_layers_are_on_each_side(toy: type[nn.Module], below: int) -> None:
    """None, all, or layers where there are none: refused, with how many there are."""
    count = 2 if toy is Blocks else 0
    with pytest.raises(PipelineError) as caught:
        frozen(toy, below)
    assert str(caught.value) == (
        f"freeze-layers{{below={below}}}: the model has {count} numbered layers; "
        + (f"the first to train is one from 1 to {count - 1}" if count else "it takes two or more")
    )


def test_it_needs_canonical_names() -> None:
    """The order is refused otherwise; the text reads back."""
    pipeline = Pipeline.parse("freeze-layers{below=3}", PASSES)
    assert str(pipeline) == "freeze-layers{below=3}"
    with pytest.raises(PipelineError, match="needs a program that is 'canonical'"):
        pipeline.check_order()

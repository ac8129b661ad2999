"""select-sensitive: the largest scores, against sorting all of them."""

import itertools
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.golden import apply, assert_same_meaning, batch, captured, decided, with_scores
from tests.passes.toys import OneLinear, Tied, Toy, TwoLinears
from zofx.errors import PipelineError, UsageError
from zofx.ir.printer import show
from zofx.ir.program import Program
from zofx.ir.sparse_cost import Columns, cheapest
from zofx.passes import select_sensitive

FC, HEAD = "fc.weight", "head.weight"


@pytest.fixture(scope="module")
def two() -> Program:
    """16 and 28 weights."""
    program, _ = apply("canonicalize", captured(TwoLinears()))
    return with_scores(program, FC, HEAD)


def brute_force(scores: Mapping[str, Tensor], budget: int) -> dict[str, list[int]]:
    """Sort every entry by score, then weight, then position; take the first ones."""
    entries = [
        (-value, number, place, name)
        for number, (name, score) in enumerate(scores.items())
        for place, value in enumerate(score.flatten().tolist())
    ]
    chosen: dict[str, list[int]] = {}
    for _, _, place, name in sorted(entries)[:budget]:
        chosen.setdefault(name, []).append(place)
    return {name: sorted(places) for name, places in chosen.items()}


def loaded(program: Program) -> dict[str, Tensor]:
    return {name: recipe() for name, recipe in decided(program, "scores").items()}


def chosen(program: Program) -> dict[str, list[int]]:
    assert all(index.dtype == torch.int32 for index in decided(program, "entries").values())
    return {name: index.tolist() for name, index in decided(program, "entries").items()}


@pytest.mark.parametrize("fraction", [0.03, 0.2, 0.5, 1.0])
def test_global_takes_the_largest_of_all(two: Program, fraction: float) -> None:
    """Weights compete: the same entries as sorting both matrices together."""
    after, _ = apply(f"select-sensitive{{fraction={fraction}}}", two)
    assert chosen(after) == brute_force(loaded(two), round(fraction * 44))


@pytest.mark.parametrize("budget", [0, 1, 7, 60, 300, 1000])
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_the_largest_of_many_matrices(budget: int, values: int) -> None:
    """Each is read once, and few are in memory; equal scores, of which there are many, as ever."""
    generator = torch.Generator().manual_seed(budget + values)
    scores = {
        f"w{n}": torch.randint(values, (31 + n,), generator=generator).float() for n in range(12)
    }
    read: list[str] = []

    def reader(name: str) -> Tensor:
        read.append(name)
        return scores[name]

    largest = select_sensitive._largest({name: partial(reader, name) for name in scores}, budget)
    expected = brute_force(scores, budget)
    assert {n: e.places.tolist() for n, e in largest.items() if e.places.numel()} == expected
    for name, entries in largest.items():
        assert torch.equal(entries.scores, scores[name][entries.places])
    assert read == list(scores)


@pytest.mark.parametrize("fraction", [0.07, 0.2, 1.0])
def test_matrix_takes_the_same_share_of_each(two: Program, fraction: float) -> None:
    """Each weight on its own."""
    after, _ = apply(f"select-sensitive{{fraction={fraction} scope=matrix}}", two)
    for name, score in loaded(two).items():
        alone = brute_force({name: score}, round(fraction * score.numel()))
        assert chosen(after)[name] == alone[name]


@pytest.mark.parametrize("scope", ["global", "matrix"])
def test_equal_scores_rank_by_place(two: Program, scope: str) -> None:
    """Where scores tie the choice is still one: earlier weight, earlier position."""
    steps = {
        FC: torch.arange(16).remainder(3).float().reshape(4, 4),
        HEAD: torch.arange(28).remainder(4).float().reshape(7, 4),
    }
    tied = two.choosing(
        "scores", {name: partial(torch.clone, score) for name, score in steps.items()}
    )
    after, _ = apply(f"select-sensitive{{fraction=0.25 scope={scope}}}", tied)
    if scope == "global":
        assert chosen(after) == brute_force(steps, 11)
    else:
        assert chosen(after) == brute_force({FC: steps[FC]}, 4) | brute_force(
            {HEAD: steps[HEAD]}, 7
        )


def test_many_weights_share_a_small_pool() -> None:
    """Matrices that leave the pool again and again: the same choice as sorting everything."""
    program, _ = apply("canonicalize", captured(TwoLinears()))
    random = torch.Generator().manual_seed(3)
    for _ in range(20):
        scores = {
            FC: torch.rand(4, 4, generator=random) ** 8,
            HEAD: torch.rand(7, 4, generator=random) ** 8,
        }
        scored = program.choosing("scores", {n: partial(torch.clone, s) for n, s in scores.items()})
        after, _ = apply("select-sensitive{fraction=0.05}", scored)
        assert chosen(after) == brute_force(scores, 2)


def test_remarks_name_the_share_of_each_weight(two: Program) -> None:
    """What was chosen, and that the graph is as it was."""
    after, remarks = apply("select-sensitive{fraction=0.25 scope=matrix}", two)
    assert list(map(str, remarks)) == [
        "applied  fc.weight   4 of 16 weights (25.000%)",
        "applied  head.weight   7 of 28 weights (25.000%)",
    ]
    assert show(after) == show(two).replace("canonical", "canonical, selected")
    assert_same_meaning(two, after, batch())


def test_a_weight_with_small_scores_trains_nothing(two: Program) -> None:
    """Under scope=global a matrix may get none; it is remarked and gets no index."""
    scores = {FC: lambda: torch.zeros(4, 4), HEAD: decided(two, "scores")[HEAD]}
    after, remarks = apply("select-sensitive{fraction=0.1}", two.choosing("scores", scores))
    assert set(decided(after, "entries")) == {HEAD}
    assert str(remarks[0]) == "skipped  fc.weight   none of its weights is among the chosen"


class Many(Toy):
    """Six layers of several widths."""

    def __init__(self) -> None:
        super().__init__(4)
        widths = [4, 9, 5, 12, 3, 8, 4]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)
        )

    def logits(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x


@pytest.mark.parametrize("scope", ["global", "matrix"])
@pytest.mark.parametrize("seed", range(6))
def test_cover_chooses_among_the_columns_worth_their_cost(seed: int, scope: str) -> None:
    """Those of the plain choice that `cheapest` keeps; then as ever, and no fewer."""
    program, _ = apply("canonicalize", captured(Many()))
    random = torch.Generator().manual_seed(seed)
    names = [f"layers.{i}.weight" for i in range(6)]
    scores = {
        name: torch.rand(program.tensors[name].shape, generator=random) ** 9 * 2.0 ** (-number)
        for number, name in enumerate(names)
    }
    scored = program.choosing("scores", {n: partial(torch.clone, s) for n, s in scores.items()})
    option = f"fraction=0.2 scope={scope}"
    plain, _ = apply(f"select-sensitive{{{option}}}", scored)
    after, remarks = apply(f"select-sensitive{{{option} cover=0.8}}", scored)

    columns, kept_columns = [], []
    for number, (name, index) in enumerate(decided(plain, "entries").items()):
        out, width = scores[name].shape
        inside = torch.zeros(out * width).index_fill(0, index.long(), 1).view(out, width)
        for column in range(width):
            if entries := int(inside[:, column].sum()):
                sums = (scores[name] * inside)[:, column].double().sum()
                kept_columns.append((name, column))
                columns.append((sums, entries, number, out, width))
    parts = zip(*columns, strict=True)
    kept = cheapest(Columns(*(torch.tensor(part) for part in parts)), 0.8)
    assert kept.any()
    assert not kept.all()
    among = {name: torch.full_like(score, -1) for name, score in scores.items()}
    for (name, column), stays in zip(kept_columns, kept.tolist(), strict=True):
        if stays:
            among[name][:, column] = scores[name][:, column]
    room = {name: int((score >= 0).sum()) for name, score in among.items()}
    if scope == "global":
        wanted = brute_force(among, round(0.2 * sum(s.numel() for s in scores.values())))
    else:
        shares = {n: min(room[n], round(0.2 * s.numel())) for n, s in among.items()}
        wanted = {n: p for n in among for p in brute_force({n: among[n]}, shares[n]).values()}
    assert chosen(after) == wanted
    dropped = {str(r).split()[1] for r in remarks if "not worth its product" in str(r)}
    assert dropped == {name for name in decided(plain, "entries") if not room[name]}


def test_a_tied_weight_is_never_chosen() -> None:
    """Training it would train the embedding; a weight without scores is left out as well."""
    program, _ = apply("canonicalize", captured(Tied()))
    scored = with_scores(program, FC, "embed.weight")
    after, remarks = apply("select-sensitive{fraction=0.5}", scored)
    assert list(map(str, remarks)) == [
        "skipped  embed.weight   also used by aten.embedding.default: it stays whole",
        "applied  fc.weight   8 of 16 weights (50.000%)",
    ]
    assert set(decided(after, "entries")) == {FC}


def test_a_weight_without_scores_is_left_out(two: Program) -> None:
    """A partial file selects from what it has."""
    after, remarks = apply(
        "select-sensitive{fraction=0.5}", two.choosing("scores", {FC: decided(two, "scores")[FC]})
    )
    assert set(decided(after, "entries")) == {FC}
    assert str(remarks[0]) == "skipped  head.weight   no sensitivity scores for it"


def test_a_weight_too_large_for_int32_is_left_out() -> None:
    """2³¹ + 2¹⁶ entries; only shapes are needed to see that."""

    class Huge(OneLinear):
        def __init__(self) -> None:
            with torch.device("meta"):
                super().__init__(width=2**16)
                self.fc = torch.nn.Linear(2**16, 2**15 + 1)

    from zofx.models.capture import capture

    model = Huge().eval()
    recipes = {name: partial(torch.empty, 0) for name, _ in model.named_parameters()}
    program, _ = apply("canonicalize", capture(model, recipes, causal=True))
    with pytest.raises(UsageError, match="needs sensitivity scores"):
        apply("select-sensitive", program.choosing("scores", {FC: lambda: torch.empty(0)}))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("fraction=0", "select-sensitive{fraction=0.0}: fraction must be in (0, 1]"),
        ("fraction=1.5", "select-sensitive{fraction=1.5}: fraction must be in (0, 1]"),
        ("fraction=nan", "select-sensitive{fraction=nan}: fraction must be in (0, 1]"),
        ("fraction=few", "select-sensitive{fraction=few}: must be of type float"),
        ("scope=row", "select-sensitive{scope=row}: must be one of global, matrix"),
        ("cover=0", "select-sensitive{cover=0.0}: cover must be in (0, 1]; 1 keeps every matrix"),
        (
            "share=1",
            "select-sensitive has no option 'share'; it has ['cover', 'fraction', 'scope']",
        ),
    ],
)
def test_options_out_of_range(two: Program, option: str, message: str) -> None:
    """A wrong option stops before anything runs."""
    with pytest.raises(PipelineError) as caught:
        apply(f"select-sensitive{{{option}}}", two)
    assert str(caught.value) == message


def test_a_fraction_that_rounds_to_none(two: Program) -> None:
    """The user's fraction, not a bug of the pass."""
    with pytest.raises(UsageError) as caught:
        apply("select-sensitive{fraction=0.01}", two)
    assert str(caught.value) == (
        "select-sensitive{fraction=0.01}: that fraction of 44 weights rounds to none, and nothing "
        "would train; take a larger one"
    )


def test_scores_of_another_shape(two: Program) -> None:
    """They were made for another model."""
    with pytest.raises(UsageError, match=r"'fc.weight' have 9 entries and the weight has 16"):
        apply("select-sensitive", two.choosing("scores", {FC: lambda: torch.ones(3, 3)}))

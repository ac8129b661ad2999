"""The columns that are worth their cost, against every choice there is."""

import itertools

import pytest
import torch

from zofx.ir.sparse_cost import BLOCK_COST, PICKED, SCATTERED, Columns, cheapest

SIZES = [(3, 4), (500, 40), (60, 9)]
"""Rows and columns of three matrices, with columns of which scores are made up."""


def made_up(seed: int) -> Columns:
    """Nine columns, of all sizes of sensitivity; in a few of them most of their rows."""
    random = torch.Generator().manual_seed(seed)
    matrix = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2])
    out, width = (torch.tensor([size[axis] for size in SIZES])[matrix] for axis in (0, 1))
    score = torch.rand(9, generator=random, dtype=torch.float64) ** 6
    entries = 1 + (torch.rand(9, generator=random) ** 4 * out).long().clamp(max=out - 1)
    return Columns(score, entries, matrix, out, width)


def cost(columns: Columns, kept: torch.Tensor) -> float:
    """As the module's equation has it."""
    total = 0.0
    for number, (out, width) in enumerate(SIZES):
        own = kept & (columns.matrix == number)
        if own.any():
            block = int(own.sum()) * (out * BLOCK_COST + PICKED)
            single = (width + out + int(columns.entries[own].sum())) * SCATTERED
            total += out + min(block, single)
    return total


@pytest.mark.parametrize("cover", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_holds_as_much_costs_less(seed: int, cover: float) -> None:
    """Of all 512 choices; what is kept holds its share, and has room for as many entries."""
    columns = made_up(seed)
    kept = cheapest(columns, cover)
    score = columns.score[kept].sum()
    assert score >= cover * columns.score.sum()
    assert columns.out[kept].sum() >= columns.entries.sum()
    for bits in itertools.product((False, True), repeat=len(kept)):
        other = torch.tensor(bits)
        if columns.score[other].sum() >= score:
            assert cost(columns, other) >= cost(columns, kept) * (1 - 1e-12)


def test_a_larger_share_keeps_more() -> None:
    """At least the share is kept, and all of it where all is asked for."""
    columns = made_up(3)
    shares = [columns.score[cheapest(columns, cover)].sum() for cover in (0.2, 0.5, 0.9, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] == columns.score.sum()


def test_room_for_as_many_entries_is_kept() -> None:
    """One column holds nearly everything, and three entries do not fit into its two rows."""
    score = torch.tensor([0.97, 0.02, 0.01], dtype=torch.float64)
    two = torch.full((3,), 2)
    columns = Columns(score, torch.ones(3).long(), torch.zeros(3).long(), two, two + 8)
    assert cheapest(columns, 0.9).tolist() == [True, True, False]


def test_columns_that_hold_nothing_are_kept_where_room_is_short() -> None:
    """Scores may be zero: then no price keeps them, and all stay."""
    score = torch.tensor([1.0, 0.0], dtype=torch.float64)
    one = torch.ones(2).long()
    assert cheapest(Columns(score, one, one * 0, one, one * 4), 0.5).tolist() == [True, True]

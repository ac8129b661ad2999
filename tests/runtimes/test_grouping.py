"""Groups of rows: every row once, nothing of it lost, at the least cost, and the same scores."""

from contextlib import closing
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.artifacts import Case, Family, made_up_scores
from tests.loads import LOADS, Load, batch
from tests.runtimes import reference
from zofx.checkpoint import open_checkpoint
from zofx.compile import compile_model
from zofx.methods import METHODS
from zofx.runtime import IGNORED, Batch, Session
from zofx.runtimes import RUNTIMES, engine
from zofx.runtimes.grouping import (
    FORWARD,
    MULTIPLE,
    PERTURBING,
    SPILL,
    Prices,
    by_length,
    overhead,
)  # fmt: skip
from zofx.zo.types import IntArray

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=7)


def ragged(lengths: list[int], longest: int = 40, scored: list[int] | None = None) -> Batch:
    """Rows of so many tokens, padded on the right; the last token is scored, or several."""
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.arange(mask.size).reshape(mask.shape) * mask
    counts = np.array(scored or [1] * len(lengths))
    used = np.arange(counts.max()) < counts[:, None]
    positions = np.where(used, np.array(lengths)[:, None] - 1, 0)
    return Batch(ids, mask, positions, np.where(used, positions, IGNORED)[:, :, None])


@dataclass(frozen=True)
class Rows:
    """Rows as they are paid for: tokens and scored positions of each, prices of a forward."""

    lengths: list[int]
    scored: list[int]
    prices: Prices

    def cost(self, groups: list[list[int]]) -> float:
        """Of all forwards."""
        return sum(map(self.forward, groups))

    def forward(self, group: list[int]) -> float:
        """Every row is as long as the longest, and has as many scored as the one with most."""
        tokens = len(group) * max(-(-self.lengths[i] // MULTIPLE) * MULTIPLE for i in group)
        scored = len(group) * max(self.scored[i] for i in group)
        price = self.prices
        return tokens + price.head * scored + price.spill * tokens**2 + price.forward


def cheapest(rows: Rows) -> float:
    """By trying every cut of the sorted rows."""
    lengths = [-(-n // MULTIPLE) * MULTIPLE for n in rows.lengths]
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], rows.scored[i]))
    inner = range(1, len(order))
    cuts = [c for size in range(len(order)) for c in combinations(inner, size)]
    edges = [(0, *cut, len(order)) for cut in cuts]
    return min(rows.cost([order[a:b] for a, b in pairwise(e)]) for e in edges)


@given(
    LENGTHS, st.lists(st.integers(1, 4), min_size=7, max_size=7),
    st.sampled_from([0.0, 5.0, 32.0, 200.0]), st.sampled_from([0.0, 1.0, 9.0]),
    st.sampled_from([0.0, 0.001, 0.1]),
)  # fmt: skip
def test_every_row_is_in_one_group_whole_and_no_cut_is_cheaper(
    lengths: list[int], scored: list[int], forward: float, head: float, spill: float
) -> None:
    """What is cut off is padding alone, of tokens and of scored positions."""
    paid = Rows(lengths, scored[: len(lengths)], Prices(forward, head, spill))
    whole = ragged(lengths, scored=paid.scored)
    groups = list(by_length(whole, paid.prices))
    assert sorted(np.concatenate([rows for rows, _ in groups]).tolist()) == [*range(len(lengths))]
    for rows, part in groups:
        kept = part.input_ids.shape[1]
        np.testing.assert_array_equal(part.input_ids, whole.input_ids[rows, :kept])
        np.testing.assert_array_equal(part.attention_mask, whole.attention_mask[rows, :kept])
        places = part.positions.shape[1]
        assert places == max(paid.scored[row] for row in rows)
        np.testing.assert_array_equal(part.positions, whole.positions[rows, :places])
        np.testing.assert_array_equal(part.targets, whole.targets[rows, :places])
        assert (whole.targets[rows, places:] == IGNORED).all()
        assert not whole.attention_mask[rows, kept:].any()
        assert (part.positions < kept).all()
    found = paid.cost([rows.tolist() for rows, _ in groups])
    assert found == pytest.approx(cheapest(paid))


def test_padding_on_the_left_stays() -> None:
    """A row ends at its last token, wherever it begins; also at a scored position beyond that."""
    mask = np.zeros((2, 24), np.int64)
    mask[0, 20:], mask[1, :3] = 1, 1
    scored = np.array([[23], [9]])
    groups = list(by_length(Batch(mask, mask, scored, scored[..., None]), Prices(0)))
    assert [(rows.tolist(), part.input_ids.shape[1]) for rows, part in groups] == [
        ([0], 24),
        ([1], 16),
    ]


def test_what_a_forward_costs() -> None:
    """More, where every forward makes the weights of its probes."""
    assert overhead(0, 100) == FORWARD
    assert overhead(100, 0) == FORWARD + PERTURBING
    assert overhead(0, 0) == FORWARD


@pytest.mark.parametrize("padding", ["right", "left"])
def test_scores_are_the_same_in_groups(
    session: Session, family: Family, case: Case, padding: str
) -> None:
    """Within the bound of any forward, and in the order of the rows."""
    asked = Load("ragged", batch(6, 24, 1, 3, padding), np.array([[0.02], [-0.02]], np.float32))
    wanted, bound = reference.evaluate(family.artifact(case), asked.batch, asked.keys, asked.matrix)
    with mock.patch.object(session, "_prices", Prices(0.0)):
        assert len(list(by_length(asked.batch, Prices(0.0)))) == (2 if padding == "right" else 1)
        assert (np.abs(asked.on(session) - wanted) <= bound).all()


def rows_of(groups: list[tuple[IntArray, Batch]]) -> list[list[int]]:
    """Their numbers."""
    return [rows.tolist() for rows, _ in groups]


def test_equal_rows_are_one_forward() -> None:
    """Also when a forward costs next to nothing; and a batch of one row is one."""
    assert rows_of(list(by_length(ragged([9, 16, 12]), Prices(1.0)))) == [[0, 1, 2]]
    assert rows_of(list(by_length(ragged([9]), Prices(0.0)))) == [[0]]


def test_equal_rows_are_split_where_values_leave_the_caches() -> None:
    """8 rows of 16 cost 128 + 128²/128 + 40 = 296 in one forward, 2·(64 + 64²/128 + 40) in two."""
    groups = rows_of(list(by_length(ragged([16] * 8), Prices(40.0, spill=1 / 128))))
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(("activations", "spill"), [("none", 0.0), ("int8", SPILL)])
def test_rounded_programs_are_split_for_the_caches(
    tmp_path: Path, family: Family, activations: str, spill: float
) -> None:
    """By how many probes there are: each has its values. On PyTorch none is."""
    case = Case("tiny_llama", "int8-row", "gaussian")
    checkpoint = open_checkpoint(str(family.checkpoint(case)))
    options = replace(case.options, activations=activations)
    compile_model(
        checkpoint, METHODS["senszoq"], tmp_path / "art",
        scores=made_up_scores(checkpoint), options=options,
    )  # fmt: skip
    for name, price in (("ort", spill), ("torch", 0.0)):
        with (
            closing(RUNTIMES[name].load(tmp_path / "art", threads=1)) as opened,
            mock.patch.object(engine, "by_length", wraps=by_length) as cut,
        ):
            for load in LOADS:
                load.on(opened)
        asked = [call.args[1].spill for call in cut.call_args_list]
        assert asked == [price * len(load.matrix) for load in LOADS]

"""Groups of rows: every row once, nothing of it lost, at the least cost, and the same scores."""

import os
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, combinations, pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.artifacts import Case, Family, made_up_scores
from tests.loads import LOADS, Load, batch
from tests.runtimes import reference
from zofx.artifact.layout import GRAPH
from zofx.artifact.manifest import read_manifest
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.ir.graph_json import load_graph
from zofx.ir.requirements import products_of
from zofx.ir.schema import Products
from zofx.models.checkpoint import open_checkpoint
from zofx.runtimes import RUNTIMES, ort
from zofx.runtimes.host import batching, engine_session
from zofx.runtimes.host.batching import (
    CACHE_PENALTY,
    FORWARD,
    PERTURBING,
    BatchingPolicy,
    CostModel,
    by_length,
    cpu_batching_policy,
)
from zofx.runtimes.host.engine_session import Feeds
from zofx.session import IGNORED, MULTIPLE, Batch, Session
from zofx.zo.types import FloatArray, IntArray

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
    """Rows as they are paid for: tokens and scored positions of each, cost_model of a forward."""

    lengths: list[int]
    scored: list[int]
    cost_model: CostModel

    def cost(self, groups: list[list[int]]) -> float:
        """Of all forwards."""
        return sum(map(self.forward, groups))

    def forward(self, group: list[int]) -> float:
        """Every row is as long as the longest, and has as many scored as the one with most."""
        tokens = len(group) * max(-(-self.lengths[i] // MULTIPLE) * MULTIPLE for i in group)
        scored = len(group) * max(self.scored[i] for i in group)
        price = self.cost_model
        return tokens + price.head * scored + price.cache_penalty * tokens**2 + price.forward


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
    lengths: list[int], scored: list[int], forward: float, head: float, cache_penalty: float
) -> None:
    """What is cut off is padding alone, of tokens and of scored positions."""
    paid = Rows(lengths, scored[: len(lengths)], CostModel(forward, head, cache_penalty))
    whole = ragged(lengths, scored=paid.scored)
    groups = list(by_length(whole, paid.cost_model))
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
    cost = paid.cost([rows.tolist() for rows, _ in groups])
    assert cost == pytest.approx(cheapest(paid))


def until_done(costs: list[float], workers: int) -> float:
    """The costliest first, each in the worker that is free first."""
    free = [0.0] * workers
    for cost in sorted(costs, reverse=True):
        free[free.index(min(free))] += cost
    return max(free)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from([2, 3]),
    st.sampled_from([0.0, 16.0, 200.0]), st.sampled_from([0.0, 0.01]),
)  # fmt: skip
def test_lanes_are_done_as_soon_as_under_the_best_cap(
    lengths: list[int], workers: int, forward: float, cache_penalty: float
) -> None:
    """For every number of groups, the least that the largest can cost; of the cuts with no group
    above that, the cheapest; of these, the one that is done first."""
    paid = Rows(
        lengths,
        [1] * len(lengths),
        CostModel(forward, cache_penalty=cache_penalty, workers=workers),
    )
    order = sorted(range(len(lengths)), key=lambda i: -(-lengths[i] // MULTIPLE))
    inner = range(1, len(order))
    cuts = [c for size in range(len(order)) for c in combinations(inner, size)]
    priced = [
        [paid.forward(order[a:b]) for a, b in pairwise((0, *cut, len(order)))] for cut in cuts
    ]
    times = []
    for count in range(1, len(order) + 1):
        cap = min(max(costs) for costs in priced if len(costs) == count)
        least = min(sum(costs) for costs in priced if max(costs) <= cap)
        times.append(
            {until_done(c, workers) for c in priced if max(c) <= cap and sum(c) <= least + 1e-9}
        )
    groups = [rows.tolist() for rows, _ in by_length(ragged(lengths), paid.cost_model)]
    costs = [paid.forward(group) for group in groups]
    assert costs == sorted(costs, reverse=True)
    assert sorted(chain(*groups)) == [*range(len(lengths))]
    seconds = until_done(costs, workers)
    assert min(map(min, times)) - 1e-9 <= seconds <= min(map(max, times)) + 1e-9


def test_padding_on_the_left_stays() -> None:
    """A row ends at its last token, wherever it begins; also at a scored position beyond that."""
    mask = np.zeros((2, 24), np.int64)
    mask[0, 20:], mask[1, :3] = 1, 1
    scored = np.array([[23], [9]])
    groups = list(by_length(Batch(mask, mask, scored, scored[..., None]), CostModel(0)))
    assert [(rows.tolist(), part.input_ids.shape[1]) for rows, part in groups] == [
        ([0], 24),
        ([1], 16),
    ]


def test_what_a_forward_costs() -> None:
    """More, where every forward makes the weights of its probes."""
    assert BatchingPolicy().cost_model(0, 100, 2) == CostModel(FORWARD)
    assert BatchingPolicy().cost_model(100, 0, 2) == CostModel(FORWARD + PERTURBING)
    assert BatchingPolicy().cost_model(0, 0, 2, 9.0) == CostModel(FORWARD, 9.0)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_scores_are_the_same_in_groups(
    session: Session, family: Family, case: Case, padding: str
) -> None:
    """Within the bound of any forward, and in the order of the rows."""
    asked = Load("ragged", batch(6, 24, 1, 3, padding), np.array([[0.02], [-0.02]], np.float32))
    wanted, bound = reference.evaluate(family.artifact(case), asked.batch, asked.keys, asked.matrix)
    with mock.patch.multiple(batching, FORWARD=0.0, PERTURBING=0.0):
        assert len(list(by_length(asked.batch, CostModel(0.0)))) == (2 if padding == "right" else 1)
        assert (np.abs(asked.on(session) - wanted) <= bound).all()


def rows_of(groups: list[tuple[IntArray, Batch]]) -> list[list[int]]:
    """Their numbers."""
    return [rows.tolist() for rows, _ in groups]


def test_equal_rows_are_one_forward() -> None:
    """Also when a forward costs next to nothing; and a batch of one row is one."""
    assert rows_of(list(by_length(ragged([9, 16, 12]), CostModel(1.0)))) == [[0, 1, 2]]
    assert rows_of(list(by_length(ragged([9]), CostModel(0.0)))) == [[0]]


def test_equal_rows_are_split_where_values_leave_the_caches() -> None:
    """8 rows of 16 cost 128 + 128²/128 + 40 = 296 in one forward, 2·(64 + 64²/128 + 40) in two."""
    groups = rows_of(list(by_length(ragged([16] * 8), CostModel(40.0, cache_penalty=1 / 128))))
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7]]


def rounded(family: Family, case: Case, folder: Path, activations: str = "int8") -> Path:
    """The artifact of a case, its activations rounded."""
    checkpoint = open_checkpoint(str(family.checkpoint(case)))
    options = replace(case.options, activations=activations)
    scores = made_up_scores(checkpoint)
    compile_model(checkpoint, METHODS["senszoq"], folder, scores=scores, options=options)
    return folder


@pytest.mark.parametrize("activations", ["none", "int8"])
def test_programs_are_split_for_the_caches(
    tmp_path: Path, family: Family, activations: str
) -> None:
    """By how many probes there are: each has its values. On PyTorch none is split."""
    case = Case("tiny_llama", "int8-row", "gaussian")
    folder = rounded(family, case, tmp_path / "art", activations)
    for name, price in (("ort", CACHE_PENALTY), ("torch", 0.0)):
        with (
            closing(RUNTIMES[name].load(folder, threads=1)) as opened,
            mock.patch.object(engine_session, "by_length", wraps=by_length) as cut,
        ):
            for load in LOADS:
                load.on(opened)
        asked = [call.args[1].cache_penalty for call in cut.call_args_list]
        assert asked == [price * len(load.matrix) for load in LOADS]


def test_lanes_have_enough_rows_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four; where threads are not given, all processors count. No workers for floats, or at a
    cut."""
    for products in Products:
        policies = [cpu_batching_policy(products, False, rows, 2) for rows in (1, 7, 8, 64)]
        most = 1 if products is Products.FLOATS else 2
        assert policies == [
            BatchingPolicy(CACHE_PENALTY, workers) for workers in (1, 1, most, most)
        ]
        assert cpu_batching_policy(products, True, 64, 2) == BatchingPolicy(CACHE_PENALTY)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    policies = [cpu_batching_policy(Products.INTEGERS, False, rows, None) for rows in (11, 12)]
    assert [batching.workers for batching in policies] == [1, 3]


def test_a_lane_shares_caches_and_the_way_to_the_weights() -> None:
    """So a position beside it costs as many times as much, and a forward as much less."""
    assert BatchingPolicy(1e-4, 4).cost_model(0, 100, 3) == CostModel(
        FORWARD / 4, 0.0, 3 * 1e-4 * 4, 4
    )


@pytest.mark.parametrize("quant", ["none", "nf4", "int4", "int8", "int8-row", "codebook", "qzo"])
def test_products_are_known_with_and_without_a_file(
    quant: str, tmp_path: Path, family: Family
) -> None:
    """What the manifest tells an engine is what `zofx plan` reads off the program.

    Codes whose scales train are no operand of a product: each probe has a matrix of floats.
    """
    case = Case("tiny_llama", "int8-row", "gaussian")
    if quant == "int8-row":
        folder, wanted = rounded(family, case, tmp_path / "art"), Products.INTEGERS
    elif quant == "qzo":
        folder, wanted = tmp_path / "art", Products.FLOATS
        compile_model(open_checkpoint(str(family.checkpoint(case))), METHODS["qzo"], folder)
    else:
        folder = family.artifact(replace(case, quant=quant))
        wanted = Products.NIBBLES if quant == "int4" else Products.FLOATS
    assert read_manifest(folder).products is wanted
    assert products_of(load_graph(folder / GRAPH)) is wanted


@pytest.mark.parametrize("quant", ["int8-row", "int4"])
def test_lanes_do_forwards_at_a_time(quant: str, tmp_path: Path, family: Family) -> None:
    """Scores are those of one worker, within the bound of both; products of floats have one
    worker."""
    case = Case("tiny_llama", quant, "gaussian")
    folder = family.artifact(case) if quant == "int4" else rounded(family, case, tmp_path / "art")
    asked = Load("ragged", batch(9, 24, 1, 3, "right"), np.array([[0.02], [-0.02]], np.float32))
    wanted, bound = reference.evaluate(folder, asked.batch, asked.keys, asked.matrix)
    both = threading.Barrier(2, timeout=600)
    with closing(ort.RUNTIME.load(folder, threads=2, rows=8)) as opened:
        forward, waited = opened._forward, []

        def together(feeds: Feeds) -> FloatArray:
            if len(waited) < 2:
                waited.append(both.wait())  # broken, if no other forward begins
            return forward(feeds)

        with mock.patch.object(opened, "_forward", together):
            assert (np.abs(asked.on(opened) - wanted) <= bound).all()
        assert sorted(waited) == [0, 1]
    floats = family.artifact(replace(case, quant="int8"))
    for other, rows in ((folder, 7), (floats, 8)):
        with closing(ort.RUNTIME.load(other, threads=2, rows=rows)) as opened:
            assert (opened.batching.workers, opened._threads) == (1, 2)

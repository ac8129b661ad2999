"""Bases of low-rank trainables: drawn from a key, folded without a change of meaning."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from zofx.zo.random import low_rank_bases
from zofx.zo.random.direction_spec import Basis, Noise
from zofx.zo.random.low_rank_bases import (
    carried,
    fold,
    orthonormal_rows,
    overlaps,
    product,
    refresh,
    tree_sum,
)
from zofx.zo.random.noise import Stream, sample
from zofx.zo.types import FloatArray, Key

UNIT = 2.0**-24  # round-off of f32
ROWS, COLUMNS, RANK = 11, 7, 3
KEY = Key(seed=5, step=40)
ONE = Basis("a.right", "a", gain=0.3)
TWO = Basis("a.right", "a", "a.left", gain=0.3)
each_basis = pytest.mark.parametrize("basis", [ONE, TWO], ids=["one-sided", "two-sided"])
DoubleArray = NDArray[np.float64]


def values_of(basis: Basis) -> dict[str, FloatArray]:
    """A base that rounds, and factors still to be drawn."""
    values = {
        "a": sample("gaussian", Key(1, 1), "a", (ROWS, COLUMNS)),
        "a.slice": np.zeros((RANK if basis.left else ROWS, RANK), np.float32),
        "a.right": np.zeros((RANK, COLUMNS), np.float32),
    }
    return values | ({"a.left": np.zeros((ROWS, RANK), np.float32)} if basis.left else {})


def learnt(basis: Basis) -> dict[str, FloatArray]:
    """Some steps after a refresh."""
    values = values_of(basis)
    refresh(values, Noise("gaussian", bases={"a.slice": basis}), KEY)
    values["a.slice"][...] = sample("gaussian", Key(2, 2), "learnt", values["a.slice"].shape)
    return values


def meaning(values: Mapping[str, FloatArray], basis: Basis, sizes: bool = False) -> DoubleArray:
    """W(θ) in float64; with `sizes`, the sum of the magnitudes of its terms."""
    parts = {name: np.abs(v) if sizes else v for name, v in values.items()}
    wide = {name: v.astype(np.float64) for name, v in parts.items()}
    thin = wide["a.slice"] if basis.left is None else wide[basis.left] @ wide["a.slice"]
    weight: DoubleArray = wide["a"] + basis.gain * thin @ wide["a.right"]
    return weight


@each_basis
def test_a_refresh_keeps_what_was_learnt(basis: Basis) -> None:
    """W(θ) stays, up to a rounding per product and per sum: γ · Σ|terms|."""
    values = learnt(basis)
    before, sizes = meaning(values, basis), meaning(values, basis, sizes=True)
    refresh(values, Noise("gaussian", bases={"a.slice": basis}), Key(5, 90))
    assert not values["a.slice"].any()
    roundings = 2 + 2 * RANK * (2 if basis.left else 1)
    error = np.abs(values["a"] - before)
    assert (error <= roundings * UNIT / (1 - roundings * UNIT) * sizes).all()
    assert error.max() > 0  # the bound is of roundings that happen


@each_basis
def test_folding_nothing_changes_no_bit(basis: Basis) -> None:
    """A trainable of zeros adds zeros; before the first refresh there is no basis at all."""
    values = learnt(basis)
    values["a.slice"][...] = 0
    before = values["a"].copy()
    fold(values, "a.slice", basis)
    np.testing.assert_array_equal(values["a"].view(np.uint32), before.view(np.uint32))


@each_basis
def test_a_refresh_with_nothing_learnt_keeps_the_sign_of_zero(basis: Basis) -> None:
    """A trial run begins at the bits of the artifact, and leaves the run to begin there too."""
    values = values_of(basis)
    values["a"][2:5] = -0.0
    before = values["a"].copy()
    for key in (KEY, KEY, Key(5, 90)):
        refresh(values, Noise("gaussian", bases={"a.slice": basis}), key)
        np.testing.assert_array_equal(values["a"].view(np.uint32), before.view(np.uint32))


@each_basis
@pytest.mark.parametrize("orthonormal", [False, True])
def test_a_basis_is_a_function_of_its_key(basis: Basis, orthonormal: bool) -> None:
    """Streams V and U of the trainable's name; whatever was there before."""
    basis = Basis(basis.right, basis.base, basis.left, basis.gain, orthonormal)
    noise = Noise("rademacher", bases={"a.slice": basis})
    values, others = learnt(basis), values_of(basis)
    for each in (values, others):
        refresh(each, noise, Key(5, 90))
    right = sample("gaussian", Key(5, 90), "a.slice", (RANK, COLUMNS), Stream.V)
    left = sample("gaussian", Key(5, 90), "a.slice", (RANK, ROWS), Stream.U)
    if orthonormal:
        right, left = orthonormal_rows(right), orthonormal_rows(left)
    for each in (values, others):
        np.testing.assert_array_equal(each["a.right"], right)
        if basis.left:
            np.testing.assert_array_equal(each["a.left"], left.T)
    refresh(others, noise, Key(5, 91))
    assert not np.any(others["a.right"] == right)


def test_a_basis_that_stays_is_not_refreshed() -> None:
    """Adapters beside a frozen matrix: nothing to fold into, nothing drawn anew."""
    basis = Basis("a.right", gain=0.3)
    values = {"a.slice": np.ones((4, 2), np.float32), "a.right": np.ones((2, 3), np.float32)}
    refresh(values, Noise("gaussian", bases={"a.slice": basis}), KEY)
    assert all((value == 1).all() for value in values.values())


@each_basis
def test_the_size_of_a_chunk_does_not_show(basis: Basis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base folded three rows at a time has the bits of one folded whole."""
    whole, parts = learnt(basis), learnt(basis)
    fold(whole, "a.slice", basis)
    monkeypatch.setattr(low_rank_bases, "CHUNK_ROWS", 3)
    fold(parts, "a.slice", basis)
    np.testing.assert_array_equal(whole["a"], parts["a"])


GOLDEN = [
    "ef056ef96c4354c1", "45df23cc8a0019e4", "94f05d0cc8c5053b", "e592db97e8f129f5",
]  # fmt: skip


def test_bytes_are_the_same_on_every_machine() -> None:
    """Digests of what a refresh draws and folds: IEEE arithmetic in a fixed order."""
    values = learnt(TWO)
    refresh(values, Noise("gaussian", bases={"a.slice": TWO}), Key(5, 90))
    orthonormal = orthonormal_rows(sample("gaussian", KEY, "a", (8, 300)))
    tables = [values["a"], values["a.left"], values["a.right"], orthonormal]
    assert [hashlib.sha256(v.astype("<f4").tobytes()).hexdigest()[:16] for v in tables] == GOLDEN


def hilbert() -> FloatArray:
    """The worst of matrices, 360,360 / (i + j + 1): whole numbers, of condition 1.5e10."""
    i, j = np.indices((8, 8))
    return (360_360 / (i + j + 1)).astype(np.float32)


@pytest.mark.parametrize(
    "rows",
    [
        sample("gaussian", KEY, "w", (8, 300)),
        sample("gaussian", KEY, "w", (5, 5)),
        sample("gaussian", KEY, "w", (1, 4096)),
        hilbert(),
    ],
    ids=["wide", "square", "one", "nearly dependent"],
)
def test_rows_are_orthonormal_and_span_the_same(rows: FloatArray) -> None:
    """⟨q_i, q_j⟩ = [i = j] up to the roundings of both to f32: 2u, as Σ|q_i||q_j| ≤ 1."""
    q = orthonormal_rows(rows).astype(np.float64)
    assert np.abs(q @ q.T - np.eye(len(q))).max() <= 2.01 * UNIT
    # Row i is a combination of q_0 … q_i: what is left over of it is round-off of its length.
    coordinates = rows.astype(np.float64) @ q.T
    length = np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    assert (np.abs(np.triu(coordinates, 1)) <= 2 * len(q) * UNIT * length).all()
    assert (np.abs(coordinates @ q - rows) <= 2 * len(q) * UNIT * length).all()


def test_a_basis_is_given_back_as_new_memory() -> None:
    """What is made orthonormal is not written to."""
    rows = sample("gaussian", KEY, "w", (3, 9))
    rows.setflags(write=False)
    assert orthonormal_rows(rows).dtype == np.float32


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000])
def test_tree_sum(length: int) -> None:
    """Whole numbers add up exactly; other axes make no difference to the order."""
    whole = np.arange(3 * length, dtype=np.float64).reshape(3, length)
    np.testing.assert_array_equal(tree_sum(whole), whole.sum(-1))
    rough = sample("gaussian", KEY, "w", (3, length)).astype(np.float64) / 3
    np.testing.assert_array_equal(tree_sum(rough), [tree_sum(row) for row in rough])
    depth = np.ceil(np.log2(length)) + 1
    assert (np.abs(tree_sum(rough) - rough.sum(-1)) <= length * depth * 2e-16).all()


def test_product_sums_in_order() -> None:
    """Each product and each sum is rounded, the first first."""
    a = sample("gaussian", KEY, "a", (4, 3))
    b = sample("gaussian", KEY, "b", (3, 5))
    expected = np.zeros((4, 5), np.float32)
    for i, j in np.ndindex(4, 5):
        for k in range(3):
            expected[i, j] = np.float32(expected[i, j] + np.float32(a[i, k] * b[k, j]))
    np.testing.assert_array_equal(product(a, b), expected)


def test_overlaps_are_products_of_rows() -> None:
    """In float64, rounded once; of normals, over their number."""
    one, other = (sample("gaussian", KEY, name, (3, 50)) for name in "ab")
    exact = one.astype(np.float64) @ other.astype(np.float64).T
    sizes = np.abs(one).astype(np.float64) @ np.abs(other).astype(np.float64).T
    for orthonormal, wanted in ((True, exact), (False, exact / 50)):
        actual = overlaps(one, other, orthonormal)
        assert (np.abs(actual - wanted) <= UNIT * np.abs(wanted) + 100 * 2.0**-53 * sizes).all()


@each_basis
def test_coordinates_are_carried_to_a_rotated_basis(basis: Basis) -> None:
    """left · A · right is the same matrix when orthonormal factors turn within their span."""
    basis = Basis(basis.right, basis.base, basis.left, orthonormal=True)
    old = {
        "a.right": orthonormal_rows(sample("gaussian", KEY, "v", (RANK, COLUMNS))),
        "a.left": orthonormal_rows(sample("gaussian", KEY, "u", (RANK, ROWS))).T,
    }
    turn = orthonormal_rows(sample("gaussian", KEY, "turn", (RANK, RANK)))
    new = {"a.right": turn @ old["a.right"], "a.left": old["a.left"] @ turn}
    coordinates = sample("gaussian", KEY, "a", (RANK if basis.left else ROWS, RANK))
    read = carried(coordinates, basis, old, new)

    def matrix(values: FloatArray, factors: Mapping[str, FloatArray]) -> DoubleArray:
        wide = values.astype(np.float64) @ factors["a.right"]
        return factors["a.left"] @ wide if basis.left else wide

    size = np.linalg.norm(coordinates)
    assert np.abs(matrix(read, new) - matrix(coordinates, old)).max() <= 20 * RANK * UNIT * size
    assert np.abs(read - coordinates).max() > 0.1


def test_coordinates_in_normals_are_those_of_least_squares() -> None:
    """A′ right′ is the projection of A right onto the rows of right′, up to their 1/√n."""
    basis, width = Basis("v", "a"), 40_000
    old = {"v": sample("gaussian", Key(1, 0), "a", (2, width))}
    half = np.float32(np.sqrt(0.5))
    new = {"v": half * (old["v"] + sample("gaussian", Key(2, 0), "a", (2, width)))}
    coordinates = sample("gaussian", KEY, "a", (5, 2))
    read = carried(coordinates, basis, old, new)
    best = coordinates @ old["v"].astype(np.float64) @ np.linalg.pinv(new["v"].astype(np.float64))
    # new · newᵀ / n is I + E, and an entry of E has a deviation of √(2 / n) at most.
    spread = 5 * np.sqrt(2 / width)
    assert np.abs(read - best).max() <= spread * np.abs(best).sum()
    same = carried(coordinates, basis, old, old)
    assert np.abs(same - coordinates).max() <= spread * np.abs(coordinates).sum()

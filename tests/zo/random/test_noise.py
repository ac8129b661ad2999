"""Noise: the reference of every other implementation of z."""

import hashlib
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from zofx.errors import ArtifactError, UsageError
from zofx.zo.random import noise
from zofx.zo.random.noise import Kind, Stream, normal_table, sample, sample_flat, sample_small
from zofx.zo.random.philox import WordArray, philox_blocks
from zofx.zo.types import Key

BIG = Key(seed=2**64 - 1, step=2**48 - 1, query=2**16 - 1)

KNOWN: list[tuple[Kind, Key, str, Stream, list[float]]] = [
    (
        "gaussian",
        Key(0, 0, 0),
        "w",
        Stream.Z,
        [-0.8603469133377075, 0.9958021640777588, 0.47334417700767517, -1.7899113893508911],
    ),
    (
        "gaussian",
        Key(7, 3, 2),
        "model.layers.0.mlp.weight",
        Stream.Z,
        [1.3758609294891357, -0.9595929384231567, 1.2883847951889038, 0.9922291040420532],
    ),
    (
        "gaussian",
        Key(7, 3, 2),
        "model.layers.0.mlp.weight",
        Stream.V,
        [0.47342973947525024, 0.5021653175354004, -0.8214544057846069, -0.690307080745697],
    ),
    (
        "gaussian",
        BIG,
        "ω",
        Stream.MASK,
        [-0.8525645136833191, -0.9462825059890747, 0.3197091519832611, 0.5361731648445129],
    ),
    (
        "rademacher",
        Key(0, 0, 0),
        "w",
        Stream.Z,
        [-1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0],
    ),
    (
        "rademacher",
        Key(7, 3, 2),
        "model.layers.0.mlp.weight",
        Stream.U,
        [-1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0],
    ),
]


def by_hand(kind: Kind, key: Key, name: str, stream: Stream, length: int) -> list[float]:
    """The specification read aloud: numpy's generator, and arithmetic on Python integers."""
    word = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "little")
    generator = np.random.Philox(
        counter=np.array([0, word, int(stream), 0], dtype=np.uint64),
        key=np.array([key.seed, key.step * 2**16 + key.query], dtype=np.uint64),
    )
    bits, parts = (16, 4) if kind == "gaussian" else (1, 64)
    words = [int(generator.random_raw()) for _ in range(-(-length // parts))]
    numbers = [(w >> (bits * part)) % 2**bits for w in words for part in range(parts)]
    table = normal_table() if kind == "gaussian" else [-1.0, 1.0]
    return [float(table[number]) for number in numbers[:length]]


@pytest.mark.parametrize(("kind", "key", "name", "stream", "values"), KNOWN)
def test_known_answers(
    kind: Kind, key: Key, name: str, stream: Stream, values: list[float]
) -> None:
    """The first samples of some keys, names and streams never change."""
    assert sample(kind, key, name, (len(values),), stream).tolist() == values


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("key", [Key(0, 0), Key(7, 3, 2), BIG])
@pytest.mark.parametrize("stream", list(Stream))
def test_follows_the_specification(kind: Kind, key: Key, stream: Stream) -> None:
    """Anyone with numpy.random.Philox gets the same values."""
    name = "decoder.layers.0.weight·θ"
    assert sample(kind, key, name, (700,), stream).tolist() == by_hand(kind, key, name, stream, 700)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_ranges_concatenate_to_the_whole(kind: Kind) -> None:
    """A trainable sampled in pieces of any size is the trainable sampled at once, bit for bit."""
    key, name = Key(11, 5, 1), "w"
    whole = sample(kind, key, name, (37, 61))
    cuts = [0, 1, 2, 15, 16, 17, 255, 256, 257, 700, 2000, whole.size]
    parts = [sample_flat(kind, key, name, a, b - a) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.reshape(-1))


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_the_chunk_size_does_not_show(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is made at a time is of no effect on the values."""
    whole = sample(kind, Key(1, 2), "w", (5, 999))
    monkeypatch.setattr(noise, "CHUNK", 333)
    np.testing.assert_array_equal(sample(kind, Key(1, 2), "w", (5, 999)), whole)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_several_at_once_are_each_alone(kind: Kind) -> None:
    """Of none, of less and more than a block, and none of them shares memory with another."""
    sizes = {"none": 0, "w": 1, "v": 16, "u": 17, "t": 257, "ω": 999}
    several = sample_small(kind, BIG, sizes)
    assert list(several) == list(sizes)
    for name, size in sizes.items():
        np.testing.assert_array_equal(several[name], sample(kind, BIG, name, (size,)))
        several[name][:] = np.nan
    assert sample_small(kind, BIG, {}) == {}


def test_far_elements_need_no_near_ones() -> None:
    """An offset beyond 2³² blocks reaches the counter whole."""
    offset = 16 * (2**33 + 5)
    words = np.random.Philox(
        counter=np.array([2**33 + 5, noise.trainable_id("w"), 0, 0], dtype=np.uint64),
        key=np.array([3, 4 << 16], dtype=np.uint64),
    ).random_raw(4)
    expected = normal_table()[words.view(np.uint16)]
    np.testing.assert_array_equal(sample_flat("gaussian", Key(3, 4), "w", offset, 16), expected)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (2, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    """Any shape is filled in C order with float32."""
    values = sample("gaussian", Key(1, 1), "w", shape)
    assert values.shape == shape
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(
        values.reshape(-1), sample_flat("gaussian", Key(1, 1), "w", 0, values.size)
    )


def test_philox_model_equals_numpy() -> None:
    """The vectorised model gives numpy's blocks, for keys and counters that carry in every word."""
    generator = np.random.default_rng(0)
    edges = np.array([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1], dtype=np.uint64)
    counters = np.concatenate([generator.choice(edges, (40, 4)), _random_words(generator, (40, 4))])
    keys = np.concatenate([generator.choice(edges, (40, 2)), _random_words(generator, (40, 2))])
    blocks = philox_blocks(counters, keys)
    for counter, key, block in zip(counters, keys, blocks, strict=True):
        before = (sum(int(w) << (64 * i) for i, w in enumerate(counter)) - 1) % 2**256
        words = [(before >> (64 * i)) % 2**64 for i in range(4)]
        philox = np.random.Philox(
            counter=np.array(words, dtype=np.uint64), key=np.array(key, dtype=np.uint64)
        )
        np.testing.assert_array_equal(block, philox.random_raw(4))


def test_philox_model_broadcasts() -> None:
    """Leading axes of counters and keys broadcast, and a single block needs none."""
    generator = np.random.default_rng(1)
    counters = _random_words(generator, (5, 1, 4))
    keys = _random_words(generator, (3, 2))
    blocks = philox_blocks(counters, keys)
    assert blocks.shape == (5, 3, 4)
    np.testing.assert_array_equal(blocks[4, 2], philox_blocks(counters[4, 0], keys[2]))


def _random_words(generator: np.random.Generator, shape: tuple[int, ...]) -> WordArray:
    return generator.integers(0, 2**64, size=shape, dtype=np.uint64)


def test_table_is_the_scaled_quantiles() -> None:
    """The shipped table is what its description says, entry by entry."""
    quantile = NormalDist().inv_cdf
    quantiles = np.array([quantile((i + 0.5) / 65536) for i in range(65536)], dtype=np.float64)
    expected = (quantiles / np.sqrt(np.mean(quantiles**2))).astype(np.float32)
    np.testing.assert_array_equal(normal_table(), expected)


def test_table_is_read_only() -> None:
    """No caller can change everybody's normals."""
    with pytest.raises(ValueError, match="read-only"):
        normal_table()[0] = 0


def test_a_damaged_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed bit in the installed file is an error, not other directions."""
    table = normal_table().copy()
    table[12345] = np.nextafter(table[12345], np.float32(0))
    np.save(tmp_path / "normal.npy", table)
    monkeypatch.setattr(noise, "__file__", str(tmp_path / "noise.py"))
    normal_table.cache_clear()
    try:
        with pytest.raises(ArtifactError, match=r"normal\.npy is damaged"):
            normal_table()
    finally:
        normal_table.cache_clear()


def test_a_table_of_the_artifact_is_used() -> None:
    """A table that is passed in replaces the shipped one; one of another size is refused."""
    table = np.arange(65536, dtype=np.float32)
    values = sample("gaussian", Key(1, 2), "w", (32,), table=table)
    np.testing.assert_array_equal(
        sample("gaussian", Key(1, 2), "w", (32,)), normal_table()[values.astype(int)]
    )
    with pytest.raises(ArtifactError, match=r"this one is float32\[4\]"):
        sample("gaussian", Key(1, 2), "w", (32,), table=table[:4])


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_moments(kind: Kind) -> None:
    """E[z] = 0 and E[z²] = 1, within five standard errors."""
    values = sample(kind, Key(2024, 1), "w", (1 << 19,)).astype(np.float64)
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    fourth = 3.0 if kind == "gaussian" else 1.0
    assert abs(np.mean(values**2) - 1) <= 5 * np.sqrt((fourth - 1) / values.size)
    assert abs(np.mean(values**4) - fourth) <= 5 * np.sqrt(96 / values.size)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_directions_are_uncorrelated(kind: Kind) -> None:
    """HostTheta, seeds, steps, queries, streams and neighbours share nothing: E[z zᵀ] = I."""
    size = 1 << 16
    base = sample(kind, Key(5, 8, 3), "a", (size + 1,))
    others = [
        sample(kind, Key(5, 8, 3), "b", (size,)),
        sample(kind, Key(6, 8, 3), "a", (size,)),
        sample(kind, Key(5, 9, 3), "a", (size,)),
        sample(kind, Key(5, 8, 4), "a", (size,)),
        sample(kind, Key(5, 8, 3), "a", (size,), Stream.U),
        sample(kind, Key(5, 8, 3), "a", (size,), Stream.V),
        base[1:],
    ]
    vectors = np.stack([base[:size], *others]).astype(np.float64)
    gram = vectors @ vectors.T / size
    np.testing.assert_allclose(gram, np.eye(len(vectors)), atol=5 * np.sqrt(2 / size))


def test_every_bit_of_a_block_counts() -> None:
    """Gaussian indices are uniform: all 65,536 table entries occur about equally often."""
    ramp = np.arange(65536, dtype=np.float32)
    values = sample("gaussian", Key(3, 3), "w", (1 << 21,), table=ramp).astype(np.int64)
    counts = np.bincount(values, minlength=65536)
    chi_squared = float(np.sum((counts - 32) ** 2) / 32)
    assert abs(chi_squared - 65535) < 5 * np.sqrt(2 * 65535)


def test_unknown_kind() -> None:
    """A kind that does not exist is named together with those that do."""
    with pytest.raises(
        UsageError, match="no noise of kind 'cauchy'; there are: gaussian, rademacher"
    ):
        sample("cauchy", Key(0, 0), "w", (1,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seed", "step", "query"), [(-1, 0, 0), (2**64, 0, 0), (0, 2**48, 0), (0, 0, 2**16), (0, -1, 0)]
)
def test_keys_that_would_collide(seed: int, step: int, query: int) -> None:
    """A key whose words would not fit is refused: it would repeat another key's direction."""
    with pytest.raises(UsageError, match="names no direction"):
        Key(seed, step, query)

"""The noise on torch tensors: the same bits as numpy."""

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor

from zofx.errors import ArtifactError, UsageError
from zofx.runtimes import torch_noise
from zofx.runtimes.torch_noise import philox_torch, sample_torch
from zofx.zo.random.noise import Kind, normal_table, sample, trainable_id
from zofx.zo.random.philox import philox_blocks
from zofx.zo.types import Key, key_words

KINDS: list[Kind] = ["gaussian", "rademacher"]
SHAPES = [(), (1,), (5, 37), (257,), (16, 16), (3, 0), (2, 3, 100)]
KEYS = (
    Key(0, 0),
    Key(7, 3, 2),
    Key(2**63, 2**47, 2**15),
    Key(2**64 - 1, 2**48 - 1, 2**16 - 1),
)


def key_tensor(keys: tuple[Key, ...]) -> Tensor:
    """The keys as a program takes them, i64[Q, 2]."""
    return torch.from_numpy(key_words(keys).view(np.int64))


def table() -> Tensor:
    """The quantiles that ship with zofx."""
    return torch.from_numpy(normal_table().copy())


def expect(
    actual: Tensor, kind: Kind, keys: tuple[Key, ...], name: str, shape: tuple[int, ...]
) -> None:
    """Every direction has the bits of the numpy sampler."""
    assert (actual.shape, actual.dtype) == ((len(keys), *shape), torch.float32)
    for value, key in zip(actual.numpy(), keys, strict=True):
        expected = sample(kind, key, name, shape)
        np.testing.assert_array_equal(value.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_equal_numpy(kind: Kind, shape: tuple[int, ...]) -> None:
    """Any shape under any keys, those with the sign bit set among them."""
    for name in ("w", "model.layers.0.mlp.weight", "ω"):
        expect(
            sample_torch(kind, key_tensor(KEYS), name, shape, table(), "cpu"),
            kind,
            KEYS,
            name,
            shape,
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [(), KEYS[:1], KEYS])
@pytest.mark.parametrize("chunk", [1, 100, 1111, 5000])
def test_the_chunk_size_does_not_show(
    kind: Kind, keys: tuple[Key, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much is made at a time, and for how many keys, is of no effect on the values."""
    monkeypatch.setattr(torch_noise, "CHUNK", chunk)
    actual = sample_torch(kind, key_tensor(keys), "w", (3, 333), table(), torch.device("cpu"))
    expect(actual, kind, keys, "w", (3, 333))


def test_default_chunks_join() -> None:
    """A trainable larger than the default chunk has no seam."""
    size = torch_noise.CHUNK + 1000
    actual = sample_torch("rademacher", key_tensor(KEYS[2:]), "w", (size,), None, "cpu")
    expect(actual, "rademacher", KEYS[2:], "w", (size,))


def test_words_equal_the_numpy_model() -> None:
    """Philox itself, at block numbers and counter words that carry, on every stream."""
    blocks = np.array([0, 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 2])
    for word, stream in ((0, 0), (trainable_id("w"), 1), (2**63, 2), (2**64 - 1, 3)):
        actual = philox_torch(torch.from_numpy(blocks), word, key_tensor(KEYS), stream)
        counters = np.zeros((len(blocks), 4), dtype=np.uint64)
        counters[:, 0], counters[:, 1], counters[:, 2] = blocks + 1, word, stream
        expected = philox_blocks(counters, key_words(KEYS)[:, None])
        np.testing.assert_array_equal(actual.numpy().view(np.uint64), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaves_the_device(kind: Kind) -> None:
    """No step looks at a value on the host: a device whose tensors hold none will do."""
    actual = sample_torch(kind, key_tensor(KEYS), "w", (5, 37), table(), "meta")
    assert (actual.device.type, actual.shape) == ("meta", (len(KEYS), 5, 37))


@pytest.mark.parametrize(("kind", "values_per_word"), [("gaussian", 4), ("rademacher", 64)])
def test_temporaries_do_not_grow(
    kind: Kind, values_per_word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words in memory at a time make one chunk of values, however large the trainable and Q."""
    made: list[int] = []

    def recorded(blocks: Tensor, slice_word: int, keys: Tensor) -> Tensor:
        words = philox_torch(blocks, slice_word, keys)
        made.append(words.numel() * values_per_word)
        return words

    monkeypatch.setattr(torch_noise, "CHUNK", 4096)
    monkeypatch.setattr(torch_noise, "philox_torch", recorded)
    for keys in (KEYS[:1], KEYS):
        sample_torch(kind, key_tensor(keys), "w", (100, 300), table(), "cpu")
    assert max(made) == 4096
    assert sum(made) < 30_000 * 5 + 2 * 4096


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "there is none"),
        (torch.zeros(4), r"this one is torch.float32\[4\]"),
        (torch.zeros(65536, dtype=torch.float64), r"this one is torch.float64\[65536\]"),
    ],
)
def test_no_table(bad: Tensor | None, message: str) -> None:
    """Normals from something that is not the table are refused."""
    with pytest.raises(ArtifactError, match=message):
        sample_torch("gaussian", key_tensor(KEYS), "w", (1,), bad, "cpu")


def test_unknown_kind() -> None:
    """A kind that does not exist is named together with those that do."""
    with pytest.raises(UsageError, match="'cauchy'; there are: gaussian, rademacher"):
        sample_torch("cauchy", key_tensor(KEYS), "w", (1,), None, "cpu")  # type: ignore[arg-type]


def test_cuda_makes_directions_where_they_are_used() -> None:
    """The torch runtime gives the op `direction` a kernel of its own on CUDA: this module's."""
    importlib.import_module("zofx.runtimes.torch_eager")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("zofx::direction", "CUDA")  # noqa: TID251

"""A memory budget decides how many of the last layers train by exact gradients."""

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.compiled import run_zofx
from zofx.api.build import build
from zofx.api.callbacks import Callbacks
from zofx.artifact import layout
from zofx.cli.options import parse_size
from zofx.compiler.forecast.exact_layers import MemoryBudget, first_that_fits, most_exact_layers
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.errors import UsageError
from zofx.models.checkpoint import open_checkpoint

LAYERS = 2
TOKENS = 16


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers."""
    return tiny.tiny_llama(tmp_path_factory.mktemp("budget") / "llama", LAYERS)


@pytest.mark.parametrize("layers", [1, 2, 3, 30])
def test_the_first_layer_that_fits(layers: int) -> None:
    """For every budget that of a plain search, each layer asked once at most, few of them."""
    needed = [1000 - 7 * first for first in range(layers)]
    for limit in range(needed[-1] - 8, needed[0] + 8):
        asked: list[int] = []

        def memory(first: int, asked: list[int] = asked) -> int:
            asked.append(first)
            return needed[first]

        fitting = [first for first in range(layers) if needed[first] <= limit]
        assert first_that_fits(layers, memory, limit) == min(fitting, default=None)
        assert len(asked) <= 2 + layers.bit_length()


def chosen(folder: Path, limit: int) -> tuple[int | None, str]:
    """The first layer that trains, and the last message."""
    messages: list[str] = []
    options = most_exact_layers(
        open_checkpoint(str(folder)), METHODS["senszoq"], Options(train="lora", exact_layers="all"),
        MemoryBudget(limit, TOKENS), messages.append,
    )  # fmt: skip
    return options.from_layer, messages[-1]


def test_a_model_within_a_budget(llama: Path) -> None:
    """All of it where there is room, and a refusal with the figure where there is none."""
    first, message = chosen(llama, 10**12)
    assert first is None
    assert "2 of 2 layers" in message
    with pytest.raises(UsageError, match=r"alone take \d+ MB with rows of 16 tokens, and 1 MB are"):
        chosen(llama, 10**6)


def test_the_command_compiles_what_it_chose(llama: Path, tmp_path: Path) -> None:
    """The artifact trains from that layer on."""
    words = ["compile", llama, "--train", "lora", "--exact-layers", "auto"]
    asked = ["--memory", "1 GB", "--tokens", str(TOKENS), "-o", tmp_path / "art"]
    made = run_zofx(*words, *asked, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "exact gradients for 2 of 2 layers" in made.stderr
    manifest = json.loads((tmp_path / "art" / layout.MANIFEST).read_bytes())
    trained = [row["name"] for row in manifest["tensors"] if row["role"] == "exact"]
    assert {name.split(".")[2] for name in trained} == {"0", "1"}


@pytest.mark.parametrize(
    ("options", "budget", "why"),
    [
        (Options(exact_layers="auto"), None, "give both"),
        (Options(exact_layers="all"), MemoryBudget(1), "give both"),
        (Options(), MemoryBudget(1), "give both"),
        (Options(exact_layers="auto", from_layer=2), MemoryBudget(1), "leave --train-from"),
    ],
    ids=["auto-alone", "all-with-memory", "memory-alone", "two-cuts"],
)  # fmt: skip
def test_refusals(
    llama: Path, tmp_path: Path, options: Options, budget: MemoryBudget | None, why: str
) -> None:
    """What does not go together is told before anything is written."""
    with pytest.raises(UsageError, match=why):
        build(
            str(llama), "senszoq", options, out=tmp_path / "art", calibration=None,
            sensitivity=None, budget=budget, after=lambda *_: None, listeners=Callbacks([]),
        )  # fmt: skip
    assert not (tmp_path / "art").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("1.5 GiB", 3 << 29), ("2gb", 2_000_000_000), ("77", 77)],
)
def test_sizes(text: str, size: int) -> None:
    """Decimal and binary units."""
    assert parse_size("--memory", text) == size


@pytest.mark.parametrize("text", ["much", "-1GB", "5 bananas", ""])
def test_no_sizes(text: str) -> None:
    """A number and a unit, or an error that shows some."""
    with pytest.raises(UsageError, match="a number and a unit, as 500MB"):
        parse_size("--memory", text)

"""A memory budget decides how many of the last layers train by exact gradients."""

import json
import re
from pathlib import Path

import pytest

from tests import tiny
from tests.compiled import run_zofx
from zofx.api.build import build
from zofx.api.callbacks import Callbacks
from zofx.artifact import layout
from zofx.cli.options import parse_size
from zofx.compiler.forecast.exact_layers import MemoryBudget, most_exact_layers
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


def chosen(folder: Path, limit: int) -> tuple[int | None, str]:
    """The first layer that trains, and the last message."""
    messages: list[str] = []
    options = most_exact_layers(
        open_checkpoint(str(folder)), METHODS["senszoq"], Options(train="lora", exact_layers="all"),
        MemoryBudget(limit, TOKENS), messages.append,
    )  # fmt: skip
    return options.from_layer, messages[-1]


def needed(folder: Path) -> tuple[int, int]:
    """Bytes with both layers, and with the last alone, to the megabyte above."""
    with pytest.raises(UsageError) as caught:
        chosen(folder, 0)
    (last,) = re.findall(r"alone take (\d+) MB with rows of 16 tokens", str(caught.value))
    _, message = chosen(folder, 10**12)
    (both,) = re.findall(r"2 of 2 layers: (\d+) MB predicted", message)
    return (int(both) + 1) * 10**6, (int(last) + 1) * 10**6


def test_as_many_layers_as_fit(llama: Path) -> None:
    """Both, the last alone, or a refusal; each at the figure that the messages give."""
    both, last = needed(llama)
    assert last <= both
    assert chosen(llama, both)[0] is None
    assert chosen(llama, last)[0] in (None, 1)
    with pytest.raises(UsageError, match="allow more"):
        chosen(llama, last - 3 * 10**6)


def test_the_command_compiles_what_it_chose(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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

"""Artifacts whose trainables have moved: LoRA beside 8-bit, transposed matrices, single weights."""

from pathlib import Path
from typing import Any

import pytest

import zofx
from tests import tiny
from zofx.runs.export.subject import Subject

SHORT: dict[str, Any] = {
    "steps": 4, "batch_size": 4, "lr": 0.3, "eps": 0.01, "eval_every": 2, "threads": 1,
    "runtime": "ort", "preflight": False,
}  # fmt: skip


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all of it."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="session")
def lora(exports: Path, mood: Path) -> Subject:
    """A tiny Llama in 8-bit integers, LoRA of A and B trained beside."""
    tiny.tiny_llama(exports / "llama")
    made = zofx.compile(exports / "llama", "senszoq", out=exports / "lora", train="lora",
                        quant="int8", settings=["insert-lora.match=proj"])  # fmt: skip
    made.tune(mood, out=exports / "lora-run", **SHORT)
    return Subject.of(exports / "lora", zofx.load_run(exports / "lora-run").folder, "last")


@pytest.fixture(scope="session")
def transposed(exports: Path, mood: Path) -> Subject:
    """A tiny GPT-2, which stores [in, out], B of LoRA-FA trained beside whole matrices."""
    tiny.tiny_gpt2(exports / "gpt2")
    made = zofx.compile(exports / "gpt2", "lora-fa", out=exports / "fa", quant="none")
    made.tune(mood, out=exports / "fa-run", **SHORT)
    return Subject.of(exports / "fa", zofx.load_run(exports / "fa-run").folder, "last")


@pytest.fixture(scope="session")
def sparse(artifact: Path, exports: Path, mood: Path) -> Subject:
    """Single weights of a tiny Llama in 4-bit integers."""
    zofx.load(artifact).tune(mood, out=exports / "sparse-run", **SHORT)
    return Subject.of(artifact, zofx.load_run(exports / "sparse-run").folder, "last")

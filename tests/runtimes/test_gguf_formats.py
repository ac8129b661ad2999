"""A GGUF checkpoint of Q8_0 or Q4_0, compiled into the same format: nothing is lost on the way.

.gguf ─compile --quant q8_0─▶ artifact ─merge─▶ the checkpoint's numbers, bit for bit
                                       ─PyTorch, ONNX Runtime─▶ scores within the bound
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.artifacts import made_up_scores
from tests.ir.formats.test_gguf_block import KINDS
from tests.loads import EPS, KEYS
from tests.models.test_gguf_file import TOKENS, load, write_llama
from tests.runtimes import reference
from zofx.artifact.manifest import read_manifest
from zofx.artifact.merge import merged_tensors
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.ir.schema import Products
from zofx.models.checkpoint import open_checkpoint
from zofx.runtimes import RUNTIMES
from zofx.session import Batch

MATRIX = np.array([[EPS], [-EPS]], np.float32)


@pytest.fixture(scope="module", params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def compiled(name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The checkpoint, and its artifact with trainables cut out of its matrices."""
    root = tmp_path_factory.mktemp(name)
    path = write_llama(root / "llama.gguf", file_type=KINDS[name])
    checkpoint = open_checkpoint(str(path))
    options = Options(name, "none", fraction=0.05, settings=("select-sensitive.cover=1",))
    scores = made_up_scores(checkpoint)
    compile_model(checkpoint, METHODS["senszoq"], root / "art", scores=scores, options=options)
    return path, root / "art"


def test_no_number_changes(compiled: tuple[Path, Path], name: str) -> None:
    """Codes and trainables put together are the numbers of the file; all matrices have codes."""
    path, folder = compiled
    numbers = load(open_checkpoint(str(path)))
    merged = dict(merged_tensors(folder))
    stored = {row.origin for row in read_manifest(folder).tensors if row.form == name}
    assert len(stored) == 14
    for weight, value in merged.items():
        assert torch.equal(value, numbers[weight]), weight


def test_the_manifest_tells_what_is_multiplied(compiled: tuple[Path, Path], name: str) -> None:
    """Four bits are packed two to a byte, which has a batching policy of its own."""
    wanted = Products.NIBBLES if name == "q4_0" else Products.FLOATS
    assert read_manifest(compiled[1]).products is wanted


@pytest.mark.parametrize("runtime", ["torch", "ort"])
def test_scores_are_within_the_rounding_error(compiled: tuple[Path, Path], runtime: str) -> None:
    """f32[P, N, C] beside the float64 meaning of the program."""
    random = np.random.default_rng(0)
    ids = random.integers(2, len(TOKENS), (3, 7))
    positions, targets = random.integers(2, 7, (3, 2)), random.integers(0, len(TOKENS), (3, 2, 3))
    batch = Batch(ids, np.ones_like(ids), positions, targets)
    wanted, bound = reference.evaluate(compiled[1], batch, KEYS[:1], MATRIX)
    session = RUNTIMES[runtime].load(compiled[1])
    error = np.abs(session.evaluate(batch, KEYS[:1], MATRIX) - wanted)
    assert (error <= bound).all(), f"off by {error.max()}, allowed there {bound[error > bound][0]}"
    assert np.abs(wanted[0] - wanted[1]).max() > 2 * bound.max()

"""NF4: bitsandbytes' codes, loaded quietly."""

import subprocess
import sys

import pytest
import torch

from tests.ir.formats.normal import normal
from zofx.errors import ArtifactError
from zofx.ir.formats import nf4


def test_nf4_holds_zero_exactly() -> None:
    """Also a block that is nothing but zeros."""
    weight = normal(4, 64)
    weight[:, ::5] = 0
    weight[2] = 0
    back = nf4.dequantize(nf4.quantize(weight, 64), 4, 64)
    assert back[weight == 0].count_nonzero() == 0
    assert back.isfinite().all()


def test_bitsandbytes_loads_in_silence() -> None:
    """What it misses on the Hub, no product here would use."""
    code = "import torch; from zofx.ir.formats.nf4 import *; quantize(torch.ones(2, 32), 32)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("codes", "scales", "out", "block"),
    [
        (2048, 2, 64, 32),
        (2048, 127, 64, 32),
        (2048, 128, 63, 32),
        (2047, 128, 64, 32),
        (8, 1, 0, 32),
    ],
)
def test_codes_and_scales_of_other_sizes_are_refused(
    codes: int, scales: int, out: int, block: int
) -> None:
    """The kernel would read scales that are not there."""
    matrix = nf4.Nf4(torch.zeros(codes, dtype=torch.uint8), torch.ones(scales))
    with pytest.raises(ArtifactError, match="do not go together"):
        nf4.dequantize(matrix, out, block)

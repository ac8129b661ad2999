"""NF4: bitsandbytes' codes, loaded quietly."""

import subprocess
import sys

from tests.ir.formats.normal import normal
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

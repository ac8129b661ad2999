"""How fast a machine is at what a training step does: three numbers, measured in a second.

products    f32 [512, 1024] × [1024, 1024]      2 · 512 · 1024² operations each
normals     z of a slice of 2²⁰ elements
bandwidth   a copy of 64 MiB, read and written
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from zofx.zo.noise import sample
from zofx.zo.types import Key

ROWS, WIDTH = 512, 1024
NORMALS: Final = 1 << 20
COPIED: Final = 1 << 26
SECONDS: Final = 0.3


@dataclass(frozen=True)
class Rates:
    """Of a machine.

    Attributes:
        flops: floating-point operations of a matrix product, per second.
        normals: elements of a direction, per second.
        bandwidth: bytes read or written, per second.
    """

    flops: float
    normals: float
    bandwidth: float


def measured(threads: int | None = None, flops: float | None = None) -> Rates:
    """Measure them now.

    Args:
        threads: for products; None takes torch's own choice.
        flops: the rate of products, if it is known.
    """
    if threads:
        torch.set_num_threads(threads)
    x, w = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    memory = torch.zeros(COPIED // 4)
    key = Key(0, 0)
    return Rates(
        flops or 2 * ROWS * WIDTH * WIDTH * _times(lambda: x @ w),
        NORMALS * _times(lambda: sample("gaussian", key, "rate", (NORMALS,))),
        2 * COPIED * _times(memory.clone),
    )


def _times(work: Callable[[], object]) -> float:
    """How often it is done in a second; the first time does not count."""
    work()
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < SECONDS:
        work()
        done += 1
    return done / passed

"""What a machine's rates are of: the work of a run, over the time of the median one."""

import sys

import numpy as np
import pytest

from zofx import rates
from zofx.rates import OPERATIONS, ROWS, WIDTH, measured


def test_the_median_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs of 0.1, 0.1 and 0.5 s; the first, of 9 s, does not count."""
    clock, waits = [0.0], iter([9.0, 0.1, 0.1, 0.5])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        clock[0] += next(waits)

    assert rates._times(work) == pytest.approx(10)


def test_integers_are_multiplied_by_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is the whole product of 1 − 128 and 1, and its rate is its work over that."""
    product = rates._product_of_integers(1)
    assert product is not None
    (made,) = product()
    np.testing.assert_array_equal(made, np.full((ROWS, WIDTH), WIDTH * (1 - 128), np.float32))
    monkeypatch.setattr(rates, "_times", lambda work: 2.0)
    assert measured(integers=True).integers == 2 * OPERATIONS


def test_a_rate_that_is_given_is_that_of_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is that of floats, where ONNX Runtime is not there."""
    monkeypatch.setattr(rates, "_times", lambda work: 2.0)
    given = measured(flops=5e9, integers=True)
    assert (given.flops, given.integers) == (5e9, 5e9)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = measured(integers=True)
    assert found.integers == found.flops == 2 * OPERATIONS

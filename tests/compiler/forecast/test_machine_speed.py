"""What a machine's rates are of: the work of a run, over the time of the median one."""

import numpy as np
import pytest

from zofx.compiler.forecast import machine_speed
from zofx.compiler.forecast.machine_speed import OPERATIONS, ROWS, WIDTH, measured


def test_the_median_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs of 0.1, 0.1 and 0.5 s; the first, of 9 s, does not count."""
    clock, waits = [0.0], iter([9.0, 0.1, 0.1, 0.5])
    monkeypatch.setattr(machine_speed.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        clock[0] += next(waits)

    assert machine_speed._times(work) == pytest.approx(10)


@pytest.mark.parametrize(("kind", "term"), [(np.float32, 1), (np.uint8, 1 - 128)])
def test_what_is_timed_is_the_whole_product(kind: type[np.float32 | np.uint8], term: int) -> None:
    """Every element is the sum of as many terms as x is wide."""
    (made,) = machine_speed.ort_product(kind, 1)()
    np.testing.assert_array_equal(made, np.full((ROWS, WIDTH), WIDTH * term, np.float32))


def test_each_engine_has_rates_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch multiplies floats in place of integers; without ONNX Runtime it stands in."""
    asked: list[object] = []

    def product(kind: type, threads: int | None) -> object:
        asked.append((kind, threads))
        return kind

    speed = {np.float32: 3.0, np.uint8: 5.0}
    monkeypatch.setattr(machine_speed, "ort_product", product)
    monkeypatch.setattr(machine_speed, "_times", lambda work: speed.get(work, 2.0))
    of = {runtime: measured(None, None, runtime) for runtime in ("torch", "ort")}
    assert asked == [(np.float32, None), (np.uint8, None)]
    assert of["torch"].flops == of["torch"].integers == 2 * OPERATIONS
    assert (of["ort"].flops, of["ort"].integers) == (3 * OPERATIONS, 5 * OPERATIONS)
    monkeypatch.setattr(machine_speed, "find_spec", lambda name: None)
    assert measured(None, None, "ort") == of["torch"]


def test_a_rate_that_is_given_is_that_of_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none is measured."""
    monkeypatch.setattr(machine_speed, "_times", lambda work: 2.0)
    given = measured(None, 5e9, "ort")
    assert (given.flops, given.integers) == (5e9, 5e9)

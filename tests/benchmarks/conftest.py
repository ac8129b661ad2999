"""Runs of zofx along known directions, which peers are compared with."""

import pytest

from benchmarks.fidelity.subject import Ground, Trajectory

STEPS = 3
LR = 2.0**-10


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A tiny OPT, and runs of zofx along known directions."""
    return Ground(tmp_path_factory.mktemp("ground"), STEPS)


@pytest.fixture(scope="module")
def along(ground: Ground) -> Trajectory:
    """A run of zofx's mezo."""
    return ground.trajectory("mezo", {"lr": LR})

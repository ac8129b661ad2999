"""What several folders of tests share."""

import os
from importlib.util import find_spec

import pytest

from tests.distribution import Built, build_all

if find_spec("torch") is not None:  # the lean parts are tested without
    from tests.artifacts import case, engine, family, session  # noqa: F401  fixtures
    from tests.compiled import artifact, assets, compiled, mood  # noqa: F401  fixtures

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist of this source."""
    return build_all(tmp_path_factory.mktemp("built"))

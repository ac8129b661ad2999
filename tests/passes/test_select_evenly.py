"""select-evenly: the same share of every matrix, in equal steps, whatever its scores."""

import numpy as np
import pytest
import torch

from tests.golden import apply, decided
from tests.passes.toys import OneLinear, canonical
from zofx.errors import UsageError
from zofx.ir.printer import show


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 1.0])
def test_takes_equal_steps(fraction: float) -> None:
    """Ascending positions, as many as were asked for, that leave gaps of two neighbouring sizes."""
    before = canonical(OneLinear)
    after, _ = apply(f"select-evenly{{fraction={fraction}}}", before)
    for name, index in decided(after, "entries").items():
        size = before.tensors[name].size
        assert index.dtype == torch.int32
        assert len(index) == round(fraction * size)
        gaps = np.diff([*index.tolist(), size + int(index[0])])
        assert set(gaps) <= {size // len(index), -(-size // len(index))}


def test_changes_no_op() -> None:
    """It decides what trains; the program is the one before, with the fact."""
    before = canonical(OneLinear)
    after, _ = apply("select-evenly{fraction=0.5}", before)
    assert show(after) == show(before).replace("facts: canonical", "facts: canonical, selected")


def test_a_share_of_nothing_is_refused() -> None:
    """An artifact in which nothing trains helps nobody."""
    with pytest.raises(UsageError) as refused:
        apply("select-evenly{fraction=1e-05}", canonical(OneLinear))
    assert str(refused.value) == (
        "select-evenly{fraction=1e-05}: that fraction of every matrix rounds to none, and nothing "
        "would train; take a larger one"
    )

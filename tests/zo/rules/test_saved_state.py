"""What a rule remembers, as arrays and back."""

import numpy as np
import pytest

from zofx.zo.rules.gradient_rules import Gradient
from zofx.zo.rules.saved_state import restored, saved
from zofx.zo.rules.syntax import tensor_rule
from zofx.zo.types import FloatArray

THETA = {"w": np.linspace(-1, 1, 5, dtype=np.float32)}


def gradient(step: int) -> Gradient:
    """Of a step, from nothing but its number."""
    values: FloatArray = np.sin(np.arange(5) + step).astype(np.float32)
    return Gradient((), (), lambda key: {}, {"w": values})


@pytest.mark.parametrize(
    "text", ["adam()", "momentum(0.9)", "decay(0.1) > adam()", "sign_coordinates()"]
)
def test_a_rule_goes_on_from_what_was_saved(text: str) -> None:
    """To the same bits, with a state that is another object."""
    rule = tensor_rule(text)
    assert rule is not None
    state = rule.init(THETA)
    for step in range(3):
        _, state = rule.update(gradient(step), THETA, state)
    again = restored(rule.init(THETA), saved(state))
    for step in range(3, 5):
        along, state = rule.update(gradient(step), THETA, state)
        other, again = rule.update(gradient(step), THETA, again)
        np.testing.assert_array_equal(along["w"], other["w"])


def test_a_state_of_another_rule_is_refused() -> None:
    """Its arrays have other names."""
    first, second = tensor_rule("momentum(0.9)"), tensor_rule("adam()")
    assert first is not None
    assert second is not None
    with pytest.raises(KeyError):
        restored(second.init(THETA), saved(first.init(THETA)))

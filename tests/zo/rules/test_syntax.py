"""Rules by their text: every row of both tables reads back, and what is no rule is refused."""

from typing import Any

import numpy as np
import pytest

from zofx.errors import UsageError
from zofx.zo.estimate import Estimate
from zofx.zo.rules.coefficient_rules import RayRule
from zofx.zo.rules.syntax import RAY_RULES, TENSOR_RULES, ray_rule, tensor_rule
from zofx.zo.types import Key

# Name → texts with their arguments left out, by place and by name, and how the recipe spells them.
RAYS = {
    "clip": {"clip(2.5)": "clip(2.5)", "clip(limit=100)": "clip(100)"},
    "normalise_by_spread": {"normalise_by_spread()": "normalise_by_spread()"},
    "past_momentum": {
        "past_momentum()": "past_momentum(0.9, 20)",
        "past_momentum(0.5, window=3)": "past_momentum(0.5, 3)",
    },
    "scale_by_rms": {
        "scale_by_rms()": "scale_by_rms(0.999, 1e-08)",
        "scale_by_rms(0.5, 1e-3)": "scale_by_rms(0.5, 0.001)",
    },
    "sign": {"sign()": "sign()"},
}
TENSORS = {
    "adam": {
        "adam()": "adam(0.9, 0.999, 1e-08)",
        "adam(0.8, eps=1e-6)": "adam(0.8, 0.999, 1e-06)",
    },
    "decay": {
        "decay(0.1)": "decay(0.1)",
        "decay(0.1, exempt=['bias', \"norm\"])": "decay(0.1, exempt=['bias', 'norm'])",
    },
    "diagonal_hessian": {"diagonal_hessian()": "diagonal_hessian(1e-06)"},
    "low_rank_momentum": {"low_rank_momentum(0.5)": "low_rank_momentum(0.5)"},
    "momentum": {"momentum()": "momentum(0.9)"},
    "past_adam": {
        "past_adam()": "past_adam(0.9, 0.999, 1e-08, 20)",
        "past_adam(window=4, beta1=0.5)": "past_adam(0.5, 0.999, 1e-08, 4)",
    },
    "sign_coordinates": {"sign_coordinates()": "sign_coordinates()"},
}


def test_every_row_is_here() -> None:
    """A new rule is a new row of this page."""
    assert RAYS.keys() == RAY_RULES.keys()
    assert TENSORS.keys() == TENSOR_RULES.keys()


@pytest.mark.parametrize(
    ("read", "text", "canonical"),
    [
        (read, text, canonical)
        for read, rows in ((ray_rule, RAYS), (tensor_rule, TENSORS))
        for texts in rows.values()
        for text, canonical in texts.items()
    ],
)
def test_text_to_rule_to_text(read: Any, text: str, canonical: str) -> None:
    """What a recipe prints is read back as the same rule."""
    assert read(text).text == canonical
    assert read(f"  {canonical} ").text == canonical


def coefficients(rule: RayRule[Any], *given: float) -> list[float]:
    keys = tuple(Key(0, 0, query) for query in range(len(given)))
    changed, _ = rule.update(Estimate(0.0, keys, np.array(given)), rule.init(), 0)
    values: list[float] = changed.coefficients.tolist()
    return values


def test_rules_are_read_in_order() -> None:
    """Clip, then sign is not sign, then clip."""
    assert coefficients(ray_rule("clip(0.5)>sign()"), 3.0, -0.25) == [1.0, -1.0]
    assert coefficients(ray_rule("sign() > clip(0.5)"), 3.0, -0.25) == [0.5, -0.5]
    both = tensor_rule("decay(0.1) > momentum(0.5)")
    assert both is not None
    assert both.text == "decay(0.1) > momentum(0.5)"


def test_no_text_is_no_rule() -> None:
    """Rays stay as they are, and tensors are not made."""
    assert coefficients(ray_rule(" "), 3.0) == [3.0]
    assert (ray_rule("").text, tensor_rule("")) == ("", None)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (ray_rule, "clip", "'clip' is not a rule on rays; write name(numbers), as in clip(…)"),
        (ray_rule, "clip(1", "'clip(1' is not a rule on rays; write name(numbers), as in clip(…)"),
        (ray_rule, "sign() >", "'' is not a rule on rays; write name(numbers), as in clip(…)"),
        (ray_rule, "np.sign()", "'np.sign()' is not a rule on rays; write name(numbers), as in "),
        (
            tensor_rule,
            "decay(exit())",
            "'decay(exit())' is not a rule on tensors; write name(numbers), as in adam(…)",
        ),
        (
            ray_rule,
            "adam()",
            "there is no rule on rays 'adam'; there are: clip, normalise_by_spread, past_momentum, "
            "scale_by_rms, sign",
        ),
        (tensor_rule, "clip(1)", "there is no rule on tensors 'clip'; there are: adam, decay, "),
        (ray_rule, "clip()", "clip(): clip() missing 1 required positional argument: 'limit'"),
        (ray_rule, "clip('much')", "clip('much'): '>' not supported between instances of"),
        (ray_rule, "clip(**{'limit': 1})", "clip(**{'limit': 1}): "),
        (tensor_rule, "momentum(gamma=1)", "momentum(gamma=1): momentum() got an unexpected"),
        (tensor_rule, "momentum(1.5)", "momentum: beta 1.5 must be in [0, 1)"),
        (ray_rule, "past_momentum() > sign()", "a rule on past rays comes last"),
        (tensor_rule, "momentum() > past_adam()", "a rule on past rays, or on curvature, comes fi"),
    ],
)
def test_errors(read: Any, text: str, message: str) -> None:
    """Nothing is evaluated but literals, and the message shows the part that is wrong."""
    with pytest.raises(UsageError) as error:
        read(text)
    assert str(error.value).startswith(message)

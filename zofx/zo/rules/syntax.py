"""Rules by their text: what a recipe prints is what a method's table and `--rays` are written in.

"clip(100) > sign()"   →   chain(clip(100), sign())
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any, Final

from zofx.errors import UsageError
from zofx.zo.rules import coefficient_rules, gradient_rules, stateful_rules
from zofx.zo.rules.coefficient_rules import RayRule
from zofx.zo.rules.gradient_rules import TensorRule

RAY_RULES: Final[Mapping[str, Callable[..., RayRule[Any]]]] = {
    "clip": coefficient_rules.clip,
    "normalise_by_spread": coefficient_rules.normalise_by_spread,
    "past_momentum": coefficient_rules.past_momentum,
    "scale_by_rms": coefficient_rules.scale_by_rms,
    "sign": coefficient_rules.sign,
}
TENSOR_RULES: Final[Mapping[str, Callable[..., TensorRule[Any]]]] = {
    "adam": stateful_rules.adam,
    "decay": gradient_rules.decay,
    "diagonal_hessian": stateful_rules.diagonal_hessian,
    "low_rank_momentum": stateful_rules.low_rank_momentum,
    "momentum": stateful_rules.momentum,
    "past_adam": stateful_rules.past_adam,
    "sign_coordinates": gradient_rules.sign_coordinates,
}


def ray_rule(text: str) -> RayRule[Any]:
    """The rule on rays of this text; empty text leaves the estimate as it is.

    Raises:
        UsageError: no such rule, or arguments it does not take.
    """
    return coefficient_rules.chain(*_read(text, RAY_RULES, "rays"))


def tensor_rule(text: str) -> TensorRule[Any] | None:
    """The rule on tensors of this text; None for empty text.

    Raises:
        UsageError: no such rule, or arguments it does not take.
    """
    rules = _read(text, TENSOR_RULES, "tensors")
    return rules[0] if len(rules) == 1 else gradient_rules.chain_tensors(*rules) if rules else None


def _read(text: str, table: Mapping[str, Callable[..., Any]], kind: str) -> list[Any]:
    return [_call(part.strip(), table, kind) for part in text.split(">")] if text.strip() else []


def _call(text: str, table: Mapping[str, Callable[..., Any]], kind: str) -> Any:
    """One rule, `name(literals)`."""
    try:
        parsed = ast.parse(text, mode="eval").body
        if not (isinstance(parsed, ast.Call) and isinstance(parsed.func, ast.Name)):
            raise SyntaxError(text)  # noqa: TRY004, TRY301  one message for all that is not a rule
        name = parsed.func.id
        args = [ast.literal_eval(arg) for arg in parsed.args]
        options = {str(word.arg): ast.literal_eval(word.value) for word in parsed.keywords}
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"'{text}' is not a rule on {kind}; write name(numbers), as in {next(iter(table))}(…)"
        ) from error
    if name not in table:
        raise UsageError(f"there is no rule on {kind} '{name}'; there are: {', '.join(table)}")
    try:
        return table[name](*args, **options)
    except TypeError as error:
        raise UsageError(f"{text}: {error}") from error

"""Forward-mode AD, op by op: how each op carries the tangents of its operands to its result.

    y = op(x₁, …, xₙ)      dy = Σᵢ ∂op/∂xᵢ · dxᵢ       for P directions at once, dy: [P, *y.shape]

`RULES` has every op that is known, by kind: entry by entry, moving entries, products, norms.
Source: Wengert 1964, A Simple Automatic Derivative Evaluation Program, CACM 7(8).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zofx.ir.tangents import elementwise, layout, norms, products
from zofx.ir.tangents.values import Rule, Tangents, Value

RULES: Mapping[Any, Rule] = {
    **elementwise.RULES,
    **layout.RULES,
    **norms.RULES,
    **products.RULES,
}

__all__ = ["RULES", "Rule", "Tangents", "Value", "carry"]


def carry(
    op: Any, d: Tangents, y: Value, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Value | None:
    """The tangent of y = op(*args, **kwargs): [P, *y.shape], None if it is zero.

    Raises:
        NotImplementedError: there is no rule for the op, this form of it, or one of the tangents.
    """
    if op not in RULES:
        raise NotImplementedError("no rule")
    rule = RULES[op]
    names, operands, options = _bound(op, args, kwargs)
    for place, operand in enumerate(operands):
        if place not in rule.operands and any(d(x) is not None for x in _values(operand)):
            raise NotImplementedError(f"no rule for a tangent of its {names[place]}")
    return rule.apply(d, y, *operands, **options)


def _bound(
    op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[str], list[Any], dict[str, Any]]:
    """Names and values of all operands by place, defaults filled in; and what goes by name only."""
    schema = getattr(op, "_schema", None)
    if schema is None:  # a Python operator
        return [str(place) for place in range(len(args))], list(args), dict(kwargs)
    options = dict(kwargs)
    arguments = [a for a in schema.arguments if not a.kwarg_only]
    rest = [options.pop(a.name, a.default_value) for a in arguments[len(args) :]]
    return [a.name for a in arguments], [*args, *rest], options


def _values(operand: Any) -> Iterable[Value]:
    return operand if isinstance(operand, (list, tuple)) else (operand,)

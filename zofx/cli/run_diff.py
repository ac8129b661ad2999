"""`zofx diff RUN RUN` as text and as JSON."""

from typing import Any

from zofx.cli.console import columns
from zofx.runs.comparison import Comparison, Parting

MOST_VALUES = 4
"""Numbers of a record that are printed."""


def fields_of(compared: Comparison) -> dict[str, Any]:
    """For programs."""
    parting = compared.parting
    return {
        "settings": {name: list(pair) for name, pair in compared.settings.items()},
        "steps": list(compared.steps),
        "parting": parting
        and {"step": parting.step, "field": parting.field, "values": list(parting.values)},
        "evaluations": [
            {"step": step, "a": one.to_dict(), "b": other.to_dict()}
            for step, (one, other) in compared.evaluations.items()
        ],
        "theta_distance": compared.distance,
        "theta_moved": compared.moved and list(compared.moved),
    }


def text_of(compared: Comparison, one: str, other: str) -> str:
    """For people: A and B stand for the two folders."""
    settings = [(name, str(a), str(b)) for name, (a, b) in compared.settings.items()]
    results = [(f"step {step}", str(a), str(b)) for step, (a, b) in compared.evaluations.items()]
    lines = [f"A  {one}: {compared.steps[0]} steps", f"B  {other}: {compared.steps[1]} steps"]
    lines += ["", columns([("differs", "A", "B"), *settings])] if settings else ["same settings"]
    lines += ["", _parting(compared)]
    if compared.distance is not None and compared.moved is not None:
        lines.append(
            f"after {min(compared.steps)} steps ‖θ_A − θ_B‖ is {compared.distance:.4g}; they have "
            f"moved {compared.moved[0]:.4g} and {compared.moved[1]:.4g}"
        )
    lines += ["", columns([("on dev", "A", "B"), *results])] if results else []
    return "\n".join(lines)


def _parting(compared: Comparison) -> str:
    parting, shorter = compared.parting, min(compared.steps)
    if parting is None:
        return f"records are equal in all {shorter} steps that both have"
    one, other = (_values(parting, index) for index in (0, 1))
    return f"records part at step {parting.step}: {parting.field} {one} in A, {other} in B"


def _values(parting: Parting, index: int) -> str:
    value = parting.values[index]
    if not isinstance(value, (list, tuple)):
        return f"{value:.9g}"
    more = ", …" if len(value) > MOST_VALUES else ""
    return "[" + ", ".join(f"{number:.9g}" for number in value[:MOST_VALUES]) + more + "]"

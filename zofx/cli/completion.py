"""What a shell offers for a value: names from the tables, read when the shell asks.

`zofx --install-completion` sets a shell up; `zofx --show-completion` prints what it would add.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Final

Completer = Callable[[str], list[str]]

PLACES: Final = {
    "task": "zofx.tasks:TASKS",
    "runtime": "zofx.runtimes:RUNTIMES",
    "method": "zofx.compiler.methods:METHODS",
    "schedule": "zofx.zo.rules.schedule:SHAPES",
    "estimator": "zofx.zo.settings:ESTIMATORS",
    "select_by": "zofx.runs.evaluation:SELECTIONS",
    "export": "zofx.api.export:TAKES",
    "tracker": "zofx.runs.trackers:TRACKERS",
    "pass": "zofx.passes:PASSES",
}
"""What is named → the table of its names; none of them loads an engine."""


def names_of(*kinds: str) -> Completer:
    """A completer for names of these kinds."""

    def complete(incomplete: str) -> list[str]:
        return [name for kind in kinds for name in _names(kind) if name.startswith(incomplete)]

    return complete


def completer(option: str) -> Completer | None:
    """Of a run's option; None where its values have no names."""
    return names_of(option) if option in PLACES else None


def _names(kind: str) -> Iterable[str]:
    module, _, table = PLACES[kind].partition(":")
    names: Iterable[str] = getattr(import_module(module), table)
    return names

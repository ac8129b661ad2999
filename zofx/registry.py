"""A table of named things, loaded when first asked for.

One explicit dict per kind, in the folder it describes; third parties add rows through the
entry-point group `zofx.plugins` (an entry point named `kind:name`). A clash of names raises and
names both owners.
"""

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from zofx.errors import UsageError

T = TypeVar("T")


def lazy(path: str) -> Callable[[], Any]:
    """A loader for `module:attribute` that imports nothing until called."""
    module, _, attribute = path.partition(":")
    return lambda: getattr(importlib.import_module(module), attribute)


class Table(Generic[T]):
    """Name → lazily loaded object; unknown names are answered with near misses."""

    def __init__(self, kind: str, plural: str, rows: Mapping[str, Callable[[], T]]) -> None:
        self.kind = kind
        self.plural = plural
        self._rows = dict(rows)
        self._plugins_merged = False

    def _merged(self) -> dict[str, Callable[[], T]]:
        if not self._plugins_merged:
            from importlib.metadata import entry_points  # 20 ms that a help text need not wait for

            rows, owners = dict(self._rows), dict.fromkeys(self._rows, "zofx")
            for point in entry_points(group="zofx.plugins"):
                kind, _, name = point.name.partition(":")
                if kind != self.kind:
                    continue
                if name in rows:
                    raise UsageError(
                        f"two packages provide the {self.kind} '{name}': {owners[name]} and "
                        f"{point.value}; uninstall one of them"
                    )
                rows[name], owners[name] = point.load, point.value
            self._rows, self._plugins_merged = rows, True
        return self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged())

    def __contains__(self, name: str) -> bool:
        return name in self._merged()

    def __getitem__(self, name: str) -> T:
        rows = self._merged()
        if name not in rows:
            near = difflib.get_close_matches(name, rows, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(rows)}"
            raise UsageError(
                f"there is no {self.kind} '{name}'; {hint} (`zofx list {self.plural}`)"
            )
        return rows[name]()

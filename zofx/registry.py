"""A table of named things, loaded when first asked for.

One explicit dict per kind, in the folder it describes; third parties add rows through the
entry-point group `zofx.plugins` (an entry point named `kind:name`). A clash of names raises and
names both owners.
"""

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from zofx.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class lazy:  # noqa: N801  called like a function
    """A loader for `module:attribute` that imports nothing until called."""

    path: str

    @property
    def module(self) -> str:
        """What is imported."""
        return self.path.partition(":")[0]

    def __call__(self) -> Any:
        """Import it."""
        return getattr(importlib.import_module(self.module), self.path.partition(":")[2])


class Table(Generic[T]):
    """Name → lazily loaded object; unknown names are answered with near misses."""

    def __init__(self, kind: str, plural: str, rows: Mapping[str, Callable[[], T]]) -> None:
        self.kind = kind
        self.plural = plural
        self._rows = self._own = dict(rows)
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
                rows[name], owners[name] = lazy(f"{point.module}:{point.attr}"), point.value
            self._rows, self._plugins_merged = rows, True
        return self._rows

    @property
    def own(self) -> tuple[str, ...]:
        """The names of zofx's own rows: what a help text has, without looking for plugins."""
        return tuple(self._own)

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged())

    def __contains__(self, name: str) -> bool:
        return name in self._merged()

    def about(self, name: str) -> str:
        """The first line of the page of a row's module, which is parsed and not imported."""
        row = self._merged()[name]
        spec = importlib.util.find_spec(row.module) if isinstance(row, lazy) else None
        if spec is None or spec.origin is None:
            return ""
        page = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
        return page.partition("\n")[0]

    def __getitem__(self, name: str) -> T:
        rows = self._merged()
        if name not in rows:
            near = difflib.get_close_matches(name, rows, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(rows)}"
            raise UsageError(
                f"there is no {self.kind} '{name}'; {hint} (`zofx list {self.plural}`)"
            )
        return rows[name]()

"""Where the time of a step goes: methods are replaced by timed ones, in the process that measures.

a call counts for its own label, less what labelled calls within it count for theirs
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any


class Clock:
    """Seconds by label.

    Attributes:
        seconds: since the last `take`.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._within = [0.0]

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Time a method of a class, or a function of a module, from now on.

        Args:
            owner: the class or module.
            name: of the attribute.
            label: what its time counts for.
        """
        setattr(owner, name, self.timed(getattr(owner, name), label))

    def timed(self, plain: Callable[..., Any], label: str) -> Callable[..., Any]:
        """The same function, its own time counted."""

        @wraps(plain)
        def timed(*args: Any, **options: Any) -> Any:
            self._within.append(0.0)
            began = time.perf_counter()
            try:
                return plain(*args, **options)
            finally:
                spent = time.perf_counter() - began
                self.seconds[label] += spent - self._within.pop()
                self._within[-1] += spent

        return timed

    def take(self) -> dict[str, float]:
        """Seconds by label; starts over."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken

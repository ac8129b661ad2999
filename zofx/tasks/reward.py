"""A reward of one's own: a Python function that judges a text.

    reward:FILE.py:FUNCTION   →   function(text, example) → a number, greater is better

The file is code and is run as such, by who names it: no artifact and no task does. `text` is what
the model wrote after the prompt; `example` is a `zofx.tasks.Example`, with its `prompt`,
`candidates`, `answer` and `references`.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from zofx.errors import UsageError
from zofx.files.atomic import file_digest
from zofx.tasks.types import Example

PREFIX = "reward:"
FORM = "reward:FILE.py:FUNCTION"


def digest(objective: str) -> str | None:
    """SHA-256 of the file that an objective names; None where it names none, or it is gone."""
    path = Path(objective.removeprefix(PREFIX).rpartition(":")[0])
    return file_digest(path) if objective.startswith(PREFIX) and path.is_file() else None


@dataclass(frozen=True)
class Reward:
    """A function and where it is from.

    Attributes:
        path: of its file, absolute.
        name: of the function.
        function: (text, example) → number.
    """

    path: Path
    name: str
    function: Callable[[str, Example], Any]

    @classmethod
    def load(cls, text: str) -> Self:
        """Run the file that `reward:FILE.py:FUNCTION` names, and take the function from it.

        Raises:
            UsageError: it is written otherwise, there is no such file or function, or the file
                raises.
        """
        file, _, name = text.removeprefix(PREFIX).rpartition(":")
        if not (text.startswith(PREFIX) and file.endswith(".py") and name.isidentifier()):
            raise UsageError(f"objective '{text}' names no function; write it as {FORM}")
        path = Path(file).resolve()
        if not path.is_file():
            raise UsageError(f"objective '{text}': there is no file {path}")
        function = getattr(_module(path), name, None)
        if not callable(function):
            raise UsageError(f"{path} has no function '{name}'; define {name}(text, example)")
        return cls(path, name, function)

    @property
    def identity(self) -> str:
        """What a run is known by, wherever it is started from."""
        return f"{PREFIX}{self.path}:{self.name}"

    def __call__(self, text: str, example: Example) -> float:
        """The reward of a text.

        Raises:
            UsageError: the function raises, or returns no finite number; with file, function, text.
        """
        where = f"{self.path}: {self.name}({_short(text)}, {_short(example.id or example.prompt)})"
        try:
            value = self.function(text, example)
        except Exception as error:  # whatever a function of the user's raises
            raise UsageError(f"{where} raised {type(error).__name__}: {error}; mend it") from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"{where} returned {value!r}; return a finite number")
        return number


def _module(path: Path) -> ModuleType:
    """Run a file as a module of its own."""
    name = f"zofx_reward_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None, "a .py file always has a loader"
    assert spec.loader is not None, "a .py file always has a loader"
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises, a slip of syntax included
        raise UsageError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")

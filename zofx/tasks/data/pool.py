"""What a data set offers, and how much of it a run takes: words of a task, free of numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from zofx.errors import UsageError

R = TypeVar("R")


@dataclass(frozen=True)
class Sizes:
    """How many examples a run draws, at most."""

    train: int = 1000
    dev: int = 500
    test: int = 1000

    def __post_init__(self) -> None:
        for name in ("train", "dev", "test"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} {getattr(self, name)}: a split cannot be negative")


@dataclass(frozen=True)
class Pool(Generic[R]):
    """What a data set offers. A split that is None is drawn from `train`."""

    train: Sequence[R]
    dev: Sequence[R] | None = None
    test: Sequence[R] | None = None

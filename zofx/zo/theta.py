"""θ, as the driver sees it: named trainable tensors that move along seeded directions.

A session is a Theta that can also evaluate; a test's is a dictionary of arrays.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from zofx.zo.random.direction_spec import Noise
from zofx.zo.types import FloatArray, Key, Ray


class Theta(Protocol):
    """The trainable tensors of one run, float32, and the state beside them."""

    @property
    def trainables(self) -> Mapping[str, tuple[int, ...]]:
        """Name → shape of every trainable tensor that moves along directions."""
        ...

    @property
    def noise(self) -> Noise:
        """How a tensor's direction follows from a key."""
        ...

    def move(self, rays: Sequence[Ray]) -> None:
        """θ ← θ + coefficient · z(key), ray by ray in order.

        Multiply then add, each rounded to float32.
        """
        ...

    def direction(self, key: Key, name: str) -> FloatArray:
        """z(key) for one tensor."""
        ...

    def refresh(self, key: Key) -> None:
        """Fold every low-rank tensor into its base, and give it the basis of this key."""
        ...

    def read(self) -> dict[str, FloatArray]:
        """A copy of θ and of the state beside it."""
        ...

    def write(self, values: Mapping[str, FloatArray]) -> None:
        """Replace all of it (every name, same shapes)."""
        ...


def digest(theta: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of names, shapes and values, in hex."""
    hasher = hashlib.sha256()
    for name in sorted(theta):
        hasher.update(f"{name}{theta[name].shape}".encode())
        hasher.update(theta[name].tobytes())
    return hasher.hexdigest()

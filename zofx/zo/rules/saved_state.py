"""The state of a rule as named arrays, and back.

    AdamState({W: m}, {W: v}, β₁ᵗ, β₂ᵗ)   ⇄   {"/0/W": m, "/1/W": v, "/2": β₁ᵗ, "/3": β₂ᵗ}

A state is arrays, numbers and None in mappings and tuples. To read one back takes another of the
same form, such as the one before the first step.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = dict[str, NDArray[Any]]


def saved(state: Any) -> Arrays:
    """The arrays of a state; numbers are f64[] or i64[]."""
    return dict(_leaves(state, ""))


def restored(like: Any, arrays: Mapping[str, NDArray[Any]], path: str = "") -> Any:
    """A state of the form of another one, with saved values.

    Raises:
        KeyError: these arrays are of a state of another form.
    """
    if isinstance(like, Mapping):
        return {name: restored(part, arrays, f"{path}/{name}") for name, part in like.items()}
    if isinstance(like, tuple):
        parts = [restored(part, arrays, f"{path}/{n}") for n, part in enumerate(like)]
        return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)
    if isinstance(like, np.ndarray):
        return np.array(arrays[path])
    return None if like is None else type(like)(arrays[path].item())


def _leaves(state: Any, path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(state, Mapping):
        for name, part in state.items():
            yield from _leaves(part, f"{path}/{name}")
    elif isinstance(state, tuple):
        for number, part in enumerate(state):
            yield from _leaves(part, f"{path}/{number}")
    elif state is not None:
        yield path, np.asarray(state)

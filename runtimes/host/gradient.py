"""The exact gradient on an engine without one: two graphs, and residuals that stay in its memory.

    rows of a group              →   logprob, residuals     forward
    logprob f32[N, C] of all     →   cotangent f32[N, C]    the host's objective, whatever it is
    group, residuals, cotangent  →   gradients              backward
    Σ over groups, in their order, f32

The residuals of a group are dropped with its backward. Their size is what a batch costs beyond a
forward, so a caller with little memory asks for a few rows at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from zofx.session import Weigh
from zofx.zo.types import FloatArray, IntArray

Feeds: TypeAlias = dict[str, Any]
Gradients: TypeAlias = dict[str, FloatArray]
Map: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


class GradientEngine(ABC):
    """The forward graph that returns residuals, and the backward graph."""

    @abstractmethod
    def forward(self, feeds: Feeds) -> tuple[FloatArray, Feeds]:
        """Scores f32[N, C] of some rows, and the residuals by name, as the engine holds them."""

    @abstractmethod
    def backward(self, feeds: Feeds, residuals: Feeds, cotangent: FloatArray) -> Gradients:
        """Name → gradient, from the cotangent f32[N, C] of the same rows' scores."""


def gradient(
    engine: GradientEngine,
    groups: Sequence[tuple[IntArray, Feeds]],
    weigh: Weigh,
    each: Map = map,
) -> Gradients:
    """The gradient of a loss of all rows.

    Args:
        engine: computes.
        groups: which rows of the batch, and all that the graphs read of them.
        weigh: the derivative of the loss by the scores of all rows.
        each: as `map`; several at a time, where the engine may.
    """
    forwards = list(each(lambda group: engine.forward(group[1]), groups))
    rows = np.concatenate([own for own, _ in groups])
    back = np.argsort(rows)
    weights = weigh(np.concatenate([scores for scores, _ in forwards])[back]).astype(np.float32)
    residuals = [kept for _, kept in forwards]
    del forwards

    def pull_back(number: int) -> Gradients:
        own, feeds = groups[number]
        kept, residuals[number] = residuals[number], {}
        return engine.backward(feeds, kept, weights[own])

    total: Gradients = {}
    for part in each(pull_back, range(len(groups))):
        for name, values in part.items():
            total[name] = total[name] + values if name in total else values
    return total

"""The step of a run after which a metric fell, found by halving.

    good < bad,  metric(good) ≥ threshold > metric(bad)
    k = ⌊(good + bad) / 2⌋   →   the half in which it falls       ⌈log₂(bad − good)⌉ measurements

A metric that goes up and down may fall several times: one of these places is found.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zofx.errors import UsageError


@dataclass(frozen=True)
class Fall:
    """Where a metric fell.

    Attributes:
        good: the last step at which it was still there; θ after so many steps.
        bad: the step after it.
        threshold: what it fell below.
        values: step → metric, of all that was measured.
    """

    good: int
    bad: int
    threshold: float
    values: Mapping[int, float]


def bisect(
    measure: Callable[[int], float], good: int, bad: int, threshold: float | None = None
) -> Fall:
    """Find where a metric fell.

    Args:
        measure: step → metric, greater is better.
        good: a step where it is high.
        bad: a later one where it is low.
        threshold: what counts as low; None is the middle of the two.

    Raises:
        UsageError: it did not fall between the two.
    """
    if good >= bad:
        raise UsageError(f"--good {good}, --bad {bad}: the good step comes before the bad one")
    values = {good: measure(good), bad: measure(bad)}
    limit = (values[good] + values[bad]) / 2 if threshold is None else threshold
    if not values[good] >= limit > values[bad]:
        raise UsageError(
            f"the metric did not fall below {limit:.4g}: it is {values[good]:.4g} at step {good} "
            f"and {values[bad]:.4g} at step {bad}; name steps with --good and --bad"
        )
    while bad - good > 1:
        middle = (good + bad) // 2
        values[middle] = measure(middle)
        if values[middle] >= limit:
            good = middle
        else:
            bad = middle
    return Fall(good, bad, limit, dict(sorted(values.items())))

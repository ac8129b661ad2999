"""Replay: θ from the artifact and the journal, with no forward and no data.

    rays     θ ← θ + coefficient · z                                     session.move
    tensors  θ ← θ − learning rate · rule(Σ coefficient · z)             read, session.write

A training step ends in the same `Mover`, so what a run did and what a replay does cannot differ.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from zofx.errors import UsageError
from zofx.zo.journal import Journal
from zofx.zo.tensors import TensorRule
from zofx.zo.types import FloatArray, Ray

if TYPE_CHECKING:  # zofx.runtime imports zofx.zo.types: at run time the arrow points one way
    from zofx.runtime import Session


class Mover:
    """Moves a session's θ by recorded rays; keeps the state of the rule on tensors.

    Args:
        session: holds θ.
        rule: on materialised gradients; None moves along the rays themselves.
    """

    def __init__(self, session: "Session", rule: TensorRule[Any] | None) -> None:
        self._session = session
        self._rule = rule
        self._state = rule.init(session.read()) if rule else None

    def move(self, rays: tuple[Ray, ...], rate: float) -> None:
        """One step; `rate` is what a rule's direction is multiplied by."""
        if self._rule is None:
            self._session.move(rays)
            return
        theta = self._session.read()
        gradient = self._materialise(rays, theta)
        direction, self._state = self._rule.update(gradient, theta, self._state)
        down = np.float32(-rate)
        self._session.write({name: theta[name] + down * direction[name] for name in theta})

    def _materialise(
        self, rays: tuple[Ray, ...], theta: dict[str, FloatArray]
    ) -> dict[str, FloatArray]:
        """Σ coefficient · z on every slice, ray by ray in order."""
        gradient = {name: np.zeros_like(values) for name, values in theta.items()}
        for ray in rays:
            for name, z in self._session.direction(ray.key).items():
                gradient[name] += np.float32(ray.coefficient) * z
        return gradient


def replay(
    session: "Session",
    journal: Journal,
    upto: int | None = None,
    tensors: TensorRule[Any] | None = None,
) -> int:
    """θ from (artifact, journal): move a fresh session along the recorded rays; evaluates nothing.

    Args:
        session: at the artifact's initial values; bit-equal on every runtime afterwards.
        journal: of the run.
        upto: the step before which to stop; None replays all.
        tensors: the recipe's rule on tensors, when it has one.

    Returns:
        How many steps were replayed.

    Raises:
        UsageError: `tensors` is not the rule the run was made with; nothing has moved.
    """
    given = tensors.text if tensors else ""
    if given != journal.header.tensors:
        raise UsageError(
            f"this journal was made with the rule on tensors '{journal.header.tensors}', not with "
            f"'{given}': replay it with the recipe it names, {journal.header.recipe}"
        )
    mover = Mover(session, tensors)
    replayed = 0
    for record in journal:
        if upto is not None and record.step >= upto:
            break
        mover.move(record.rays(journal.header.seed), record.learning_rate)
        replayed += 1
    return replayed

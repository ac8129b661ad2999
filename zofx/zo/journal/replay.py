"""Replay: θ from the artifact and the journal, with no forward and no data.

    refresh  every so many steps: low-rank trainables get a new basis        theta.refresh
    rays     θ ← θ + coefficient · z                                     theta.move
    tensors  θ ← θ − learning rate · rule(Σ coefficient · z)             read, theta.write

A training step ends in the same `Mover`, so what a run did and what a replay does cannot differ.
A rule on tensors is given one trainable after another, each with a state of its own: beside θ and
the states, a step holds a copy of θ, and temporaries of one trainable.
"""

from collections import deque
from functools import partial
from itertools import islice
from typing import Any, Final

import numpy as np

from zofx.errors import UsageError
from zofx.zo.journal.format import Journal
from zofx.zo.rules.gradient_rules import Gradient, TensorRule, Tensors
from zofx.zo.rules.saved_state import Arrays, restored, saved
from zofx.zo.theta import Theta
from zofx.zo.types import Key, Ray

THETA: Final = "theta:"
STATES: Final = "states:"


class Mover:
    """Moves θ by recorded rays; keeps the state of the rule on tensors.

    Args:
        theta: to move.
        rule: on materialised gradients; None moves along the rays themselves.
        seed: of the run.
        refresh: steps between two bases of low-rank trainables; 0 for none. A recipe has both this
            and a rule only where the rule's state can follow.
        exact: learning rate of exact gradients, in units of a step's rate.
        exact_rule: on exact gradients; None goes along them.
    """

    def __init__(
        self,
        theta: Theta,
        rule: TensorRule[Any] | None,
        seed: int,
        refresh: int,
        exact: float,
        exact_rule: TensorRule[Any] | None = None,
    ) -> None:
        self._theta = theta
        self._rule = rule
        self._seed, self._refresh = seed, refresh
        self._exact, self._exact_rule = exact, exact_rule
        self._exact_states: dict[str, Any] = {}
        self._begun = -1
        self._states: dict[str, Any] = {}
        if rule:
            values = theta.read()
            self._states = {name: rule.init(self._part(name, values)) for name in theta.trainables}
        self._past: deque[tuple[Ray, ...]] = deque(maxlen=rule.window - 1 if rule else 0)

    def begin_step(self, step: int) -> None:
        """Refresh the low-rank basis when due. Idempotent within a step."""
        if step == self._begun:
            return
        self._begun = step
        if not self._refresh or step % self._refresh:
            return
        carry = self._rule.refreshed if self._rule else None
        old = self._theta.read() if carry else {}
        self._theta.refresh(Key(self._seed, step))
        if carry:
            new, noise = self._theta.read(), self._theta.noise
            self._states = {n: carry(state, old, new, noise) for n, state in self._states.items()}

    def move(self, rays: tuple[Ray, ...], rate: float, exact: Tensors | None = None) -> None:
        """The end of a step.

        Args:
            rays: of the step.
            rate: what a rule's direction is multiplied by.
            exact: gradients of the tensors that have exact ones, at θ before the step.
        """
        if self._rule is None:
            self._theta.move(rays)
        else:
            self._follow(self._rule, rays, rate)
        if exact:
            self._descend(exact, np.float32(-rate * self._exact))

    @property
    def saves(self) -> bool:
        """Whether all that a step inherits, beside a journal's scalars, is θ and exact states."""
        return self._rule is None

    def saved(self) -> Arrays:
        """θ and the states of the rule on exact gradients, as named arrays."""
        states = saved(self._exact_states)
        return {
            **{f"{THETA}{name}": values for name, values in self._theta.read().items()},
            **{f"{STATES}{path}": values for path, values in states.items()},
        }

    def restore(self, arrays: Arrays) -> None:
        """Take back what was saved.

        Raises:
            KeyError: it was saved under another rule.
        """
        values = {n.removeprefix(THETA): v for n, v in arrays.items() if n.startswith(THETA)}
        states = {n.removeprefix(STATES): v for n, v in arrays.items() if n.startswith(STATES)}
        if self._exact_rule:
            names = {path.split("/")[1] for path in states}
            like = {name: self._exact_rule.init({name: values[name]}) for name in names}
            self._exact_states = restored(like, states)
        self._theta.write(values)

    def _descend(self, gradients: Tensors, down: np.float32) -> None:
        """Along exact gradients, or what their rule makes of them."""
        values, rule = self._theta.read(), self._exact_rule
        for name, along in gradients.items():
            if rule:
                before = {name: values[name]}
                state = self._exact_states.get(name) or rule.init(before)
                given = Gradient((), (), partial(self._direction, name), {name: along})
                directions, self._exact_states[name] = rule.update(given, before, state)
                along = directions[name]
            values[name] = values[name] + down * along
        self._theta.write(values)

    def _follow(self, rule: TensorRule[Any], rays: tuple[Ray, ...], rate: float) -> None:
        values, past, down = self._theta.read(), tuple(self._past), np.float32(-rate)
        for name in self._theta.trainables:
            before = self._part(name, values)
            gradient = Gradient(rays, past, partial(self._direction, name))
            along, self._states[name] = rule.update(gradient, before, self._states[name])
            values[name] += down * along[name]
            values |= rule.exposes(self._states[name])
        self._past.appendleft(rays)
        self._theta.write(values)

    def _part(self, name: str, values: Tensors) -> Tensors:
        """A trainable, and the scale of its directions."""
        scale = self._theta.noise.spec(name).scale
        return {part: values[part] for part in (name, scale) if part}

    def _direction(self, name: str, key: Key) -> Tensors:
        """The z of one trainable, drawn when it is asked for; θ is written after the last."""
        return {name: self._theta.direction(key, name)}


def replay(
    theta: Theta,
    journal: Journal,
    upto: int | None = None,
    tensors: TensorRule[Any] | None = None,
    start: int = 0,
) -> int:
    """θ from (artifact, journal): move a fresh θ along the recorded rays; evaluates nothing.

    Args:
        theta: at the artifact's initial values, or where `start` steps lead; bit-equal on every
            runtime afterwards.
        journal: of the run.
        upto: the step before which to stop; None replays all.
        tensors: the recipe's rule on tensors, when it has one.
        start: the first step that is replayed; a rule on tensors has a state, and starts at 0.

    Returns:
        How many steps were replayed.

    Raises:
        UsageError: `tensors` is not the rule the run was made with, or cannot start there; nothing
            has moved.
    """
    given = tensors.text if tensors else ""
    if given != journal.header.tensors:
        raise UsageError(
            f"this journal was made with the rule on tensors '{journal.header.tensors}', not with "
            f"'{given}': replay it with the recipe it names, {journal.header.recipe}"
        )
    if tensors and start:
        raise UsageError(f"'{given}' has a state: its journal is replayed from step 0")
    header = journal.header
    if header.exact:
        raise UsageError(
            "the journal records the steps along rays alone, and this run trained some tensors by "
            "exact gradients, which take its data: resume it, or take its best or last step"
        )
    mover = Mover(theta, tensors, header.seed, header.refresh, header.exact)
    replayed = 0
    for record in islice(journal, start, upto):
        mover.begin_step(record.step)
        mover.move(record.rays(header), record.learning_rate)
        replayed += 1
    return replayed

"""Callbacks: what follows a run, and may stop it.

step, evaluation ──▶ callback ──True──▶ the run stops there; `Run.resume` goes on with it
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zofx.runs.evaluation import Evaluation
    from zofx.runs.metrics_log import StepMetrics
    from zofx.runs.run_config import RunConfig


class Callback:
    """Follows a run; override what is of interest. No bit of a run depends on its callbacks."""

    def on_start(self, config: "RunConfig", steps: int) -> None:
        """A run is about to be made, or gone on with; it is to have so many steps."""

    def on_message(self, text: str) -> None:
        """What a person would want to read: what is trained, what the pre-flight measured."""

    def on_progress(self, what: str, done: int, total: int) -> None:
        """So much of some other work is done, such as "pre-flight"."""

    def on_step(self, metrics: "StepMetrics") -> bool | None:
        """A step was made; True stops the run."""
        return None

    def on_evaluation(self, step: int, evaluation: "Evaluation") -> bool | None:
        """θ after so many steps was evaluated on dev; True stops the run."""
        return None

    def on_end(self) -> None:
        """The run is over, was stopped, or failed."""


class Callbacks:
    """Several callbacks as one observer of `zofx.runs.tune.train`.

    Attributes:
        stopped: whether one of them has asked to stop.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)
        self.stopped = False

    def start(self, config: "RunConfig", steps: int) -> None:
        """To all."""
        for callback in self._callbacks:
            callback.on_start(config, steps)

    def message(self, text: str) -> None:
        """To all."""
        for callback in self._callbacks:
            callback.on_message(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """To all."""
        for callback in self._callbacks:
            callback.on_progress(what, done, total)

    def step(self, metrics: "StepMetrics") -> None:
        """To all, whoever asks to stop."""
        asked = [callback.on_step(metrics) for callback in self._callbacks]
        self.stopped |= any(answer is True for answer in asked)

    def evaluation(self, step: int, evaluation: "Evaluation") -> None:
        """To all, whoever asks to stop."""
        asked = [callback.on_evaluation(step, evaluation) for callback in self._callbacks]
        self.stopped |= any(answer is True for answer in asked)

    def close(self) -> None:
        """To all."""
        for callback in self._callbacks:
            callback.on_end()

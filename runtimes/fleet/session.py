"""A session whose forwards are its workers'.

    evaluate(batch, keys, C)   the grid P × N in cells ──▶ workers ──▶ scores in their places
    move(rays)                 sent to all, and made here: nothing is waited for

The head has θ too, so what the driver reads of it takes no message, and every so many forwards each
worker's hash of θ is compared with its own: one that differs is stopped. A cell whose worker dies
or is late is evaluated by another in the same forward. Of a program with 8-bit activations another
split is another rounding: scores may differ by that, θ never.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray

from zofx.artifact.manifest import Manifest
from zofx.errors import ZofxError
from zofx.ir.schema import Result
from zofx.runtimes.fleet.cells import Cell, Split, cells
from zofx.runtimes.fleet.crew import Crew, Member
from zofx.runtimes.fleet.worker import Scores
from zofx.runtimes.host.activation_cache import ActivationCache
from zofx.runtimes.host.theta import HostThetaSession, initial_theta
from zofx.session import Batch
from zofx.zo.theta import digest
from zofx.zo.types import FloatArray, Key, Ray

FLOOR: Final = 2.0
"""Seconds that a cell has at least before others evaluate it too."""
SLACK: Final = 4.0
"""Times a cell's expected seconds that it has."""
FIRST: Final = 30.0
"""Seconds that a worker's first cell has beyond that: engines prepare themselves there."""
TRIES: Final = 3
"""Workers that may fail at a cell before it is the cell's fault."""


@dataclass(frozen=True)
class _Given:
    """Who evaluates a cell, on which of its processes, since when."""

    member: Member
    actor: Any
    since: float

    @property
    def current(self) -> bool:
        """Whether that process is still the member's."""
        return self.member.actor is self.actor


@dataclass(eq=False)
class _Task:
    """One cell until its scores are there."""

    cell: Cell
    calls: dict[Any, _Given] = field(default_factory=dict)
    began: float = 0.0
    limit: float = np.inf
    errors: list[str] = field(default_factory=list)


class FleetSession(HostThetaSession):
    """One artifact on many workers.

    Args:
        folder: the artifact.
        manifest: its description.
        crew: the workers.
        split: of the grid.
        hash_every: forwards between two comparisons of θ.
        owns: whether Ray was started for this session, and ends with it.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        crew: Crew,
        split: Split = "auto",
        hash_every: int = 50,
        *,
        owns: bool = False,
    ) -> None:
        super().__init__(initial_theta(folder, manifest))
        self._crew, self._hash_every, self._owns = crew, hash_every, owns
        # Tangents have a row more than the matrix, which every worker would compute.
        self._split: Split = "rows" if manifest.result is Result.TANGENTS else split
        self._forwards = 0
        self._busy, self._waited = 0.0, 0.0

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        """Score a batch under P probes, every cell where it is soonest done."""
        members = self._crew.at_work()
        began = time.perf_counter()
        self._forwards += 1
        check = self._forwards % self._hash_every == 0
        tokens = batch.attention_mask.sum(1)
        known = [member.speed for member in members if member.speed is not None]
        usual = float(np.mean(known)) if known else 1.0
        speeds = [member.speed or usual for member in members]
        tasks = [_Task(c) for c in cells(tokens, len(coefficients), speeds, self._split)]
        for member in set(members) - {members[task.cell.worker] for task in tasks}:
            member.passed_over(usual)
        call = _Call(self._crew, batch, list(keys), coefficients, check)
        for task in tasks:
            call.give(task, members[task.cell.worker])
        parts = call.collect(tasks, digest(self.read()) if check else "")
        self._busy += sum(part.seconds for part in parts)
        self._waited += time.perf_counter() - began
        return _joined(tasks, parts, len(coefficients), len(tokens))

    def move(self, rays: Sequence[Ray]) -> None:
        """θ ← θ + coefficient · z(key), here and on every worker at once."""
        if rays:
            self._crew.move(tuple(rays))
            super().move(rays)

    def refresh(self, key: Key) -> None:
        """Fold every low-rank trainable and give it the basis of a key, everywhere."""
        self._crew.move(key)
        super().refresh(key)

    def write(self, values: Mapping[str, FloatArray]) -> None:
        """Replace all that moves, everywhere: the one time that values cross."""
        super().write(values)
        self._crew.rebase(self.read())

    def keep_activations(self, activations: ActivationCache) -> None:
        """Workers keep the frozen prefix's results in a folder of this name each sees."""
        self._crew.keep(str(activations.folder.resolve()), activations.limit)

    def rows_per_second(self) -> dict[str, float]:
        """Rows × probes per second of every worker that was measured."""
        return {m.name: round(m.rows, 1) for m in self._crew.members if m.rows is not None}

    @property
    def speedup(self) -> float:
        """Seconds that workers computed, over seconds that were waited for them."""
        return self._busy / self._waited if self._waited else 0.0

    def messages(self) -> list[str]:
        """What happened to workers since this was last asked."""
        kept, self._crew.messages = self._crew.messages, []
        return kept

    def close(self) -> None:
        """End the workers, and Ray if it was started for them."""
        self._crew.close()
        if self._owns and ray.is_initialized():
            ray.shutdown()


class _Call:
    """One forward of the fleet."""

    def __init__(
        self, crew: Crew, batch: Batch, keys: list[Key], matrix: FloatArray, check: bool
    ) -> None:
        self.crew, self.batch, self.keys, self.matrix = crew, batch, keys, matrix
        self.check = check

    def give(self, task: _Task, member: Member) -> None:
        """Let a member evaluate a cell."""
        cell = task.cell
        matrix = np.ascontiguousarray(self.matrix[cell.probes])
        call = member.actor.evaluate.remote(
            member.position, self.batch.rows(cell.rows), self.keys, matrix, check=self.check
        )
        expected = cell.work / member.speed if member.speed else FIRST
        task.began, task.limit = time.monotonic(), FLOOR + SLACK * expected
        task.calls[call] = _Given(member, member.actor, task.began)

    def collect(self, tasks: list[_Task], wanted: str) -> list[Scores]:
        """Wait for every cell; what is lost or late goes to who has nothing to do.

        Raises:
            ZofxError: several workers fail at one cell.
        """
        results: dict[int, Scores] = {}
        while len(results) < len(tasks):
            open_ = {
                call: (place, task)
                for place, task in enumerate(tasks)
                if place not in results
                for call in task.calls
            }
            done, _ = ray.wait(list(open_), timeout=self._patience(open_)) if open_ else ([], [])
            for call in done:
                place, task = open_[call]
                scores = self._result(task, call, wanted)
                if scores is not None and place not in results:
                    results[place] = scores
                    self._let_go(task)
            for place, task in enumerate(tasks):
                if place not in results and self._needs_another(task):
                    self._give_again(task, tasks, results)
        return [results[place] for place in range(len(tasks))]

    def _patience(self, open_: Mapping[Any, tuple[int, _Task]]) -> float:
        now = time.monotonic()
        return max(0.0, min(task.began + task.limit for _, task in open_.values()) - now)

    def _needs_another(self, task: _Task) -> bool:
        return not task.calls or time.monotonic() >= task.began + task.limit

    def _give_again(self, task: _Task, tasks: list[_Task], results: dict[int, Scores]) -> None:
        """To the fastest that is idle; where all are at work on their cells, a little later."""
        self._drop_hung(task)
        # Where its worker is gone, somebody must be there.
        members = self.crew.now() if task.calls else self.crew.at_work()
        at_work = {
            given.member
            for place, other in enumerate(tasks)
            if place not in results
            for given in other.calls.values()
        }
        idle = [member for member in members if member not in at_work]
        if idle or not task.calls:
            self.give(task, max(idle or members, key=lambda member: member.speed or 0.0))
        else:
            task.began, task.limit = time.monotonic(), FLOOR

    def _drop_hung(self, task: _Task) -> None:
        for call, given in list(task.calls.items()):
            late = time.monotonic() - given.since
            if late > self.crew.hung:
                del task.calls[call]
                if given.current:
                    self.crew.lose(given.member, f"no answer for {late:.0f} s")

    def _result(self, task: _Task, call: Any, wanted: str) -> Scores | None:
        """What a call brought; None if its worker failed at it."""
        given = task.calls.pop(call)
        member = given.member
        try:
            scores: Scores = ray.get(call)
        except ray.exceptions.RayActorError:
            if given.current:
                self.crew.lose(member, "its process died")
            return None
        except ray.exceptions.RayTaskError as error:
            cause = error.cause or error
            task.errors.append(f"{member.name}: {cause}")
            if len(task.errors) >= min(TRIES, len(self.crew.members)):
                raise (
                    cause
                    if isinstance(cause, ZofxError)
                    else ZofxError(
                        f"{len(task.errors)} workers failed at the same rows: {task.errors[-1]}"
                    )
                ) from error
            if given.current:
                self.crew.lose(member, str(cause).partition("\n")[0])
            return None
        if scores.digest != wanted:
            self.crew.refuse(member, "its θ is not the head's: memory or engine are at fault there")
            return None
        member.measured(task.cell.work, _grid(task.cell), scores.seconds)
        return scores

    def _let_go(self, task: _Task) -> None:
        """Who is late with a cell that is there now gets no more until it is done."""
        for call, given in task.calls.items():
            if given.current:
                self.crew.late(given.member, call, task.cell.work, _grid(task.cell))


def _grid(cell: Cell) -> float:
    return float(len(cell.rows) * (cell.probes.stop - cell.probes.start))


def _joined(tasks: Sequence[_Task], parts: Sequence[Scores], probes: int, rows: int) -> FloatArray:
    """Scores in their places; those of tangents have a row before the probes'."""
    first = parts[0].values
    extra = len(first) - (tasks[0].cell.probes.stop - tasks[0].cell.probes.start)
    joined = np.empty((probes + extra, rows, first.shape[2]), np.float32)
    for task, part in zip(tasks, parts, strict=True):
        cell = task.cell
        joined[cell.probes.start : cell.probes.stop + extra, cell.rows] = part.values
    return joined

"""The workers of a fleet, as the head sees them.

    starting ──placed──▶ opening ──loaded──▶ catching up ──at the log's end──▶ at work
       ▲                    │ has no artifact: it is sent, once, through the object store
       └──── lost ◀─────────┴── died, or hung too long: a new process takes its place
    refused: another artifact, another zofx, another θ; it is told, and stays away

θ is where the log of moves leads: rays, keys of refreshes, values that were written. A worker that
comes late, or again, replays the log while the others work on. Nothing waits for a lost one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import ray

from zofx.errors import UnsupportedError
from zofx.runtimes.fleet.worker import Move, Opened, Order, Scores, Worker

RESTARTS: Final = 5
"""New processes in a row for one that never evaluates anything."""
SMOOTHING: Final = 0.3
"""Weight of the last cell in a worker's measured speed."""


class State(StrEnum):
    """What a member does."""

    STARTING = "starting"
    CATCHING_UP = "catching up"
    READY = "ready"
    BUSY = "busy"  # with a cell that others have evaluated meanwhile
    LOST = "lost"
    REFUSED = "refused"


@dataclass(eq=False)
class Member:
    """One place in the crew.

    Attributes:
        name: as it is shown.
        order: what it opens.
        actor: its process now.
        state: of it.
        pending: the call whose end changes the state.
        position: how many moves of the log it was sent.
        speed: tokens × probes per second, smoothed; None until it is measured.
        busy_since: when it was given the cell that it is late with.
        cell: work and rows of that cell.
        restarts: since it last evaluated something.
        rows: rows × probes per second, smoothed, as it is shown.
    """

    name: str
    order: Order
    actor: Any = None
    state: State = State.STARTING
    pending: Any = None
    position: int = 0
    speed: float | None = None
    busy_since: float = 0.0
    cell: tuple[float, float] = (0.0, 0.0)
    restarts: int = 0
    rows: float | None = None

    def measured(self, work: float, rows: float, seconds: float) -> None:
        """A cell came back."""
        self.restarts = 0
        speed, rate = work / max(seconds, 1e-6), rows / max(seconds, 1e-6)
        keep = 1 - SMOOTHING
        self.speed = speed if self.speed is None else keep * self.speed + SMOOTHING * speed
        self.rows = rate if self.rows is None else keep * self.rows + SMOOTHING * rate

    def passed_over(self, usual: float) -> None:
        """It was too slow for a cell: it is taken for a bit faster, until it is tried again."""
        if self.speed is not None:
            self.speed += SMOOTHING * max(0.0, usual - self.speed)


@dataclass
class Log:
    """The moves of a session, from where its first values were written.

    Attributes:
        start: position of the first that is kept.
        moves: what follows.
    """

    start: int = 0
    moves: list[Move] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The position that θ is at."""
        return self.start + len(self.moves)

    def since(self, position: int) -> list[Move]:
        """What follows on a position."""
        return self.moves[position - self.start :]


class Crew:
    """The members, and what happens to them.

    Args:
        orders: what each opens, by name.
        artifact: the folder, for workers that do not see it.
        hung: seconds after which a late worker is killed.
    """

    def __init__(self, orders: Sequence[tuple[str, Order]], artifact: Path, hung: float) -> None:
        self.members = [Member(name, order) for name, order in orders]
        self.log = Log()
        self.messages: list[str] = []
        self._artifact, self.hung = artifact, hung
        for member in self.members:
            self._start(member)

    @cached_property
    def _files(self) -> Any:
        """The artifact in the object store."""
        paths = [path for path in self._artifact.rglob("*") if path.is_file()]
        return ray.put({str(p.relative_to(self._artifact)): p.read_bytes() for p in paths})

    def at_work(self) -> list[Member]:
        """Who can be given a cell now; waits for the first.

        Raises:
            UnsupportedError: nobody is left.
        """
        self._poll(0)
        while not any(member.state is State.READY for member in self.members):
            coming = (State.STARTING, State.CATCHING_UP, State.BUSY)
            if not any(member.state in coming for member in self.members):
                raise UnsupportedError("no worker of the fleet is left", self.messages[-8:])
            self._poll(1.0)
        return self.now()

    def now(self) -> list[Member]:
        """Who can be given a cell now; nobody is waited for."""
        self._poll(0)
        return [member for member in self.members if member.state is State.READY]

    def keep(self, folder: str, limit: float) -> None:
        """Have every worker keep the frozen prefix's results, those to come as well."""
        for member in self.members:
            member.order = replace(member.order, activations=(folder, limit))
            if member.state in (State.READY, State.BUSY, State.CATCHING_UP):
                member.actor.keep.remote(folder, limit)

    def move(self, move: Move) -> None:
        """Add to the log, and send it to all who are at its end."""
        self.log.moves.append(move)
        for member in self.members:
            if member.state in (State.READY, State.BUSY):
                self._send(member)

    def rebase(self, values: Move) -> None:
        """θ was written as a whole: what led there before is of no use to anyone."""
        self.log = Log(self.log.end)
        self.move(values)

    def late(self, member: Member, call: Any, work: float, rows: float) -> None:
        """Its cell was given to others: it gets no more until it is done."""
        member.state, member.pending, member.cell = State.BUSY, call, (work, rows)
        member.busy_since = time.monotonic()

    def lose(self, member: Member, why: str) -> None:
        """A process is gone: another takes its place, unless too many did."""
        ray.kill(member.actor)
        member.restarts += 1
        if member.restarts > RESTARTS:
            member.state = State.LOST
            self.messages.append(f"{member.name} is lost for good: {why}")
            return
        self.messages.append(f"{member.name} is lost ({why}); another process takes its place")
        self._start(member)

    def refuse(self, member: Member, why: str) -> None:
        """It may not take part; it is stopped, with a message."""
        ray.kill(member.actor)
        member.state = State.REFUSED
        self.messages.append(f"{member.name} is refused: {why}")

    def close(self) -> None:
        """End every process."""
        for member in self.members:
            if member.actor is not None and member.state not in (State.LOST, State.REFUSED):
                ray.kill(member.actor)

    def _start(self, member: Member) -> None:
        order = member.order
        gpus = 1 if order.device == "cuda" else 0
        kind = ray.remote(Worker).options(
            num_cpus=order.threads, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        member.actor, member.state, member.position = kind.remote(), State.STARTING, 0
        member.pending = member.actor.open.remote(order)

    def _poll(self, wait: float) -> None:
        """Follow the calls whose ends change a member's state."""
        pending = {m.pending: m for m in self.members if m.pending is not None}
        if not pending:
            return
        done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=wait if wait else 0)
        for call in done:
            member = pending[call]
            member.pending = None
            try:
                self._next(member, ray.get(call))
            except ray.exceptions.RayActorError as error:
                self.lose(member, f"its process died: {_first_line(error)}")
            except ray.exceptions.RayTaskError as error:
                self.lose(member, _first_line(error.cause or error))
        for member in self.members:
            late = time.monotonic() - member.busy_since
            if member.state is State.BUSY and member.pending is not None and late > self.hung:
                member.pending = None
                self.lose(member, f"no answer for {late:.0f} s")

    def _next(self, member: Member, result: Any) -> None:
        if isinstance(result, Opened):
            if result.state == "refused":
                self.refuse(member, result.reason)
            elif result.state == "missing":
                member.pending = member.actor.open.remote(member.order, self._files)
            else:
                member.position, member.state = self.log.start, State.CATCHING_UP
                self._send(member)
        elif member.state is State.CATCHING_UP and member.position < self.log.end:
            self._send(member)
        else:
            if isinstance(result, Scores):  # late, but there
                member.measured(*member.cell, result.seconds)
            member.state = State.READY

    def _send(self, member: Member) -> None:
        """The moves it lacks; a member that catches up is at work when they are made."""
        call = member.actor.apply.remote(member.position, self.log.since(member.position))
        member.position = self.log.end
        if member.state is State.CATCHING_UP:
            member.pending = call


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]

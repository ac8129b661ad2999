"""A worker: one session, and how many of the run's moves it has made.

Its calls run one after the other, in the order they were sent in. A call names the position in the
log of moves that it builds on, so nothing is ever evaluated at another θ than the head's.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

from zofx.artifact.manifest import read_manifest
from zofx.errors import UnsupportedError, ZofxError
from zofx.files.atomic import new_folder
from zofx.runtimes import RUNTIMES
from zofx.runtimes.host.activation_cache import ActivationCache
from zofx.runtimes.host.engine_session import EngineSession
from zofx.session import Batch, Session
from zofx.zo.theta import digest
from zofx.zo.types import FloatArray, Key, Ray

Move: TypeAlias = Sequence[Ray] | Key | Mapping[str, FloatArray]
"""Rays to follow, a key to refresh with, or values to write."""

Files: TypeAlias = Mapping[str, bytes]


@dataclass(frozen=True)
class Order:
    """Which session a worker opens.

    Attributes:
        folder: where the artifact is, if it is there.
        artifact: its hash.
        version: of zofx on the head.
        runtime: by name.
        device: of the runtime.
        threads: of the runtime.
        rows: of a cell, as a rule.
        activations: folder and bytes of the frozen prefix's results; None keeps none.
    """

    folder: str
    artifact: str
    version: str
    runtime: str
    device: str
    threads: int
    rows: int
    activations: tuple[str, float] | None = None


@dataclass(frozen=True)
class Opened:
    """How opening went.

    Attributes:
        state: "missing" where the worker does not see the artifact.
        reason: why it was refused.
    """

    state: Literal["ready", "missing", "refused"]
    reason: str = ""


@dataclass(frozen=True)
class Scores:
    """A cell's result.

    Attributes:
        values: f32[p, n, C].
        seconds: of the forward.
        digest: of θ; "" where it was not asked for.
    """

    values: FloatArray
    seconds: float
    digest: str = ""


class BehindError(RuntimeError):
    """A worker's θ is not the one that a call builds on."""


class Worker:
    """One process of a fleet."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._position: int | None = None

    def open(self, order: Order, files: Files | None = None) -> Opened:
        """Load the artifact; what is wrong is returned, as the head decides."""
        mine = version("zofx")
        if mine != order.version:
            return Opened("refused", f"it has zofx {mine}, the head {order.version}")
        folder = _kept(order.artifact, files) if files is not None else Path(order.folder)
        if files is None and not folder.is_dir():
            folder = _place(order.artifact)
            if not folder.is_dir():
                return Opened("missing")
        try:
            found = read_manifest(folder, check=False).hash
            if found != order.artifact:
                return Opened("refused", f"{folder} is another artifact there: {found[:12]}…")
            self._session = _session(folder, order)
        except (ZofxError, ImportError) as error:
            return Opened("refused", str(error))
        return Opened("ready")

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    def keep(self, folder: str, limit: float) -> None:
        """Keep the frozen prefix's results in a folder."""
        _keep(self._session, folder, limit)

    def apply(self, position: int, moves: Sequence[Move]) -> int:
        """Make moves that follow on a position of the log; returns where that leads.

        Where all of θ is written first, what was before plays no part.

        Raises:
            BehindError: it is at another position.
        """
        if moves and isinstance(moves[0], Mapping):
            self._position = position
        session = self._at(position)
        for move in moves:
            if isinstance(move, Key):
                session.refresh(move)
            elif isinstance(move, Mapping):
                session.write(move)
            else:
                session.move(move)
        self._position = position + len(moves)
        return self._position

    def evaluate(
        self, position: int, batch: Batch, keys: Sequence[Key], matrix: FloatArray, *, check: bool
    ) -> Scores:
        """Score some rows under some probes.

        Raises:
            BehindError: its θ is not the one of this position.
        """
        session = self._at(position)
        began = time.perf_counter()
        values = session.evaluate(batch, keys, matrix)
        seconds = time.perf_counter() - began
        return Scores(values, seconds, digest(session.read()) if check else "")

    def _at(self, position: int) -> Session:
        if self._session is None or self._position not in (None, position):
            raise BehindError(f"at move {self._position}, not {position}")
        return self._session


def _session(folder: Path, order: Order) -> Session:
    """The worker's own session, with its frozen prefix where the head has its."""
    engine = RUNTIMES[order.runtime]
    support = engine.support(folder)
    if not support:
        raise UnsupportedError(f"{order.runtime} cannot run {folder}", support.reasons)
    session = engine.load(folder, device=order.device, threads=order.threads, rows=order.rows)
    if order.activations is not None:
        _keep(session, *order.activations)
    return session


def _keep(session: Session | None, folder: str, limit: float) -> None:
    if isinstance(session, EngineSession):
        session.keep_activations(ActivationCache(Path(folder), limit))


def _place(artifact: str) -> Path:
    """Where an artifact that was sent is kept, by its hash."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "zofx" / "artifacts" / artifact


def _kept(artifact: str, files: Files) -> Path:
    """Write the files of an artifact, unless another worker of this machine has."""
    place = _place(artifact)
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with new_folder(place) as beside:
                for name, data in files.items():
                    (beside / name).parent.mkdir(parents=True, exist_ok=True)
                    (beside / name).write_bytes(data)
        except ZofxError:
            if not place.is_dir():  # else another worker was first
                raise
    return place

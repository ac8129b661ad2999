"""Start or join a Ray cluster, and open a fleet on it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import ray

from zofx.artifact.manifest import Manifest, read_manifest
from zofx.errors import UnsupportedError
from zofx.runtimes.fleet.cells import Split
from zofx.runtimes.fleet.crew import Crew
from zofx.runtimes.fleet.session import FleetSession
from zofx.runtimes.fleet.spec import FleetSpec, Kind
from zofx.runtimes.fleet.worker import Order
from zofx.session import Support

HUNG: Final = 60.0
STORE: Final = 1 << 27
"""Bytes of the object store on this machine, where workers read the artifact from its folder."""


@dataclass(frozen=True)
class FleetRuntime:
    """An engine of many workers.

    Attributes:
        spec: which workers, and where.
        split: of the grid of probes and rows.
        hash_every: forwards between two comparisons of θ.
        hung: seconds after which a worker that does not answer is replaced.
    """

    spec: FleetSpec
    split: Split = "auto"
    hash_every: int = 50
    hung: float = HUNG
    name: str = "fleet"

    def support(self, artifact: Path) -> Support:
        """Exact gradients are as large as θ: no fleet sends them."""
        exact = read_manifest(artifact, check=False).exact
        reason = f"{len(exact)} of its tensors train by exact gradients, which are no scalars"
        return Support((reason,) if exact else ())

    def load(
        self, artifact: Path, *, device: str = "cpu", threads: int | None = None, rows: int = 1
    ) -> FleetSession:
        """Open a session; workers come up while it is used.

        Args:
            artifact: the folder.
            device: stands in the spec already.
            threads: of a worker; None shares this machine's cores, or gives each of a cluster one.
            rows: of a batch, as a rule.

        Raises:
            UnsupportedError: the artifact needs more than scalars, or there is no such cluster.
        """
        support = self.support(artifact)
        if not support:
            raise UnsupportedError(f"a fleet cannot train {artifact}", support.reasons)
        manifest = read_manifest(artifact)
        local = self.spec.address is None
        asked = sum(kind.count or 1 for kind in self.spec.kinds)
        each = threads or (max(1, (os.cpu_count() or 1) // asked) if local else 1)
        owns = _connect(self.spec.address, asked * each)
        kinds = [_counted(kind, each) for kind in self.spec.kinds]
        orders = _orders(artifact, manifest, kinds, each, rows)
        crew = Crew(orders, artifact, self.hung)
        return FleetSession(artifact, manifest, crew, self.split, self.hash_every, owns=owns)


def _orders(
    artifact: Path, manifest: Manifest, kinds: list[Kind], threads: int, rows: int
) -> list[tuple[str, Order]]:
    runtimes = [kind for kind in kinds for _ in range(kind.count or 0)]
    share, mine = max(1, rows // len(runtimes)), version("zofx")
    folder = str(artifact.resolve())
    return [
        (
            f"worker {place} ({kind.runtime})",
            Order(folder, manifest.hash, mine, kind.runtime, kind.device, threads, share),
        )
        for place, kind in enumerate(runtimes)
    ]


def _counted(kind: Kind, threads: int) -> Kind:
    """As many as the cluster has CPUs for, where no number was given."""
    if kind.count is not None:
        return kind
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]  # ray's own
    return replace(kind, count=max(1, cpus // threads))


def _connect(address: str | None, cpus: int) -> bool:
    """Join a cluster, or start one here; returns whether it was started.

    Raises:
        UnsupportedError: there is none at the address.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        options |= {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": STORE,
        }
    try:
        with _signals_kept():
            ray.init(address=address or "local", **options)
        _quiet()
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        raise UnsupportedError(
            f"no Ray cluster at {address or 'this machine'}",
            [f"{str(error).partition(chr(10))[0]}; docs/fleet.md says how to start one"],
        ) from error
    return True


def _quiet() -> None:
    """Ray prints deaths of processes to stdout, where results go; the crew tells them itself."""
    from ray._private import worker  # there is no public switch

    worker.print_to_stdstream = lambda *_, **__: None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets handlers of its own; a run has to end by zofx's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM, signal.SIGINT)
    before = {name: signal.getsignal(name) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)

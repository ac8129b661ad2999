"""What `--fleet` says.

4                               four workers on this machine, on the engine of --runtime
ort=2,torch/cuda=1              of these engines
ray://HEAD:10001                a worker per so many CPUs of that cluster as --threads says
ort=8@ray://HEAD:10001          so many of them there
auto                            a cluster this machine is part of, as 4@auto
"""

import re
from dataclasses import dataclass
from typing import Final

from zofx.errors import UsageError

FORMS: Final = "N, ENGINE=N,…, ADDRESS, or one of the first two @ADDRESS"
ADDRESS: Final = re.compile(r"auto|(ray://)?[\w.-]+:\d+")
MOST: Final = 4096


@dataclass(frozen=True)
class Kind:
    """Workers that are alike.

    Attributes:
        runtime: by name.
        device: of the runtime.
        count: how many; None for as many as the cluster has room for.
    """

    runtime: str
    device: str
    count: int | None


@dataclass(frozen=True)
class FleetSpec:
    """A fleet as it is asked for.

    Attributes:
        kinds: of workers.
        address: of a Ray cluster; None starts one on this machine.
    """

    kinds: tuple[Kind, ...]
    address: str | None = None


def parse_fleet(text: str, runtime: str, device: str) -> FleetSpec:
    """Read the text of `--fleet`.

    Args:
        text: see the module.
        runtime: of workers without one.
        device: likewise of that runtime.

    Raises:
        UsageError: it says no fleet.
    """
    workers, at, address = text.strip().rpartition("@")
    if not at and ADDRESS.fullmatch(address):
        return FleetSpec((Kind(runtime, device, None),), address)
    if not at:
        workers, address = address, ""
    elif not ADDRESS.fullmatch(address):
        raise UsageError(f"--fleet {text}: '{address}' is no address of a Ray cluster; {_EXAMPLE}")
    kinds = tuple(_kind(text, part, runtime, device) for part in workers.split(","))
    return FleetSpec(kinds, address or None)


_EXAMPLE: Final = "give ray://HEAD:10001, HEAD:6379, or auto on a machine of the cluster"


def _kind(text: str, part: str, runtime: str, device: str) -> Kind:
    engine, _, count = part.strip().rpartition("=")
    name, slash, own = engine.partition("/")
    if not count.isdecimal() or not 1 <= int(count) <= MOST or (slash and not own):
        raise UsageError(f"--fleet {text}: '{part}' is no number of workers; give {FORMS}")
    return Kind(name or runtime, own or ("cpu" if name else device), int(count))

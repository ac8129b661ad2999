"""Moving θ along rays: the one piece of arithmetic that must be bit-equal on every machine.

    θ ← round(θ + round(coefficient · z(key)))          float32, ray by ray in order

Multiply and add are two numpy calls: no compiler can fuse them into one rounding. In place, chunk
by chunk: the temporaries stay below a few MiB however large a slice is.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from zofx.errors import UsageError
from zofx.zo.noise import CHUNK, Kind, sample_flat
from zofx.zo.types import FloatArray, Ray


def apply_rays(
    theta: Mapping[str, FloatArray],
    rays: Sequence[Ray],
    kind: Kind,
    table: FloatArray | None = None,
) -> None:
    """Move every slice along the rays, in place.

    Args:
        theta: slice name → values; float32, C-contiguous, writable.
        rays: applied in this order.
        kind: the distribution of z.
        table: f32[65536] for "gaussian"; None takes the one that ships with zofx.

    Raises:
        UsageError: a slice cannot be moved in place; nothing has been moved.
    """
    for name, values in theta.items():
        _require_movable(name, values)
    for name, values in theta.items():
        flat = values.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            for ray in rays:
                step = sample_flat(kind, ray.key, name, start, part.size, table=table)
                np.multiply(step, np.float32(ray.coefficient), out=step)
                np.add(part, step, out=part)


def _require_movable(name: str, values: FloatArray) -> None:
    if values.dtype == np.float32 and values.flags.c_contiguous and values.flags.writeable:
        return
    raise UsageError(
        f"slice '{name}' cannot be moved in place: it is {values.dtype}, "
        f"{'' if values.flags.c_contiguous else 'not '}contiguous, "
        f"{'' if values.flags.writeable else 'not '}writable; "
        "hold slices as writable C-contiguous float32 arrays"
    )

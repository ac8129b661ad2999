"""Moving θ along rays: the one piece of arithmetic that must be bit-equal on every machine.

    θ ← round(θ + round(coefficient · z(key)))          float32, ray by ray in order

Multiply and add are two numpy calls: no compiler can fuse them into one rounding. In place, chunk
by chunk: the temporaries stay below a few MiB however large a trainable is. Where a direction
depends on θ, it is on θ before the first ray.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from zofx.errors import UsageError
from zofx.zo.random.direction_spec import Noise
from zofx.zo.random.noise import CHUNK
from zofx.zo.types import FloatArray, Ray


def apply_rays(
    values: Mapping[str, FloatArray],
    trainables: Sequence[str],
    rays: Sequence[Ray],
    noise: Noise,
    table: FloatArray | None = None,
) -> None:
    """Move every trainable along the rays, in place.

    Args:
        values: name → f32, C-contiguous, writable; trainables, and the scales of those that have
        one.
        trainables: the names of those that move.
        rays: applied in this order.
        noise: how a direction follows from a key.
        table: f32[65536] for "gaussian"; None takes the one that ships with zofx.

    Raises:
        UsageError: a trainable cannot be moved in place; nothing has been moved.
    """
    for name in trainables:
        _require_movable(name, values[name])
    for name in trainables:
        spec, flat = noise.spec(name), values[name].reshape(-1)
        scale = values[spec.scale].reshape(-1) if spec.scale else None
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            scales = None if scale is None else scale[start : start + CHUNK]
            before = part.copy() if spec.limit is not None else part
            for ray in rays:
                z = spec.draw(ray.key, name, start, part.size, table)
                step = spec.apply(z, before, scales)
                np.multiply(step, np.float32(ray.coefficient), out=step)
                np.add(part, step, out=part)


def _require_movable(name: str, values: FloatArray) -> None:
    if values.dtype == np.float32 and values.flags.c_contiguous and values.flags.writeable:
        return
    raise UsageError(
        f"slice '{name}' cannot be moved in place: it is {values.dtype}, "
        f"{'' if values.flags.c_contiguous else 'not '}contiguous, "
        f"{'' if values.flags.writeable else 'not '}writable; "
        "hold trainables as writable C-contiguous float32 arrays"
    )

"""The least memory that a step can take: what asks for more than the machine has is refused.

    batch        B · (16 T + 8)        ids and mask of its rows, i64
    directions   Q · |θ| · 4           z of every query, where the engine is fed with them
    values       P · n · T · d · 4     one value of one layer, of the n rows that share a forward
    probes       P · Q · 4             the matrix

Every line is a lower bound, so nothing that fits is refused; `zofx plan` predicts the whole. B is
the batch size, Q the queries, P the probes, T the tokens of a row, d the width of the model.
"""

import os
from math import prod
from pathlib import Path
from typing import Any, Final

from zofx.artifact.manifest import Manifest
from zofx.errors import UsageError
from zofx.runs.run_config import Engine
from zofx.tasks.data_report import DataReport
from zofx.zo.settings import Settings

CGROUP: Final = Path("/sys/fs/cgroup/memory.max")
WIDTHS: Final = ("hidden_size", "n_embd", "d_model")
CURES: Final = {
    "the ids of a batch": "--batch-size",
    "directions": "--queries",
    "values of a forward": "--batch-size, --queries or --max-length",
    "the matrix of probes": "--queries",
}
"""Part of a step → options that make it smaller."""


def machine_memory() -> int | None:
    """Bytes that this process may use: of the machine, or of its control group; None if unknown."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has none of these
        return None
    try:
        return min(whole, int(CGROUP.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no limit is "max"
        return whole


def least_bytes(
    manifest: Manifest, settings: Settings, report: DataReport, engine: Engine
) -> dict[str, int]:
    """Part of a step → the least bytes that it takes."""
    train = report.splits["train"]
    probes = settings.recipe().estimator.evaluations
    trained = sum(prod(shape) for shape in manifest.trainables.values())
    parts = {
        "the ids of a batch": settings.batch_size * (16 * train.median + 8),
        "the matrix of probes": 4 * probes * settings.queries,
    }
    if engine.runtime == "ort":  # a forward may hold one row of the batch alone
        parts["directions"] = 4 * settings.queries * trained
        parts["values of a forward"] = 4 * probes * train.median * _width(manifest.config)
    elif engine.device == "cpu":
        tokens = settings.batch_size * train.median
        parts["values of a forward"] = 4 * probes * tokens * _width(manifest.config)
    return parts


def require_memory(
    manifest: Manifest, settings: Settings, report: DataReport, engine: Engine
) -> None:
    """Check that a step can fit, before any of it is allocated.

    Raises:
        UsageError: it cannot; names the largest part and what makes it smaller.
    """
    there = machine_memory()
    parts = least_bytes(manifest, settings, report, engine)
    if there is None or sum(parts.values()) <= there:
        return
    largest = max(parts, key=lambda name: parts[name])
    raise UsageError(
        f"a step takes at least {sum(parts.values()) / 1e9:,.1f} GB, and {there / 1e9:,.1f} GB are "
        f"there: {largest} alone are {parts[largest] / 1e9:,.1f} GB (batch size "
        f"{settings.batch_size:,}, queries {settings.queries:,}); lower {CURES[largest]}. `zofx "
        "plan` tells what a step takes, part by part"
    )


def _width(config: Any) -> int:
    """Of the values between layers; 1 where the configuration does not say."""
    for part in (config, config.get("text_config") or {}):
        sizes = [part[name] for name in WIDTHS if isinstance(part.get(name), int)]
        if sizes:
            return int(sizes[0])
    return 1

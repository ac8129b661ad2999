"""The pre-flight of a run, and those that were made before: a file that can always be deleted.

    ART.preflight.jsonl   a line each: (artifact, examples, objective, probes, engine) → measured
                          beside the artifact

A line is used only for exactly what it was measured on. A damaged or unwritable file is no error:
the pre-flight is then made again.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from zofx.errors import DivergenceError
from zofx.runs import jsonl
from zofx.runs.prepare import Prepared
from zofx.runs.run_config import RunConfig
from zofx.session import Session
from zofx.tasks.objectives import TextObjective
from zofx.zo.preflight import STEPS, Preflight, nothing, preflight
from zofx.zo.settings import FORWARD_MODE_ESTIMATORS
from zofx.zo.types import Key

MOST_PROBES: Final = 72
"""More directions add nothing."""


def measure(
    prepared: Prepared, session: Session, progress: Callable[[int, int], None] = nothing
) -> Preflight | None:
    """The pre-flight on the first batch of the run, at the cost of a few steps; θ is not moved.

    Args:
        prepared: a new run.
        session: at the artifact's initial θ.
        progress: called with forwards, (done, total).

    Returns:
        None where no check applies: exact derivatives have no ± gap, and losses of text jump.

    Raises:
        DivergenceError: the losses near the start are not finite.
    """
    settings = prepared.config.settings
    objective = prepared.workload.objective(prepared.config.objective)
    no_gap = (*FORWARD_MODE_ESTIMATORS, "exact")
    if settings.estimator in no_gap or isinstance(objective, TextObjective):
        return None
    encoded = prepared.batch(0)
    if settings.refresh:  # before the first basis a low-rank trainable changes nothing
        session.refresh(Key(prepared.config.task.seed, 0))
    with np.errstate(all="ignore"):  # what is not finite is refused below, with a message
        check = preflight(
            lambda rows, keys, matrix: session.evaluate(encoded.batch.rows(rows), keys, matrix),
            len(encoded.batch.input_ids),
            objective.on(encoded),
            settings.eps,
            prepared.config.task.seed,
            min(STEPS * len(settings.recipe().estimator.probes(0, 0).matrix), MOST_PROBES),
            progress,
        )
    if not np.isfinite([check.gap, check.noise]).all():
        raise DivergenceError(
            f"the loss is not finite at or near the initial weights (eps {settings.eps:g}); lower "
            "--eps, and check with `zofx eval` that the compiled model answers at all",
            0,
        )
    return check


def recall(prepared: Prepared) -> Preflight | None:
    """What was measured before for a run like this one."""
    return recorded(prepared.model.folder, prepared.config)


def recorded(folder: Path, config: RunConfig) -> Preflight | None:
    """What was measured of an artifact for such a run."""
    key = _key(config)
    with suppress(OSError, UnicodeDecodeError):
        for line in _file(folder).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError, AttributeError):
                fields = json.loads(line)
                if fields.pop("key") == key:
                    return Preflight(**{name: float(value) for name, value in fields.items()})
    return None


def remember(prepared: Prepared, measured: Preflight) -> None:
    """Keep it, where the folder can be written to."""
    with suppress(OSError):
        file = _file(prepared.model.folder)
        jsonl.append(file, {"key": _key(prepared.config), **asdict(measured)})


def _file(folder: Path) -> Path:
    whole = folder.resolve()
    return whole.with_name(whole.name + ".preflight.jsonl")


def _key(config: RunConfig) -> str:
    """Everything that what is measured depends on."""
    settings, engine = config.settings, config.engine
    parts = (
        config.artifact, config.task.seed, config.examples, config.objective, config.task.balance,
        settings.estimator, settings.eps, settings.queries, settings.batch_size,
        engine.runtime, engine.device, dict(config.versions),
        *([config.start.values] if config.start else []),
    )  # fmt: skip
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

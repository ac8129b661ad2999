"""Tasks: prompts, data sets, encoding, objectives and metrics; numpy and tokenizers, no torch.

Task ──splits──▶ Examples ──Encoder──▶ Encoded ──session──▶ logprob ──Objective──▶ losses
                          ──Decoder──▶ texts ──Objective, metrics──▶ losses, F1, exact match

Names of the modules here are imported when they are first asked for: a list of the tasks takes
neither numpy nor tokenizers.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from zofx.errors import UsageError
from zofx.registry import Table, lazy
from zofx.tasks.catalog.jsonl_task import PLAIN, hub_task, is_path, own_task
from zofx.tasks.catalog.reading import Reading
from zofx.tasks.data.pool import Pool, Sizes
from zofx.tasks.data.sources import HUB
from zofx.tasks.types import MASK, Example, Splits, Task, references

if TYPE_CHECKING:
    from zofx.tasks.data.calibration import calibration_texts
    from zofx.tasks.data.order import batch_indices
    from zofx.tasks.decode import NEW_TOKENS, Decoder, stop_of
    from zofx.tasks.encode import Encoded, Encoder
    from zofx.tasks.metrics import (
        Accuracy,
        TextMatch,
        accuracy,
        exact_match,
        f1,
        normalised,
        text_match,
        wilson,
    )
    from zofx.tasks.objectives import (
        OBJECTIVES,
        Loss,
        Objective,
        ScoreObjective,
        TextObjective,
        objective_for,
        predictions,
    )
    from zofx.tasks.reward import Reward

TASKS: Table[Task] = Table(
    "task",
    "tasks",
    {
        "sst2": lazy("zofx.tasks.catalog.mezo:SST2"),
        "rte": lazy("zofx.tasks.catalog.mezo:RTE"),
        "cb": lazy("zofx.tasks.catalog.mezo:CB"),
        "boolq": lazy("zofx.tasks.catalog.mezo:BOOLQ"),
        "wsc": lazy("zofx.tasks.catalog.mezo:WSC"),
        "wic": lazy("zofx.tasks.catalog.mezo:WIC"),
        "multirc": lazy("zofx.tasks.catalog.mezo:MULTIRC"),
        "copa": lazy("zofx.tasks.catalog.mezo:COPA"),
        "record": lazy("zofx.tasks.catalog.mezo:RECORD"),
        "squad": lazy("zofx.tasks.catalog.mezo:SQUAD"),
        "drop": lazy("zofx.tasks.catalog.mezo:DROP"),
        "winogrande": lazy("zofx.tasks.catalog.mezo:WINOGRANDE"),
        "trec": lazy("zofx.tasks.catalog.offline:TREC"),
        "rotten-tomatoes": lazy("zofx.tasks.catalog.offline:ROTTEN_TOMATOES"),
        "imdb": lazy("zofx.tasks.catalog.offline:IMDB"),
        "boolq-offline": lazy("zofx.tasks.catalog.offline:BOOLQ"),
        "piqa": lazy("zofx.tasks.catalog.offline:PIQA"),
        "siqa": lazy("zofx.tasks.catalog.offline:SIQA"),
        "commonsenseqa": lazy("zofx.tasks.catalog.offline:COMMONSENSEQA"),
        "openbookqa": lazy("zofx.tasks.catalog.offline:OPENBOOKQA"),
    },
)


ON_DEMAND: Final = {
    "data.calibration": ("calibration_texts",),
    "decode": ("NEW_TOKENS", "Decoder", "stop_of"),
    "encode": ("Encoded", "Encoder"),
    "metrics": (
        "Accuracy", "TextMatch", "accuracy", "exact_match", "f1", "normalised",
        "text_match", "wilson",
    ),
    "objectives": (
        "OBJECTIVES", "Loss", "Objective", "ScoreObjective", "TextObjective", "objective_for",
        "predictions",
    ),
    "reward": ("Reward",),
    "data.order": ("batch_indices",),
}  # fmt: skip
"""Module → what it gives to the package."""


def __getattr__(name: str) -> Any:
    for module, names in ON_DEMAND.items():
        if name in names:
            return getattr(import_module(f"zofx.tasks.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find_task(name: str, reading: Reading = PLAIN) -> Task:
    """A task by its name, by the path of a file or a folder of one's own, or on the hub.

    Args:
        name: such as "trec", "films.csv" or "hub:OWNER/NAME".
        reading: how the records of one's own are read.

    Raises:
        UsageError: no such task (with near misses), or a bad file (with line and field).
    """
    if name not in TASKS and is_path(name):
        return own_task(Path(name), reading)
    if name.startswith(HUB):
        return hub_task(name, reading)
    task = TASKS[name]
    if not reading.plain:
        raise UsageError(
            f"task '{name}' has prompts of its own; --columns, --template and --labels are for "
            "files and data sets of your own"
        )
    return task


__all__ = [
    "MASK",
    "NEW_TOKENS",
    "OBJECTIVES",
    "TASKS",
    "Accuracy",
    "Decoder",
    "Encoded",
    "Encoder",
    "Example",
    "Loss",
    "Objective",
    "Pool",
    "Reward",
    "ScoreObjective",
    "Sizes",
    "Splits",
    "Task",
    "TextMatch",
    "TextObjective",
    "accuracy",
    "batch_indices",
    "calibration_texts",
    "exact_match",
    "f1",
    "find_task",
    "normalised",
    "objective_for",
    "own_task",
    "predictions",
    "references",
    "stop_of",
    "text_match",
    "wilson",
]

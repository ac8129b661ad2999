"""Tasks: prompts, data sets, encoding, objectives and metrics; numpy and tokenizers, no torch.

Task ──splits──▶ Examples ──Encoder──▶ Encoded ──session──▶ logprob ──Objective──▶ losses
                          ──Decoder──▶ texts ──Objective, metrics──▶ losses, F1, exact match

A list of the tasks takes neither numpy nor tokenizers.
"""

from pathlib import Path

from zofx.errors import UsageError
from zofx.registry import Table, lazy
from zofx.tasks.catalog.jsonl_task import PLAIN, hub_task, is_path, own_task
from zofx.tasks.catalog.reading import Reading
from zofx.tasks.data.sources import HUB
from zofx.tasks.types import Task

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


def is_own(name: str) -> bool:
    """Whether a task is a file or a folder of one's own; a task's own name comes first."""
    return name not in TASKS and is_path(name)


def find_task(name: str, reading: Reading = PLAIN) -> Task:
    """A task by its name, by the path of a file or a folder of one's own, or on the hub.

    Args:
        name: such as "trec", "films.csv" or "hub:OWNER/NAME".
        reading: how the records of one's own are read.

    Raises:
        UsageError: no such task (with near misses), or a bad file (with line and field).
    """
    if is_own(name):
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

"""Help in groups: a verb's options under headings, the same option under the same one everywhere.

options of a run     by the dataclass they belong to
all others           by name, below; what is in no group is an option of the verb itself
"""

from collections.abc import Mapping
from typing import Any, Final

from typer.core import TyperCommand

from zofx.options import options_of
from zofx.runs.run_config import DevEvaluation, Engine
from zofx.tasks.selection import TaskChoice
from zofx.zo.settings import Settings

ARGUMENTS: Final = "Arguments"
OWN: Final = "Options"

NAMED: Final[Mapping[str, tuple[str, ...]]] = {
    "What trains": (
        "--train", "--fraction", "--train-from-layer", "--exact-layers", "--memory",
        "--alternatives", "--tokens", "--calibration", "--sensitivity",
    ),
    "Stored weights": ("--quant", "--activations"),
    "Evaluation on dev": ("--objective", "--patience"),
    "Checks": ("--preflight", "--strict-preflight", "--on-collapse"),
    "Engine": ("--activation-cache", "--activation-limit"),
    "Output": (
        "--json", "--report-to", "--verbose", "--print-after", "--save-stages", "--time-passes",
        "--predictions",
    ),
    "Everywhere": ("--config", "--print-config", "--help"),
}  # fmt: skip

OF_A_RUN: Final = {
    "Data": TaskChoice, "Steps": Settings, "Evaluation on dev": DevEvaluation, "Engine": Engine,
}  # fmt: skip

ORDER: Final = (
    ARGUMENTS, OWN, "What trains", "Stored weights", "Data", "Steps", "Evaluation on dev", "Checks",
    "Engine", "Output", "Everywhere",
)  # fmt: skip


def _groups() -> dict[str, str]:
    """Flag → heading."""
    named = {flag: name for name, flags in NAMED.items() for flag in flags}
    run = {o.flag: name for name, of in OF_A_RUN.items() for o in options_of(of).values()}
    return {**run, **named}


GROUP_OF: Final = _groups()


class GroupedCommand(TyperCommand):
    """A verb whose help has headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Every parameter once, heading by heading."""
        rows: dict[str, list[tuple[str, str]]] = {name: [] for name in ORDER}
        draws = any("--dev" in parameter.opts for parameter in self.params)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                rows[_heading(parameter, draws)].append(record)
        for name, lines in rows.items():
            if lines:
                with formatter.section(name):
                    formatter.write_dl(lines)


def _heading(parameter: Any, draws: bool) -> str:
    """Where verbs draw examples, --train is how many; elsewhere what of the model trains."""
    if parameter.param_type_name == "argument":
        return ARGUMENTS
    found = next((GROUP_OF[flag] for flag in parameter.opts if flag in GROUP_OF), OWN)
    return "Data" if draws and "--train" in parameter.opts else found

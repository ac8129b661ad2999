"""zofx rewind: an earlier state of a run as a run of its own."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from zofx.cli.options import Json, add_command, step_of


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    add_command(app, "rewind", rewind)


def rewind(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run; it stays as it is.")],
    step: Annotated[
        str, typer.Option("--step", metavar="best|last|N", help="How many steps the new run has.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="NEW", help="Folder of the new run.")],
    json_: Json = False,
) -> None:
    """Copy a run as it was after an earlier step.

    The copy goes on with --resume as if the run had been stopped there: the same examples in the
    same order, the same bits. To go on with other settings, start a run --from it instead.

    Examples:
        zofx rewind run --step 200 -o run-200
        zofx rewind run --step best -o best
    """
    from zofx.runs.rewind import copy_until
    from zofx.runs.run_folder import RunFolder

    copy, made = copy_until(RunFolder.open(run), step_of(step), out)
    if json_:
        print(json.dumps({"run": str(out), "steps": made}))
        return
    artifact = shlex.quote(copy.config.folder)
    print(f"{out}: the first {made} steps of {run}")
    print(f"to go on: zofx tune {artifact} --resume {shlex.quote(str(out))}")

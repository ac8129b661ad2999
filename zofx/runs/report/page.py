"""A report as one HTML page that needs nothing else: no network, no other file.

    [History, …] ──figures, tables──▶ template ──▶ one file

The plots' library is in the page, so it opens from a disk, a mail or a build server years later.
Everything that comes from a run is escaped.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from zofx.errors import UsageError
from zofx.files.atomic import new_file
from zofx.runs.evaluation import Evaluation
from zofx.runs.report.history import History
from zofx.runs.run_config import packages

NEEDS: Final = ("jinja2", "plotly")
TEMPLATE: Final = "page.html.jinja"
NUMBER: Final = re.compile(r"%\d+")
"""A value of a printed program."""

MOST_CHANGES: Final = 50
MOST_LINES: Final = 400
"""Of a diff: a page of a large model stays one that opens."""


def require_report() -> None:
    """Check that a report can be made.

    Raises:
        UsageError: a library is not installed.
    """
    for name in NEEDS:
        if find_spec(name) is None:
            raise UsageError(f"a report needs the package {name}; run `pip install 'zofx[report]'`")


def write_report(runs: Sequence[History], out: Path) -> None:
    """Write the page.

    Args:
        runs: one or more.
        out: the file to make.

    Raises:
        UsageError: the name is taken, or a library is not installed.
    """
    require_report()
    text = page(runs)
    with new_file(out) as path:
        path.write_text(text, encoding="utf-8")


def page(runs: Sequence[History]) -> str:
    """The text of the page."""
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    from zofx.runs.report.figures import confusion, figures

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("zofx.runs.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    best = {run.name: run.evaluations[run.best] for run in runs if run.best is not None}
    return environment.from_string(source).render(
        runs=runs,
        head=_head(runs),
        summary=[_summary(run) for run in runs],
        figures=figures(runs),
        best=best,
        classes={name: _classes(evaluation) for name, evaluation in best.items()},
        confusions={run.name: confusion(run, best[run.name]) for run in runs if run.name in best},
        settings=_settings(runs),
        programs=_programs(runs),
        most_changes=MOST_CHANGES,
        library=get_plotlyjs(),
        version=packages()["zofx"],
    )


def _head(runs: Sequence[History]) -> str:
    return " · ".join(run.name for run in runs)


def _summary(run: History) -> dict[str, str]:
    """A line of the first table."""
    first, best = run.evaluations.get(0), None if run.best is None else run.evaluations[run.best]
    memory = run.peak_mib
    config = run.run.config
    return {
        "run": run.name,
        "task": Path(config.task.name).name,
        "method": run.method,
        "steps": f"{len(run.steps):,} of {max(config.settings.steps, len(run.steps)):,}",
        "at the start, dev": _result(first),
        "best on dev": "" if best is None else f"step {run.best}: {_result(best)}",
        "time of the steps": f"{run.seconds:,.1f} s" if run.seconds else "",
        "memory": f"{memory:,.0f} MiB" if memory else "",
    }


def _result(evaluation: Evaluation | None) -> str:
    return "" if evaluation is None else str(evaluation)


def _classes(evaluation: Evaluation) -> list[Mapping[str, Any]]:
    if evaluation.classes is None:
        return []
    rows: list[Mapping[str, Any]] = evaluation.classes.to_dict()["classes"]
    return rows


def _settings(runs: Sequence[History]) -> list[tuple[str, list[str], bool]]:
    """(option, its value in every run, whether they differ)."""
    options = [_about(run) for run in runs]
    names = dict.fromkeys(name for values in options for name in values)
    rows = [(name, [values.get(name, "") for values in options]) for name in names]
    return [(name, values, len(set(values)) > 1) for name, values in rows if any(values)]


def _about(run: History) -> dict[str, str]:
    config = run.run.config
    values = {name: "" if v is None else str(v) for name, v in config.options.items()}
    return {
        **values,
        "artifact": config.artifact[:12],
        "pipeline": run.manifest.pipeline if run.manifest else "",
        **{f"version of {name}": version for name, version in config.versions.items()},
    }


def _programs(runs: Sequence[History]) -> list[tuple[History, str, list[dict[str, Any]]]]:
    """Artifact by artifact: a run of it, the names of all of them, its passes."""
    groups: dict[str, list[History]] = {}
    for run in runs:
        groups.setdefault(run.run.config.artifact, []).append(run)
    return [(g[0], " · ".join(run.name for run in g), _passes(g[0])) for g in groups.values()]


def _passes(run: History) -> list[dict[str, Any]]:
    """Pass by pass: its seconds, its remarks, and what it changed, where that was kept."""
    if run.manifest is None:
        return []
    report = run.manifest.report
    changed = {name: _diff(before, after) for name, before, after in run.stages}
    return [
        {
            "name": name,
            "seconds": seconds,
            "remarks": report.get("remarks", {}).get(name, []),
            "diff": changed.get(name, []),
        }
        for name, seconds in report.get("seconds", {}).items()
    ]


def _diff(before: str, after: str) -> list[tuple[str, str]]:
    """(kind of line, line): "+", "-", "@" or " "; lines that only count values anew are equal."""
    old, new = before.splitlines(), after.splitlines()
    one, other = ([NUMBER.sub("%", line) for line in text] for text in (old, new))
    alike = SequenceMatcher(None, one, other)
    rows: list[tuple[str, str]] = []
    for group in alike.get_grouped_opcodes(1):
        rows.append(("@", f"@@ line {group[0][3] + 1} @@"))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                rows += [(" ", f"  {line}") for line in new[j1:j2]]
            else:
                rows += [("-", f"- {line}") for line in old[i1:i2]]
                rows += [("+", f"+ {line}") for line in new[j1:j2]]
    rest = len(rows) - MOST_LINES
    return [*rows[:MOST_LINES], ("@", f"… {rest:,} more lines: zofx diff")] if rest > 0 else rows

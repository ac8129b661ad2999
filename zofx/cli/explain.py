"""zofx explain · zofx list: what there is, from the tables and source files; imports no engine."""

import json
import pkgutil
import re
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from zofx.cli.console import columns
from zofx.cli.options import Json, add_command
from zofx.errors import UsageError

KINDS = ("formats", "methods", "passes", "runtimes", "tasks")
CLASS_NAME: Final = re.compile(r'^    name(?:: .+)? = "(.+)"$', re.MULTILINE)
"""The string that a class assigns to `name`."""


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    add_command(app, "explain", explain)
    add_command(app, "list", list_)


def list_(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS))],
    json_: Json = False,
) -> None:
    """List what there is of a kind, with a line about each.

    Example:
        zofx list tasks
    """
    if kind not in KINDS:
        raise UsageError(f"there is no list of {kind}; there are: {', '.join(KINDS)}")
    rows = _rows(kind)
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        print(columns([(row["name"], row["summary"]) for row in rows]))


def explain(
    name: Annotated[str, typer.Argument(metavar="METHOD|PASS")],
) -> None:
    """Explain a method or a pass: what it does, its options and defaults, where it comes from.

    Examples:
        zofx explain senszoq
        zofx explain quantize-frozen
    """
    from zofx.compiler.methods import METHODS
    from zofx.passes import PASSES

    if name in METHODS:
        print(_method(METHODS[name]))
    elif name in PASSES:
        print(_pass(PASSES[name]))
    else:
        there = f"methods: {', '.join(METHODS)}; passes: {', '.join(PASSES)}"
        raise UsageError(f"there is no method and no pass '{name}'; there are {there}")


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind == "methods":
        from zofx.compiler.methods import METHODS

        return [{"name": name, "summary": METHODS[name].summary} for name in METHODS]
    if kind == "formats":
        from zofx.ir.formats import FORMATS

        return [{"name": name, "summary": FORMATS[name].summary} for name in FORMATS]
    if kind == "tasks":
        from zofx.tasks import TASKS

        tasks = [TASKS[name] for name in TASKS]
        return [
            {"name": t.name, "summary": t.summary, "kind": t.kind, "source": t.source}
            for t in tasks
        ]
    if kind == "passes":
        from zofx import passes
        from zofx.passes import PASSES

        return _documented(list(PASSES), passes.__path__)
    from zofx import runtimes
    from zofx.runtimes import RUNTIMES

    return _documented(list(RUNTIMES), runtimes.__path__)


def _documented(names: list[str], folders: Any) -> list[dict[str, Any]]:
    """Names with the first line of the module whose class has that name; nothing is imported."""
    lines: dict[str, str] = {}
    for module in (item for item in pkgutil.iter_modules(folders) if not item.ispkg):
        finder: Any = module.module_finder
        source = Path(finder.path, f"{module.name}.py").read_text(encoding="utf-8")
        about = source.partition("\n")[0].strip('"')
        lines |= dict.fromkeys(CLASS_NAME.findall(source), about)
    return [{"name": name, "summary": lines.get(name, "provided by a plugin")} for name in names]


def _method(method: Any) -> str:
    from zofx.ir.pipeline_syntax import passes_of

    passes = passes_of(method.pipeline)
    return "\n".join(
        [
            f"{method.name}: {method.summary}",
            "",
            f"source    {method.source}",
            f"settings  {method.settings}",
            "pipeline",
            *(f"  {item}" for item in passes),
            "",
            "`zofx explain PASS` explains one; --set PASS.OPTION=VALUE changes it at compile time.",
        ]
    )


def _pass(kind: Any) -> str:
    import inspect
    from dataclasses import fields

    module = inspect.getmodule(kind)
    rows = [
        (
            f"{kind.name}.{f.name.replace('_', '-')}",
            _type(f.type),
            "" if f.default is MISSING else f"default {f.default}",
        )
        for f in fields(kind)
    ]
    item = kind()  # with its defaults
    facts = [("stage", item.stage.name.lower())] + [
        (verb, ", ".join(map(str, getattr(item, verb))) or "nothing")
        for verb in ("requires", "establishes", "destroys")
    ]
    if item.conflicts:
        facts.append(("conflicts", ", ".join(str(c.fact) for c in item.conflicts)))
    return "\n".join(
        [
            f"{kind.name}: {inspect.getdoc(module)}",
            "",
            *(["options", columns(rows, "  ")] if rows else ["it has no options"]),
            columns(facts),
        ]
    )


def _type(annotation: Any) -> str:
    from zofx.ir.pass_options import words_of

    return " | ".join(words_of(annotation)) or getattr(annotation, "__name__", str(annotation))

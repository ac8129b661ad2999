"""zofx explain · zofx list: what there is, from the tables and source files; imports no engine."""

import json
from dataclasses import MISSING
from typing import Annotated, Any

import typer

from zofx.cli.completion import names_of
from zofx.cli.console import columns
from zofx.cli.options import Json, add_command
from zofx.errors import UsageError
from zofx.registry import Table

KINDS = ("formats", "methods", "passes", "runtimes", "tasks")


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    add_command(app, "explain", explain)
    add_command(app, "list", list_)


def _kinds(incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def list_(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS), autocompletion=_kinds)],
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
    name: Annotated[
        str, typer.Argument(metavar="METHOD|PASS", autocompletion=names_of("method", "pass"))
    ],
    json_: Json = False,
) -> None:
    """Explain a method or a pass: what it does, its options and defaults, where it comes from.

    Examples:
        zofx explain senszoq
        zofx explain quantize-frozen
    """
    from zofx.compiler.methods import METHODS
    from zofx.passes import PASSES

    if name in METHODS:
        kind, text = "methods", _method(METHODS[name])
    elif name in PASSES:
        kind, text = "passes", _pass(PASSES[name])
    else:
        there = f"methods: {', '.join(METHODS)}; passes: {', '.join(PASSES)}"
        raise UsageError(f"there is no method and no pass '{name}'; there are {there}")
    if json_:
        row = next(row for row in _rows(kind) if row["name"] == name)
        print(json.dumps({"kind": kind, **row, "text": text}, ensure_ascii=False))
    else:
        print(text)


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind == "methods":
        from zofx.compiler.methods import METHODS

        return [{"name": name, "summary": METHODS[name].summary} for name in METHODS]
    if kind == "formats":
        from zofx.ir.formats import FORMATS

        return _documented(FORMATS)
    if kind == "tasks":
        from zofx.tasks import TASKS

        tasks = [TASKS[name] for name in TASKS]
        return [
            {"name": t.name, "summary": t.summary, "kind": t.kind, "source": t.source}
            for t in tasks
        ]
    if kind == "passes":
        from zofx.passes import PASSES

        return _documented(PASSES)
    from zofx.runtimes import RUNTIMES

    return _documented(RUNTIMES)


def _documented(table: Table[Any]) -> list[dict[str, Any]]:
    """Names with the first line of their module's page."""
    return [{"name": name, "summary": table.about(name)} for name in table]


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

"""What several verbs share: options, and how a docstring becomes a help text."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import typer

from zofx.cli.completion import completer
from zofx.cli.config_file import keys_of, printed_config, reader
from zofx.cli.help import GroupedCommand
from zofx.errors import UsageError
from zofx.options import Option
from zofx.runs.run_config import OPTIONS

if TYPE_CHECKING:
    from zofx.runs.run_folder import StepSelector

ModelName: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A hub id, a Hugging Face folder, a .gguf file, or package:DISTRIBUTION/FILE.",
    ),
]
Revision: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--revision", metavar="REV", help="Branch, tag or commit of a hub id; as MODEL@REV."
    ),
]
Artifact: TypeAlias = Annotated[
    Path, typer.Argument(metavar="DIR", help="A compiled artifact: what `zofx compile` made.")
]


def parameter(option: Option) -> Any:
    """What typer takes an option of a run for."""
    names = (option.flag, option.short) if option.short else (option.flag,)
    return typer.Option(
        *names, metavar=option.metavar, min=option.minimum, max=option.maximum, help=option.help,
        autocompletion=completer(option.name),
    )  # fmt: skip


Data: TypeAlias = Annotated[str | None, parameter(OPTIONS["data"])]
Runtime: TypeAlias = Annotated[str | None, parameter(OPTIONS["runtime"])]
Device: TypeAlias = Annotated[str | None, parameter(OPTIONS["device"])]
Threads: TypeAlias = Annotated[int | None, parameter(OPTIONS["threads"])]
Seed: TypeAlias = Annotated[int | None, parameter(OPTIONS["seed"])]
Truncate: TypeAlias = Annotated[bool, parameter(OPTIONS["truncate"])]
Columns: TypeAlias = Annotated[str | None, parameter(OPTIONS["columns"])]
Template: TypeAlias = Annotated[str | None, parameter(OPTIONS["template"])]
Labels: TypeAlias = Annotated[str | None, parameter(OPTIONS["labels"])]
MaxLength: TypeAlias = Annotated[int | None, parameter(OPTIONS["max_length"])]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

INDENTED = re.compile(r"\n+((?: {4}.*\n?)+)")


def add_command(app: typer.Typer, name: str, verb: Callable[..., None]) -> None:
    """Add a verb; its docstring is its help, where indented blocks keep their lines."""
    help_ = unwrapped(inspect.getdoc(verb) or "")
    app.command(name, help=help_, cls=GroupedCommand)(configurable(verb))


def configurable(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that takes `--config` and `--print-config` too."""
    own = inspect.signature(verb, eval_str=True).parameters.values()
    keys = keys_of(own)
    more = {
        "config": Annotated[
            Path | None,
            typer.Option(
                "--config",
                metavar="FILE.yaml",
                callback=reader(keys),
                is_eager=True,
                help="Read options from a file; the command line wins.",
            ),
        ],
        "print_config": Annotated[
            bool, typer.Option("--print-config", help="Print the options as such a file, and stop.")
        ],
    }
    defaults = {"config": None, "print_config": False}
    parameters = [
        Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(p.replace(kind=Parameter.KEYWORD_ONLY) for p in own),
        *(
            Parameter(n, Parameter.KEYWORD_ONLY, default=defaults[n], annotation=annotation)
            for n, annotation in more.items()
        ),
    ]

    @wraps(verb)
    def configured(
        *, context: typer.Context, config: Path | None, print_config: bool, **given: Any
    ) -> None:
        if print_config:
            print(printed_config(context, keys))
        else:
            verb(**given)

    return _with_parameters(configured, parameters)


def _with_parameters(
    verb: Callable[..., None], parameters: Sequence[Parameter]
) -> Callable[..., None]:
    """Let typer see these."""
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in parameters}
    return verb


def takes(options: Mapping[str, Option]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let the `**options` of a verb be these; one that is not given is None.

    On the command line they stand between the verb's positional and its keyword-only parameters.
    """
    made = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[option.type | None, parameter(option)],
        )
        for name, option in options.items()
    ]

    def change(verb: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(verb, eval_str=True).parameters.values()
        first = [p for p in own if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
        last = [p for p in own if p.kind is Parameter.KEYWORD_ONLY]
        whole = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (*first, *made, *last)]

        @wraps(verb)
        def taking(**given: Any) -> None:
            verb(**given)

        return _with_parameters(taking, whole)

    return change


def unwrapped(text: str) -> str:
    """Mark the indented blocks of a help text as not to be wrapped."""
    return INDENTED.sub("\n\n\b\n\\1\n", text)


def step_of(step: str) -> "StepSelector":
    """Which θ of a run `--step` names.

    Raises:
        UsageError: it names none.
    """
    words: dict[str, Literal["best", "last"]] = {"best": "best", "last": "last"}
    if step in words:
        return words[step]
    if step.isdecimal():
        return int(step)
    raise UsageError(f"--step {step}: give best, last, or how many steps were made")


UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10,
                "MIB": 1 << 20, "GIB": 1 << 30}  # fmt: skip


def parse_size(flag: str, text: str) -> int:
    """Bytes: "500MB", "1.5 GiB", "200000".

    Raises:
        UsageError: no such size.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if parts is None or parts[2].upper() not in UNITS:
        raise UsageError(f"{flag} {text}: a size is a number and a unit, as 500MB, 2GB or 1.5GiB")
    return round(float(parts[1]) * UNITS[parts[2].upper()])

"""Configuration files: what a verb is asked, in YAML 1.2.

    run.yaml ──read──▶ the verb's defaults ◀──win── what the command line names
    zofx VERB … --print-config ──▶ a file that reads back to the same command

A key is the name of an option (`batch-size`, or `batch_size`) or of an argument (`artifact`); a
value of null is as good as an absent key. Paths are relative to where the command runs.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from zofx.errors import UsageError
from zofx.options import Option, require_known


@dataclass(frozen=True)
class Key:
    """What a key of a file sets.

    Attributes:
        parameter: of the verb, by name.
        option: type, bounds and help.
        several: whether it may be a list.
    """

    parameter: str
    option: Option
    several: bool


def keys_of(parameters: Iterable[Parameter]) -> dict[str, Key]:
    """Key → what it sets, of a verb with these parameters."""
    keys = [_key(parameter) for parameter in parameters]
    return {key.option.name: key for key in keys}


def reader(keys: Mapping[str, Key]) -> Callable[[typer.Context, Path | None], Path | None]:
    """The callback of `--config`: takes what a file says as defaults of the verb."""

    def read(context: typer.Context, file: Path | None) -> Path | None:
        if file is not None and not context.resilient_parsing:
            context.default_map = read_config(file, keys, str(context.info_name))
        return file

    return read


def read_config(file: Path, keys: Mapping[str, Key], verb: str) -> dict[str, Any]:
    """Parameter → value of what a file says.

    Raises:
        UsageError: no such file, no YAML mapping, or a key or value that the verb does not take.
    """
    values = {}
    try:
        for written, value in _mapping(file).items():
            name = str(written).replace("_", "-")
            require_known(name, keys, f"option of `zofx {verb}`")
            if value is not None:
                values[keys[name].parameter] = _checked(keys[name], value)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    return values


def printed_config(context: typer.Context, keys: Mapping[str, Key]) -> str:
    """The command as a file; what was not asked stands there as a comment, with its help text."""
    lines = [f"# zofx {context.info_name} --config FILE"]
    for name, key in keys.items():
        source = context.get_parameter_source(key.parameter)
        value = context.params.get(key.parameter)
        if source is None or source.name == "DEFAULT" or value is None:
            lines.append(f"# {name}:  {' '.join(key.option.help.split())}".rstrip())
        else:
            lines.append(f"{name}: {json.dumps(value, default=str, ensure_ascii=False)}")
    return "\n".join(lines)


def _key(parameter: Parameter) -> Key:
    """From `Annotated[type, typer.Option("--name", …)]`."""
    annotation, info = parameter.annotation, None
    if get_origin(annotation) is Annotated:
        annotation, info = get_args(annotation)
    several, kind = _plain(annotation)
    spelled = getattr(info, "default", None), *(getattr(info, "param_decls", None) or ())
    flags = [text.partition("/")[0] for text in spelled if isinstance(text, str)]
    name = max((flag for flag in flags if flag.startswith("--")), key=len, default=parameter.name)
    option = Option(
        help=getattr(info, "help", None) or "",
        name=name.lstrip("-").replace("_", "-"),
        type=kind,
        minimum=getattr(info, "min", None),
        maximum=getattr(info, "max", None),
    )
    return Key(parameter.name, option, several)


def _plain(annotation: Any) -> tuple[bool, type]:
    """`list[str] | None` → (True, str); a path is text."""
    if get_origin(annotation) in (Union, UnionType):
        return _plain(next(arg for arg in get_args(annotation) if arg is not type(None)))
    if get_origin(annotation) is list:
        return True, _plain(get_args(annotation)[0])[1]
    return False, annotation if annotation in (bool, int, float) else str


def _mapping(file: Path) -> dict[Any, Any]:
    """The pairs of a YAML file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if not file.is_file():
        raise UsageError("there is no such file")
    try:
        values = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = (error.problem or str(error)).partition("\n")[0]
        raise UsageError(f"{line}{problem}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"it is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(
            f"it holds no mapping, but {type(values).__name__}; write one `option: value` a "
            "line (`--print-config` shows them)"
        )
    _require_once(values)
    return values


def _require_once(values: Mapping[Any, Any]) -> None:
    """`batch-size` and `batch_size` are one option."""
    names = [str(key).replace("_", "-") for key in values]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"option '{twice}' is there twice; keep one of them")


def _checked(key: Key, value: Any) -> Any:
    """A value as the verb takes it.

    Raises:
        UsageError: it is of another type, or out of bounds.
    """
    items = value if key.several and isinstance(value, list) else [value]
    taken = [key.option.checked(_text(item) if key.option.type is str else item) for item in items]
    return taken if key.several else taken[0]


def _text(value: Any) -> Any:
    """`step: 20` is the text 20 to an option that takes text."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if number else value

"""The application: global options, and how every error ends."""

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from zofx import __version__
from zofx.cli.options import unwrapped
from zofx.errors import ZofxError
from zofx.files.atomic import full_disk

DEBUG = "ZOFX_DEBUG"
PANIC = "PanicException"

COMPILER = ("gguf", "huggingface_hub", "onnx", "onnx_ir", "onnxscript", "torch", "transformers")
"""What the extra `compile` brings; a machine that only trains has none of it."""

HELP = """Zeroth-order fine-tuning of language models: compile once, train with forward passes only.

A first session:

    zofx compile MODEL --method senszoq -o art    the model as a forward-only graph
    zofx eval art --task sst2                     how good it is now
    zofx tune art --task sst2 -o run              train 0.1 % of its weights
    zofx eval art --run run                       how good it is then
    zofx export art --run run --to hf -o out      a checkpoint for transformers

`zofx VERB --help` explains a verb; `zofx list tasks` and its kin list what there is."""

app = typer.Typer(
    name="zofx",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=unwrapped(HELP),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
VERBS = (
    "compile", "sensitivity", "coverage", "plan", "check", "tune", "runs", "rewind", "bisect",
    "report", "eval", "export", "generate", "inspect", "explain",
)  # fmt: skip
"""Modules of `zofx.cli`; some add a second verb."""
for verb in VERBS:
    import_module(f"zofx.cli.{verb}").register(app)


def _version(asked: bool) -> None:
    if asked:
        print(f"zofx {__version__}")
        raise typer.Exit


@app.callback(help=unwrapped(HELP))
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show tracebacks; so does {DEBUG}=1.")
    ] = False,
) -> None:
    """Options before the verb."""
    if debug:
        os.environ[DEBUG] = "1"
    if not os.environ.get(DEBUG):
        _quieten()


def _quieten() -> None:
    """Keep other libraries' remarks to themselves: they are about their internals."""
    import warnings

    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def main() -> None:
    """Run a command line; ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what the terminal has no letter for is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        if os.environ.get(DEBUG):
            raise
        _fail(error)


def _fail(error: BaseException) -> NoReturn:
    """One clear message on stderr, and the exit code."""
    print(f"error: {_message(error)}", file=sys.stderr)
    sys.exit(error.exit_code if isinstance(error, ZofxError) else 1)


def _message(error: BaseException) -> str:
    """What happened and what to do, for an error of any origin."""
    if isinstance(error, ZofxError):
        return str(error)
    if reason := full_disk(error):
        return f"{reason}; make room and run this again; a run goes on with --resume"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    if isinstance(error, MemoryError):
        return "not enough memory; use a smaller --batch-size, or a machine with more"
    if isinstance(error, ModuleNotFoundError) and error.name in COMPILER:
        return (
            f"this needs the package {error.name}, which is not installed; "
            "run `pip install 'zofx[compile]'`"
        )
    first = (str(error).strip().splitlines() or ["no message"])[0]
    if type(error).__name__ == PANIC:
        return (
            f"a library gave up on its input: {first}\nA tokenizer.json with a pattern that never "
            "ends does this, or a text of extreme length: check both"
        )
    if type(error).__module__.startswith("safetensors"):
        return f"a safetensors file is damaged: {first}; copy or download it again"
    return (
        f"{type(error).__name__}: {first}\nThis is a bug in zofx, or in a library it uses; "
        f"`{DEBUG}=1 zofx …` shows where"
    )

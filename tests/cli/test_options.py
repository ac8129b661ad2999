"""The options of a verb: those of a run are made from the fields of its configuration."""

import inspect
from typing import get_args

import typer

from zofx.cli.options import takes
from zofx.cli.tune import tune
from zofx.runs.run_config import OPTIONS


def test_tune_takes_every_option_of_a_run() -> None:
    """Type, spelling, help and bounds are the field's; none has a default of its own."""
    parameters = inspect.signature(tune).parameters
    for name, option in OPTIONS.items():
        kind, info = get_args(parameters[name].annotation)
        assert parameters[name].default is None
        assert option.type in get_args(kind)
        assert option.flag in (info.default, *info.param_decls)
        assert (info.help, info.metavar) == (option.help, option.metavar)
        assert (info.min, info.max) == (option.minimum, option.maximum)


def test_options_stand_between_the_parameters_of_a_verb() -> None:
    """After its positional ones, before its keyword-only ones; the verb gets them by name."""
    received = {}

    @takes({"seed": OPTIONS["seed"]})
    def verb(artifact: str, *, quiet: bool = False, **options: int | None) -> None:
        received.update(artifact=artifact, quiet=quiet, **options)

    assert list(inspect.signature(verb).parameters) == ["artifact", "seed", "quiet"]
    verb(artifact="art", seed=3)
    assert received == {"artifact": "art", "quiet": False, "seed": 3}
    app = typer.Typer()
    app.command()(verb)
    assert typer.main.get_command(app).name == "verb"

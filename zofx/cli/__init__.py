"""The command line: a file per verb, named like it. No engine is imported before one needs it.

    app.py       the application, and how every error ends      options.py   what verbs share
    console.py   progress and tables                            config_file.py   --config

An error that zofx raises is one line or a few on stderr, and its exit code: 2 what was asked cannot
be done, 1 anything else. Any other exception is a bug: one line says how to get the traceback.
"""

from zofx.cli.app import main

__all__ = ["main"]

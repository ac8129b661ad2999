"""The command line: a file per verb, named like it. No engine is imported before one needs it.

    app.py       the application, and how every error ends      options.py   what verbs share
    console.py   progress and tables                            config_file.py   --config

An error that zofx raises is one line or a few on stderr, and its exit code: 2 what was asked cannot
be done, 1 anything else. Any other exception is a bug: one line says how to get the traceback.
"""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run a command line; ends the process. Ctrl-C ends it too, also while modules are loading."""
    try:
        from zofx.cli.app import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)

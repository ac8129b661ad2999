"""The command line: a small file per group of verbs. No engine is imported before one needs it.

    zofx compile · sensitivity      compiling.py
    zofx tune · eval · export       running.py
    zofx inspect · diff             looking.py
    zofx explain · list             explaining.py

An error that zofx raises is one line or a few on stderr, and its exit code: 2 what was asked cannot
be done, 1 anything else. Any other exception is a bug: one line says how to get the traceback.
"""

from zofx.cli.app import main

__all__ = ["main"]

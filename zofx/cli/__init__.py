"""The command line: a small file per group of verbs. No engine is imported before one needs it.

    compile                compiling.py      inspect · diff    looking.py
    sensitivity            ranking.py        explain · list    explaining.py
    coverage               covering.py       generate          generating.py
    tune                   tuning.py         plan              planning.py
    eval · export          judging.py

An error that zofx raises is one line or a few on stderr, and its exit code: 2 what was asked cannot
be done, 1 anything else. Any other exception is a bug: one line says how to get the traceback.
"""

from zofx.cli.app import main

__all__ = ["main"]

"""Every error zofx raises on purpose. The command line prints the message and exits with the code.

    ZofxError                 exit code 1
    ├── UsageError            2   asked for something impossible: unknown name, bad option, no file
    │   └── PipelineError     2   a pipeline's text or order is wrong; nothing has run
    ├── CaptureError          1   the model cannot be traced
    ├── InvariantError        1   a pass broke a fact: our bug
    ├── ArtifactError         1   an artifact or run folder is damaged, or of another version
    ├── WriteError            1   the disk takes no more
    ├── UnsupportedError      1   a runtime or a method cannot do this: carries every reason
    └── DivergenceError       1   the loss is not finite or has collapsed: carries the step

A message says what happened, where, why, and what to do.
"""

from collections.abc import Sequence


class ZofxError(Exception):
    """Base of all of them; never raised itself."""

    exit_code = 1


class UsageError(ZofxError):
    """The caller asked for something impossible."""

    exit_code = 2


class PipelineError(UsageError):
    """A pipeline's text or order is wrong; nothing has run."""


class CaptureError(ZofxError):
    """The model cannot be traced."""


class InvariantError(ZofxError):
    """A pass produced a program that breaks a rule or a fact: a bug in the pass, not the input."""


class ArtifactError(ZofxError):
    """An artifact or run folder is damaged or of another version."""


class WriteError(ZofxError):
    """The disk takes no more: it is full, or read-only."""


class UnsupportedError(ZofxError):
    """A runtime or a method cannot do this."""

    def __init__(self, what: str, reasons: Sequence[str]) -> None:
        self.what = what
        self.reasons = tuple(reasons)
        super().__init__("\n".join([what, *(f"  - {reason}" for reason in self.reasons)]))


class DivergenceError(ZofxError):
    """The loss is not finite, or the ± probes are equal to round-off.

    Attributes:
        step: the step that failed; every earlier one is in the journal.
    """

    def __init__(self, message: str, step: int) -> None:
        self.step = step
        super().__init__(message)

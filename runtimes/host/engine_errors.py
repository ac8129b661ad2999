"""What an engine raises, reported as a fault of the artifact that it was given.

    engine ─any error─▶ ArtifactError: which engine, which folder, the engine's first line

Engines have errors of their own for a graph that does not fit its tensors. A graph that zofx wrote
and nobody changed has no such fault: then it is one of zofx, and the message says that too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zofx.errors import ArtifactError, ZofxError

NO_MEMORY = ("allocate", "out of memory", "bad_alloc", "bad allocation")


@contextmanager
def engine_errors(engine: str, folder: Path) -> Iterator[None]:
    """Tell what an engine raises in this block.

    Raises:
        ArtifactError: for any error of the engine.
        MemoryError: the engine had no more.
    """
    try:
        yield
    except (ZofxError, MemoryError, OSError, ImportError):
        raise
    except Exception as error:
        text = str(error).strip()
        if any(word in text.lower() for word in NO_MEMORY):
            raise MemoryError(text) from error
        first = (text.splitlines() or [""])[0][:300]
        raise ArtifactError(
            f"the {engine} engine cannot compute {folder}: {type(error).__name__}: {first}. "
            "A file of it fits the others no more: copy the artifact again or compile the model "
            "again; if it is as `zofx compile` wrote it, this is a bug in zofx"
        ) from error

"""Pipeline text, cut into its passes: all that reading it takes without loading a compiler."""

import re

from zofx.errors import PipelineError


def passes_of(pipeline: str) -> list[str]:
    """The passes of a pipeline's text, each with its options: "a, b{x=1}" → ["a", "b{x=1}"].

    Raises:
        PipelineError: nothing stands between two commas.
    """
    parts = [part.strip() for part in re.split(r",(?![^{]*\})", pipeline)]
    if not all(parts):
        raise PipelineError(f"there is an empty place in the pipeline '{pipeline}'")
    return parts

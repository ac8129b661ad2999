"""zofx: a compiler for zeroth-order fine-tuning of language models.

    artifact = zofx.compile("./model", method="senszoq", calibration="text.txt", out="art")
    run = artifact.tune([{"prompt": …, "candidates": [" no", " yes"], "answer": 1}, …], steps=1000)
    run.evaluate()                        accuracy on the test examples, with its interval
    run.export("hf", "tuned")             a checkpoint that transformers loads

Importing the package imports nothing else: each name brings what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from zofx.api.artifact import Artifact, load
    from zofx.api.build import compile
    from zofx.api.callbacks import Callback
    from zofx.api.run import Run, load_run
    from zofx.errors import ZofxError
    from zofx.runs.evaluation import Evaluation

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Callback",
    "Evaluation",
    "Run",
    "ZofxError",
    "__version__",
    "compile",
    "load",
    "load_run",
]

PLACES: Final = {
    "Artifact": "zofx.api.artifact",
    "Callback": "zofx.api.callbacks",
    "Evaluation": "zofx.runs.evaluation",
    "Run": "zofx.api.run",
    "ZofxError": "zofx.errors",
    "compile": "zofx.api.build",
    "load": "zofx.api.artifact",
    "load_run": "zofx.api.run",
}
"""Name → the module that it is in."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'zofx' has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})

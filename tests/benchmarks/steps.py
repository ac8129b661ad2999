"""What tests of the step benchmark share."""

from typing import Any

from tokenizers import Tokenizer

from benchmarks.step.job import Contestant, Job
from tests import tiny
from zofx.tasks.encode import Encoder


def encoder() -> Encoder:
    """As zofx reads the tiny model's texts."""
    return Encoder(Tokenizer.from_str(tiny.tokenizer().backend_tokenizer.to_str()), 0, 1, None, 48)


def job(**more: Any) -> Job:
    """Of a stand-in for MeZO, nothing of which exists."""
    fixed = {"data": "", "batch": 1, "threads": 1, "seed": 0, "folder": ""}
    return Job(Contestant("mezo"), **{"artifact": "nowhere", "task": "trec", **fixed, **more})

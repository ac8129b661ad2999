"""What is measured, as data: cases, contestants, and the job that a child process is given.

    Case         model : task : batch              "smollm2:trec:16"
    Contestant   who takes a step of a case        "senszoq int4 ort", "mezo torch", "MeZO", …
    Job          a contestant in a case, with every path it needs; crosses a pipe as JSON

Standard library only: a child whose memory is measured imports what it measures, no more.
"""

import json
from dataclasses import asdict, dataclass
from typing import Final, Literal, Self, TypeAlias

from zofx.errors import UsageError

Kind: TypeAlias = Literal["zofx", "bare", "mezo", "lozo", "zobench", "lora"]

PEERS: Final[dict[str, str]] = {
    "mezo": "MeZO",
    "lozo": "LOZO",
    "zobench": "ZO-Bench",
    "lora": "LoRA + AdamW",
    "bare": "inference",
}
"""As in `--peers` → as in tables."""

ROLES: Final = "roles.json"
"""Beside a plain graph: what each of its weights is for, as the manifest of an artifact says it."""


@dataclass(frozen=True)
class Case:
    """What every contestant takes a step of.

    Attributes:
        model: a name of `models.MODELS`, or of `--model`.
        task: a name zofx knows, a .jsonl file, or a synthetic one (`tasks.SYNTHETIC`).
        batch: examples per step.
    """

    model: str
    task: str
    batch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read MODEL:TASK:BATCH.

        Raises:
            UsageError: it has another form.
        """
        model, _, rest = text.partition(":")
        task, _, batch = rest.rpartition(":")
        if not (model and task and batch.isdecimal() and int(batch)):
            raise UsageError(
                f"case '{text}': write MODEL:TASK:BATCH, for example smollm2:trec:16, with a batch "
                "of one example or more"
            )
        return cls(model, task, int(batch))

    def __str__(self) -> str:
        return f"{self.model}:{self.task}:{self.batch}"


@dataclass(frozen=True)
class Contestant:
    """Who takes steps.

    Attributes:
        kind: "zofx", or one of `PEERS`.
        method: of zofx, by name.
        quant: frozen format, where something is frozen.
        runtime: of zofx.
    """

    kind: Kind
    method: str = ""
    quant: str = ""
    runtime: str = ""

    @property
    def label(self) -> str:
        """As in tables and results."""
        name = self.method if self.kind == "zofx" else PEERS[self.kind]
        return " ".join(part for part in (name, self.quant, self.runtime) if part)


@dataclass(frozen=True)
class Job:
    """All that a child process has to know.

    Attributes:
        contestant: who it is.
        artifact: a compiled folder of the model; it also says how text is read.
        task: by name or .jsonl file.
        data: a folder of the task's records; "" for its own source.
        batch: examples per step.
        threads: of the engine.
        seed: of the data order and of zofx's directions.
        folder: where it may write.
        weights: the model in float32, a folder that transformers loads; for peers on PyTorch.
        graph: a plain ONNX graph; for inference.
        checkout: of the public code; "" for the stand-in.
    """

    contestant: Contestant
    artifact: str
    task: str
    data: str
    batch: int
    threads: int
    seed: int
    folder: str
    weights: str = ""
    graph: str = ""
    checkout: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read it back."""
        fields = json.loads(text)
        return cls(contestant=Contestant(**fields.pop("contestant")), **fields)

"""What is damaged: a tiny model, its artifact, a task and the verbs on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime  # noqa: F401  # engines are imported before the forks
import torch  # noqa: F401
import transformers  # noqa: F401

from tests import tiny
from tests.artifacts import made_up_scores
from zofx.artifact import layout
from zofx.artifact.manifest import read_manifest
from zofx.artifact.merge import merged_tensors
from zofx.compiler.compile import compile_model
from zofx.compiler.methods import METHODS
from zofx.compiler.options import Options
from zofx.models.checkpoint import open_checkpoint
from zofx.models.hf_export import export_hf
from zofx.models.tokenizer import SpecialTokens
from zofx.runs.prepare import prepare
from zofx.runs.resume import prepare_resumed
from zofx.runs.tune import start, train

STEPS = 12


@dataclass(frozen=True)
class Subject:
    """The folders of a campaign; everything is made once."""

    root: Path

    @property
    def model(self) -> Path:
        """The checkpoint."""
        return self.root / "model"

    @property
    def artifact(self) -> Path:
        """The artifact."""
        return self.root / "art"

    @property
    def task(self) -> Path:
        """The task."""
        return self.root / "mood.jsonl"

    def make(self) -> None:
        """Model, task and artifact."""
        tiny.tiny_llama(self.model)
        tiny.task_file(self.task)
        self.compile(self.artifact)

    def compile(self, out: Path, force: bool = False) -> None:
        """`zofx compile`."""
        checkpoint = open_checkpoint(str(self.model))
        options = Options("int4", "none", None, 0.05, ("select-sensitive.cover=1",), force)
        scores = made_up_scores(checkpoint)
        compile_model(checkpoint, METHODS["senszoq"], out, scores=scores, options=options)

    def export(self, out: Path) -> None:
        """`zofx export`."""
        manifest = read_manifest(self.artifact)
        export_hf(
            manifest.config,
            (self.artifact / layout.TOKENIZER).read_bytes(),
            merged_tensors(self.artifact),
            out,
            SpecialTokens(**manifest.model["special"]),
        )

    def sensitivity(self, out: Path) -> None:
        """Writes what `zofx sensitivity` does."""
        made_up_scores(open_checkpoint(str(self.model))).save(out)

    def options(self, runtime: str) -> dict[str, Any]:
        """Of a run."""
        return {
            "task": self.task, "runtime": runtime, "threads": 1, "steps": STEPS, "batch_size": 4,
            "lr": 0.03, "eps": 0.01, "eval_every": 5,
        }  # fmt: skip

    def tune(self, artifact: Path, out: Path, runtime: str = "ort", steps: int = STEPS) -> None:
        """`zofx tune`, or `--resume` where the run is there."""
        options = {**self.options(runtime), "steps": steps}
        resumed = (out / "run.json").is_file()
        if resumed:
            prepared = prepare_resumed(artifact, out, {})
        else:
            prepared = start(prepare(artifact, options), out)
        session = prepared.session()
        train(prepared, session)
        session.close()

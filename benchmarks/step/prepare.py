"""What contestants need on disk; made once, kept in --work, by folder of the model.

    MODEL ─rank─▶ scores.safetensors ─compile─▶ METHOD-QUANT/       zofx
          ─frozen, quantized, no trainables──▶ plain-QUANT/         inference; integers are
                                                                    rounded as by default
          ─f32───────────────────────────────▶ float32/             peers on PyTorch

torch and transformers are imported only where something is missing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.random_llama import make_scores
from benchmarks.step import models, tasks
from benchmarks.step.job import ROLES, Contestant
from zofx.artifact import layout
from zofx.cli.console import say
from zofx.compiler.methods import METHODS
from zofx.errors import UsageError
from zofx.files.atomic import new_folder
from zofx.runs.compiled_model import open_model

if TYPE_CHECKING:
    from zofx.compiler.sensitivity.scores import Scores
    from zofx.ir.program import Program
    from zofx.models.checkpoint import Checkpoint

PLAIN: Final = (
    "canonicalize, narrow-positions, quantize-frozen{{format={quant}}}, narrow-vocabulary"
)
CALIBRATION: Final = {"tokens": 4096, "batches": 16}
"""As `make demo` ranks weights."""


@dataclass(frozen=True)
class Workshop:
    """Where things are made.

    Attributes:
        root: of all models.
        more: name → MODEL, of one's own.
        calibration: text that real models' weights are ranked on.
        sensitivity: model → file of ranks made before.
    """

    root: Path
    more: Mapping[str, str]
    calibration: str
    sensitivity: Mapping[str, Path]

    def artifact(self, model: str, who: Contestant) -> Path:
        """A compiled method."""
        name = "-".join(part for part in (who.method, who.quant) if part)
        folder = self.root / model / name
        if not folder.exists():
            self._compile(model, who, folder)
        wanted, manifest = (
            models.source(model, self.more, folder.parent),
            open_model(folder).manifest,
        )
        if manifest.model["source"] != wanted:
            raise UsageError(
                f"{folder} was compiled from {manifest.model['source']}, and {model} is {wanted}; "
                "give another --work"
            )
        return folder

    def plain(self, model: str, quant: str) -> Path:
        """graph.onnx of the frozen model."""
        folder = self.root / model / f"plain-{quant}"
        if not folder.exists():
            say(f"{model}: exporting the plain {quant} graph")
            write_plain(self._checkpoint(model), PLAIN.format(quant=quant), folder)
        return folder / layout.ONNX

    def weights(self, model: str) -> Path:
        """A folder that transformers loads: the model's own, or a copy in float32."""
        own = Path(models.source(model, self.more, self.root / model))
        if own.is_dir():
            return own
        folder = self.root / model / "float32"
        if not folder.exists():
            say(f"{model}: writing a copy in float32")
            write_float32(self._checkpoint(model), folder)
        return folder

    def task(self, model: str, task: str, folder: Path) -> str:
        """A task as zofx takes it; a synthetic one is written in the words of an artifact.

        Raises:
            UsageError: the model cannot read it.
        """
        if not tasks.is_synthetic(task):
            if model in models.RANDOM and not task.endswith(".jsonl"):
                raise UsageError(
                    f"{model} has words of its own, which task '{task}' has none of; give it a "
                    "synthetic one, for example six-64"
                )
            return task
        path = self.root / model / f"{task}.jsonl"
        if not path.is_file():
            opened = open_model(folder)
            adds_bos = opened.manifest.model["special"]["adds_bos"]
            tasks.write_synthetic(task, opened.tokenizer, adds_bos, path)
        return str(path)

    def _checkpoint(self, model: str) -> "Checkpoint":
        from zofx.models.checkpoint import open_checkpoint

        return open_checkpoint(models.source(model, self.more, self.root / model))

    def _compile(self, model: str, who: Contestant, folder: Path) -> None:
        from zofx.compiler.compile import compile_model
        from zofx.compiler.options import Options, pipeline_for

        say(f"{model}: compiling {who.method} {who.quant}")
        method, options = METHODS[who.method], Options(who.quant or None)
        checkpoint = self._checkpoint(model)
        scores = None
        if pipeline_for(method, options).needs_scores:
            scores = self._scores(model, checkpoint)
        folder.parent.mkdir(parents=True, exist_ok=True)
        compile_model(checkpoint, method, folder, scores=scores, options=options)

    def _scores(self, model: str, checkpoint: "Checkpoint") -> "Scores":
        """Given, random for random weights, or ranked on the calibration text."""
        from zofx.compiler.sensitivity.rank import rank_on_text
        from zofx.compiler.sensitivity.scores import load_scores

        file = self.sensitivity.get(model) or self.root / model / "scores.safetensors"
        if not file.exists() and model in models.RANDOM:
            rng = np.random.Generator(np.random.Philox(key=1))
            shape = models.RANDOM[model]
            make_scores(file, checkpoint.hash, shape, shape.spread, rng)
        elif not file.exists() and model not in self.sensitivity:
            file.parent.mkdir(parents=True, exist_ok=True)
            rank_on_text(checkpoint, self.calibration, **CALIBRATION).save(file)
        scores = load_scores(file)
        scores.check_model(checkpoint)
        return scores


def write_plain(checkpoint: "Checkpoint", pipeline: str, folder: Path) -> None:
    """Write a program without trainables as graph.onnx and weights.safetensors.

    An artifact has something to train; this has nothing, so it is no artifact. Passes, lowerings
    and the layout of the weights are those of artifacts; `ROLES` says which weights are tables.
    """
    from zofx.ir.pipeline import Pipeline
    from zofx.models.capture import capture
    from zofx.models.checkpoint import build_on_meta
    from zofx.passes import PASSES

    model = build_on_meta(checkpoint.config, checkpoint.architecture)
    causal = checkpoint.architecture == "causal-lm"
    program = capture(model, checkpoint.resolve(model), causal=causal)
    plain = rounded(Pipeline.parse(pipeline, PASSES).run(program))
    with new_folder(folder) as made:
        _write_onnx(plain, made)


def rounded(program: "Program") -> "Program":
    """Matrices in int8-row meet integers, as in an artifact; without probes, rows are all."""
    import torch

    from zofx.passes.quantize_activations import QuantizeActivations

    integers = torch.ops.zofx.linear_int8.default
    if not program.graph.find_nodes(op="call_function", target=integers):
        return program
    return QuantizeActivations().run(program, lambda *_: None)


def _write_onnx(program: "Program", folder: Path) -> None:
    import onnx

    from zofx.compiler.write import tensor_bytes, tensor_file
    from zofx.ir.schema import FROZEN_ROLES
    from zofx.runtimes.onnx_export.export import to_onnx

    file = tensor_file(program, folder / layout.WEIGHTS, *FROZEN_ROLES)
    for name in program.tensors:
        file.write(name, tensor_bytes(program, name))
    onnx.save(to_onnx(program, file.span, layout.WEIGHTS), folder / layout.ONNX)
    roles = {name: str(spec.role) for name, spec in program.tensors.items()}
    (folder / ROLES).write_text(json.dumps(roles))


def write_float32(checkpoint: "Checkpoint", folder: Path) -> None:
    """Write a checkpoint's parameters in float32, tied ones once, and its configuration."""
    from safetensors.torch import save_file

    from zofx.models.checkpoint import build_on_meta

    model = build_on_meta(checkpoint.config, checkpoint.architecture)
    recipes = checkpoint.resolve(model)
    values = {name: recipes[name]().float().contiguous() for name, _ in model.named_parameters()}
    with new_folder(folder) as made:
        save_file(values, made / "model.safetensors", {"format": "pt"})
        checkpoint.config.save_pretrained(made)

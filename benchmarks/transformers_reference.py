"""The same rows scored by a plain transformers model: no graph, pass or kernel of zofx takes part.

artifact + θ ─merge, export─▶ Hugging Face folder ─from_pretrained, float32─▶ model
logits[N, T, V] ─log-softmax, gather at positions─▶ mean over S ─▶ logprob[1, N, C]
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from zofx.artifact import layout
from zofx.artifact.manifest import read_manifest
from zofx.artifact.merge import merged_tensors
from zofx.models.hf_export import export_hf
from zofx.models.tokenizer import SpecialTokens
from zofx.session import IGNORED, Batch
from zofx.zo.types import FloatArray


def exported(
    artifact: Path, theta: Mapping[str, FloatArray], folder: Path
) -> Callable[[Batch], FloatArray]:
    """Export θ merged into its model and load that with transformers.

    Args:
        artifact: θ belongs to.
        theta: the trainables.
        folder: to make; one that is there is replaced.

    Returns:
        Batch → log-probability f32[1, N, C], as a session answers without a perturbation.
    """
    shutil.rmtree(folder, ignore_errors=True)
    manifest = read_manifest(artifact)
    export_hf(
        manifest.config,
        (artifact / layout.TOKENIZER).read_bytes(),
        merged_tensors(artifact, theta),
        folder,
        SpecialTokens(**manifest.model["special"]),
    )
    causal = manifest.model["architecture"] == "causal-lm"
    auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    return lambda batch: score(model, batch)


@torch.inference_mode()
def score(model: PreTrainedModel, batch: Batch) -> FloatArray:
    """Mean log-probability (nats) of every alternative at its scored positions, f32[1, N, C]."""
    arrays = {name: torch.from_numpy(array) for name, array in batch.named().items()}
    logits = model(input_ids=arrays["input_ids"], attention_mask=arrays["attention_mask"]).logits
    rows = torch.arange(len(logits))[:, None]
    logprob = logits[rows, arrays["positions"]].float().log_softmax(-1)  # [N, S, V]
    used = arrays["targets"] != IGNORED  # [N, S, C]
    taken = logprob.gather(-1, arrays["targets"].clamp(min=0)) * used
    scores: FloatArray = (taken.sum(1) / used.sum(1).clamp(min=1))[None].numpy()
    return scores

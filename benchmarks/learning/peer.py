"""First order in PyTorch, written as an engineer would: one row per example, scored places alone.

    batch ─model─▶ hidden f32[N, T, H] ─positions─▶ [N, S, H] ─head─▶ scores [N, C] ─▶ loss ─▶ AdamW

Where only differences between an example's candidates count and they share its row, the head is
multiplied at the candidates' tokens alone; otherwise at the whole vocabulary, as a likelihood needs
it. The model is read in float32; `autocast` computes in bfloat16. What is scored, and the loss, are
those of zofx, so a point of one contestant means what a point of another does.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from zofx.session import IGNORED, Batch
from zofx.tasks.objectives import ScoreObjective
from zofx.tasks.rows import Encoded
from zofx.zo.types import FloatArray, Key


class Peer:
    """A transformers model that answers as a zofx session does, and steps by AdamW.

    Args:
        model: some of whose parameters ask for gradients.
        lr: of AdamW, at the first step.
        steps: over which it falls to zero, linearly.
        bfloat16: whether products are computed in bfloat16.
    """

    def __init__(self, model: nn.Module, lr: float, steps: int, bfloat16: bool) -> None:
        self.model = model.eval()  # no dropout: the loss is that of the others
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=lr)
        self._schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, steps)
        self._bfloat16 = bfloat16

    def evaluate(self, batch: Batch, keys: Sequence[Key], coefficients: FloatArray) -> FloatArray:
        """Scores f32[1, N, C]; there are no probes."""
        with torch.inference_mode():
            scores: FloatArray = self._scores(batch).float().numpy()
        return scores[None]

    def step(self, encoded: Encoded, objective: ScoreObjective) -> None:
        """Forward, backward, update: one batch."""
        scores = self._scores(encoded.batch)
        weights = objective.weigh(scores.detach().float().numpy(), encoded)
        torch.autograd.backward((scores * torch.from_numpy(weights.astype(np.float32))).sum())
        self.optimizer.step()
        self._schedule.step()
        self.optimizer.zero_grad()

    def _scores(self, batch: Batch) -> Tensor:
        """f32[N, C], the mean over scored places."""
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        positions, targets = torch.from_numpy(batch.positions), torch.from_numpy(batch.targets)
        body, head = _halves(self.model)
        autocast = torch.autocast("cpu", torch.bfloat16) if self._bfloat16 else nullcontext()
        with autocast:
            hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            rows = hidden[torch.arange(len(ids))[:, None], positions]
            asked = targets.clamp(min=0)
            if batch.relative:
                logprob = (rows[:, :, None] * head.weight[asked]).sum(-1)
            else:
                logprob = head(rows).float().log_softmax(-1).gather(-1, asked)
        counted = (targets != IGNORED).float()
        mean: Tensor = (logprob.float() * counted).sum(1) / counted.sum(1).clamp(min=1)
        return mean


def lora(folder: Path, lr: float, steps: int, bfloat16: bool, rank: int = 8) -> Peer:
    """PEFT's adapters on the query and value projections."""
    import peft

    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    return Peer(peft.get_peft_model(_loaded(folder), config), lr, steps, bfloat16)


def last_block(folder: Path, lr: float, steps: int, bfloat16: bool) -> Peer:
    """Full fine-tuning of the last block; autograd stops below it."""
    model = _loaded(folder).requires_grad_(False)
    model.model.layers[-1].requires_grad_(True)
    return Peer(model, lr, steps, bfloat16)


def _loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _halves(model: Any) -> tuple[nn.Module, nn.Linear]:
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.model, whole.lm_head

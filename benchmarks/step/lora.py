"""First order: LoRA adapters trained by backpropagation and AdamW.

    W·x  →  W·x + (α/r)·B·A·x        A, B train; of the query and value projections, as PEFT does

PEFT's own adapters where it is installed, else the same in plain PyTorch, which says "stand-in".
Source: Hu et al. 2021, LoRA, arXiv 2106.09685.
"""

import math
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.step.rows import Inputs
from benchmarks.step.standin import candidate_loss

RANK: Final = 8
ALPHA: Final = 16
TARGETS: Final = ("q_proj", "v_proj")
LR: Final = 1e-4


class LoraLinear(nn.Module):
    """A linear layer and its adapter, whose B starts at zero.

    Args:
        base: frozen.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, base.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Both, added."""
        both: Tensor = self.base(x) + ALPHA / RANK * self.up(self.down(x))
        return both


def adapted(model: nn.Module) -> tuple[nn.Module, str]:
    """A model whose adapters alone train, and what made them ("" for the stand-in)."""
    if find_spec("peft"):
        import peft

        options: dict[str, Any] = {"r": RANK, "lora_alpha": ALPHA, "target_modules": [*TARGETS]}
        config = peft.LoraConfig(task_type="CAUSAL_LM", **options)
        return peft.get_peft_model(model, config), f"peft {version('peft')}"
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name in TARGETS:
            if isinstance(base := getattr(module, name, None), nn.Linear):
                setattr(module, name, LoraLinear(base))
    return model, ""


class FirstOrder:
    """AdamW on what trains.

    Args:
        model: some of whose parameters ask for gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()  # no dropout: the loss is that of the others
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LR)

    def step(self, inputs: Inputs) -> list[Tensor]:
        """Forward, backward, update; returns the loss."""
        loss = candidate_loss(self.model, inputs)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return [loss.detach()]

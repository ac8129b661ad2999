"""Weights to store."""

import torch
from torch import Tensor


def normal(*size: int, seed: int = 0) -> Tensor:
    """Normal numbers, always the same ones."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))

"""From logits to scores: the positions that are scored, the alternatives there."""

import torch
from torch import Tensor
from torch.library import custom_op


@custom_op("zofx::select_positions", mutates_args=())
def select_positions(x: Tensor, positions: Tensor) -> Tensor:
    """x[n, positions[n, s]]: [N, T, …], i64[N, S] → [N, S, …]."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[rows, positions]


@select_positions.register_fake
def _(x: Tensor, positions: Tensor) -> Tensor:
    return x.new_empty((*positions.shape, *x.shape[2:]))


@custom_op("zofx::score_targets", mutates_args=())
def score_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean log-probability of each alternative: [N, S, V], i64[N, S, C] → f32[N, C].

    The mean is over scored positions, log p = logit − logsumexp(logits), in f32. A target of −100
    is not scored; an alternative scored nowhere gets 0.
    """
    logits = logits.float()
    scored = (targets >= 0).float()
    chosen = logits.gather(-1, targets.clamp(min=0))
    log_probability = chosen - logits.logsumexp(-1, keepdim=True)
    return (log_probability * scored).sum(1) / scored.sum(1).clamp(min=1)


@score_targets.register_fake
def _(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.new_empty((targets.shape[0], targets.shape[2]), dtype=torch.float32)

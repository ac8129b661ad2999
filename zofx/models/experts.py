"""Mixtures of experts as products that every pass knows: the router weighs each expert's linears.

    y[s] = Σ_e r[s, e]·f_e(x[s])        r[s, e] = Σ_k w[s, k]·[i[s, k] = e]
    f_e(x) = D_e·gate(U_e·x)            U_e, D_e rows of the stacked weights [E, out, in]

Transformers lets one function stand for the experts of all its models. Its own sort tokens by
expert, which neither probes nor ONNX have a form for; this one costs E/k times their arithmetic and
is the same sum: a token's other experts have weight 0.
"""

from typing import Any, Final

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

EVERY_EXPERT: Final = "zofx_every_expert"
"""The function's name in transformers' table."""


def every_expert(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """What a mixture adds to each token, f32[S, D].

    Args:
        experts: transformers' module: stacked weights, gate and activation.
        hidden_states: f32[S, D].
        top_k_index: i64[S, k], the experts of a token; E stands for none.
        top_k_weights: f32[S, k].
    """
    up = "gate_up_proj" if experts.has_gate else "up_proj"
    total = torch.zeros_like(hidden_states)
    for expert in range(getattr(experts, up).shape[0]):
        inner = _linear(experts, up, expert, hidden_states)
        inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
        result = _linear(experts, "down_proj", expert, inner)
        if experts.has_post_expert_norm:
            result = experts.post_expert_norm(result)
        share = (top_k_weights * (top_k_index == expert).to(top_k_weights.dtype)).sum(-1)
        total = total + result * share.unsqueeze(-1)
    return total.to(hidden_states.dtype)


def _linear(experts: Any, name: str, expert: int, x: Tensor) -> Tensor:
    """One expert's product, and its bias."""
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    product = torch.nn.functional.linear(x, weight.t() if experts.is_transposed else weight)
    return product if bias is None else product + bias


ALL_EXPERTS_FUNCTIONS[EVERY_EXPERT] = every_expert

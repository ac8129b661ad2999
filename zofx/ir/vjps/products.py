"""Rules of products: with trained and frozen matrices, with sparse trainables, and in attention.

    y = x·Wᵀ + b     dx = dy·W       dW = Σ dyᵀ·x      db = Σ dy
    y = x·Ŵᵀ + b     dx = dy·Ŵ       Ŵ is frozen: its codes and scales have no cotangent
    y = P·V          P = softmax(s·Q·Kᵀ + M)
                     dV = Pᵀ·dy      dS = P ∘ (dP − Σ dP ∘ P),  dP = dy·Vᵀ
                     dQ = s·dS·K     dK = s·dSᵀ·Q

Attention makes P again from Q and K: nothing of the size T² is kept (Dao et al. 2022,
FlashAttention, arXiv 2205.14135, §3.1).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from zofx.ir.ops import zofx_ops
from zofx.ir.vjps.values import Call, Cotangents, Rule

aten = torch.ops.aten
product = zofx_ops.product.default


def linear(call: Call, dy: Tensor) -> Cotangents:
    """A matrix that may train, or be frozen in full precision."""
    x, weight, *_ = call.args
    cotangents = dict(
        call.cotangents(
            lambda: product(dy, weight, False, False),
            lambda: product(_rows(dy), _rows(x), True, False),
        )
    )
    if call.wants(2):
        cotangents[2,] = _rows(dy).sum(0)
    return cotangents


def linear_nf4(call: Call, dy: Tensor) -> Cotangents:
    """By bitsandbytes' codes."""
    x, codes, absmax, _, _, block = call.args
    times = zofx_ops.linear_nf4_transpose
    return _frozen(call, dy, 3, partial(times, dy, codes, absmax, x.shape[-1], block))


def linear_int(call: Call, dy: Tensor) -> Cotangents:
    """Integers in blocks."""
    _, codes, scales, zeros, _, bits = call.args
    return _frozen(
        call, dy, 4, partial(zofx_ops.linear_int_transpose, dy, codes, scales, zeros, bits)
    )


def linear_int8(call: Call, dy: Tensor) -> Cotangents:
    """Integers in rows."""
    _, codes, scales, _ = call.args
    return _frozen(call, dy, 3, partial(zofx_ops.linear_int8_transpose, dy, codes, scales))


def linear_codebook(call: Call, dy: Tensor) -> Cotangents:
    """A codebook of each row."""
    _, codes, centroids, _ = call.args
    return _frozen(call, dy, 3, partial(zofx_ops.linear_codebook_transpose, dy, codes, centroids))


def _frozen(call: Call, dy: Tensor, bias: int, dx: Any) -> Cotangents:
    """Of the input, and of the bias if it trains."""
    cotangents: dict[tuple[int, ...], Tensor] = {}
    if call.wants(0):
        cotangents[0,] = dx()
    if call.wants(bias):
        cotangents[bias,] = _rows(dy).sum(0)
    return cotangents


def sparse_linear(call: Call, dy: Tensor) -> Cotangents:
    """StepSelector the entries of S alone."""
    x, values, index, _, columns, deepest = call.args
    return call.cotangents(
        lambda: zofx_ops.sparse_linear_transpose(dy, values, index, x.shape[-1], columns),
        lambda: zofx_ops.sparse_linear_entries(dy, x, index, columns, deepest),
    )


def attention(call: Call, dy: Tensor) -> Cotangents:
    """The softmax is made again. Heads of k and v that are shared are repeated by the graph."""
    query, key, value, *_ = call.args
    given = _attention_options(call)
    scale, mask = given["scale"], given["attn_mask"]
    if given["dropout_p"] or given["enable_gqa"]:
        raise NotImplementedError(
            "aten.scaled_dot_product_attention with dropout or enable_gqa has no rule: trace the "
            "model in evaluation mode, with repeated heads"
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = product(query * scale, key, False, True)
    if given["is_causal"]:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(mask.logical_not(), torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    shares = scores.softmax(-1)
    dshares = product(dy, value, False, True)
    dscores = shares * (dshares - (dshares * shares).sum(-1, keepdim=True)) * scale
    return call.cotangents(
        lambda: product(dscores, key, False, False),
        lambda: product(dscores, query, True, False),
        lambda: product(shares, dy, True, False),
    )


def _attention_options(call: Call) -> dict[str, Any]:
    schema = aten.scaled_dot_product_attention.default._schema
    options = {argument.name: argument.default_value for argument in schema.arguments[3:]}
    given = zip(options, call.args[3:], strict=False)
    return options | dict(given) | dict(call.kwargs)


def _rows(x: Tensor) -> Tensor:
    """[..., k] → [M, k]."""
    return x.reshape(-1, x.shape[-1])


RULES: Final[Mapping[Any, Rule]] = {
    aten.linear.default: linear,
    aten.scaled_dot_product_attention.default: attention,
    zofx_ops.linear_nf4.default: linear_nf4,
    zofx_ops.linear_int.default: linear_int,
    zofx_ops.linear_int8.default: linear_int8,
    zofx_ops.linear_codebook.default: linear_codebook,
    zofx_ops.sparse_linear.default: sparse_linear,
}

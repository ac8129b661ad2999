"""Tangents of ops that divide by a sum: softmax, the norms, the score.

    y = softmax(x)                 dy = y ∘ (dx − Σ y∘dx)
    y = x − log Σ exp x            dy = dx − Σ softmax(x)∘dx
    n = (x − x̄) / σ                dn = (c − n·mean(n∘c)) / σ       c = dx − mean dx
    y = n∘w + b                    dy = dn∘w + n∘dw + db

RMSNorm is the same without the means of x and dx.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zofx.ir import ops  # noqa: F401  # registers torch.ops.zofx
from zofx.ir.tangents.layout import shifted
from zofx.ir.tangents.values import Rule, Tangents, Value, described, times, total

aten = torch.ops.aten


def _typed(tangent: Value, x: Value, dtype: torch.dtype | None) -> Value:
    """The tangent of x as another type."""
    stays = dtype is None or dtype is described(x).dtype
    return tangent if stays else aten._to_copy.default(tangent, dtype=dtype)


def _softmax(d: Tangents, y: Value, x: Value, dim: int, dtype: torch.dtype | None = None) -> Value:
    moved = y * _typed(d(x), x, dtype)
    return moved - y * aten.sum.dim_IntList(moved, [shifted(dim)], True)


def _log_softmax(
    d: Tangents, y: Value, x: Value, dim: int, dtype: torch.dtype | None = None
) -> Value:
    tangent = _typed(d(x), x, dtype)
    return tangent - aten.sum.dim_IntList(aten.exp.default(y) * tangent, [shifted(dim)], True)


def _mean(x: Value, axes: Sequence[int]) -> Value:
    return aten.mean.dim(x, list(axes), True)


def _layer_norm(
    d: Tangents, y: Value, x: Value, shape: Sequence[int], weight: Value | None = None,
    bias: Value | None = None, eps: float = 1e-5, _: bool = True,
) -> Value:  # fmt: skip
    axes, tangent = range(-len(shape), 0), d(x)
    if tangent is not None:
        tangent = tangent - _mean(tangent, axes)
    scaled = _scaled(d, y, x - _mean(x, axes), tangent, weight, axes, eps)
    shift = d.across(bias, y)
    return d.spread(shift, y) if scaled is None else total(scaled, shift)


def _rms_norm(
    d: Tangents, y: Value, x: Value, shape: Sequence[int], weight: Value | None = None,
    eps: float | None = None,
) -> Value:  # fmt: skip
    eps = torch.finfo(described(x).dtype).eps if eps is None else eps
    return _scaled(d, y, x, d(x), weight, range(-len(shape), 0), eps)


def _scaled(
    d: Tangents, y: Value, x: Value, tangent: Value | None, weight: Value | None,
    axes: Sequence[int], eps: float,
) -> Value | None:  # fmt: skip
    """Of x / √(mean x² + ε) ∘ w, from a tangent of x."""
    scale = aten.rsqrt.default(_mean(x * x, axes) + eps)
    normal = x * scale
    if tangent is not None:
        tangent = (tangent - normal * _mean(normal * tangent, axes)) * scale
        tangent = tangent if weight is None else tangent * weight
    return total(tangent, times(d.across(weight, y), normal))


def _score_targets(d: Tangents, y: Value, logits: Value, targets: Value) -> Value:
    """Of the mean over scored positions of logit − logsumexp(logits): [P, N, C], in f32."""
    tangent = _typed(d(logits), logits, torch.float32)
    p = aten.softmax.int(_typed(logits, logits, torch.float32), -1)
    place = d.spread(aten.clamp.default(targets, 0), targets)
    chosen = aten.gather.default(tangent, 3, place)
    chosen = chosen - aten.sum.dim_IntList(p * tangent, [-1], True)
    scored = aten._to_copy.default(aten.ge.Scalar(targets, 0), dtype=torch.float32)
    count = aten.clamp.default(aten.sum.dim_IntList(scored, [1]), 1)
    return aten.sum.dim_IntList(chosen * scored, [2]) / count


RULES: Mapping[Any, Rule] = {
    aten.layer_norm.default: Rule(_layer_norm, (0, 2, 3)),
    aten.log_softmax.int: Rule(_log_softmax),
    aten.rms_norm.default: Rule(_rms_norm, (0, 2)),
    aten.softmax.int: Rule(_softmax),
    torch.ops.zofx.score_targets.default: Rule(_score_targets),
}

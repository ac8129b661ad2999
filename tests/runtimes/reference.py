"""What a program means, in float64, and how far float32 may be from it.

    y = f(v₁, v₂, …)      every value v of the graph is computed from earlier ones
    |y₃₂ − y| ≤ Σᵢ |∂y/∂vᵢ| · localᵢ + O(u²)        localᵢ = γₙ · (what vᵢ adds up, absolutely)

An op that makes n roundings is off by at most γₙ = n·u / (1 − n·u), u = 2⁻²⁴, of the sum of the
absolute values of its terms, whatever the order of summation (Higham 2002, chapter 3). To first
order these errors add up in the result, each weighed by the derivative of the result with respect
to the value (Linnainmaa 1976, "Taylor expansion of the accumulated rounding error"). So a kernel
that computes the meaning of its op, in any order and with any fusion, stays within the bound; and
the bound is that of this program on this batch, a few parts in 10⁵ here.

The zofx:: ops are spelled out again, densely, so that this is not the code it judges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import getitem
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional

from zofx.artifact import layout
from zofx.artifact.manifest import read_trainables
from zofx.ir.formats import nf4
from zofx.ir.graph_json import load_graph
from zofx.ir.ops import zofx_ops
from zofx.ir.ops.rounding import SMALLEST
from zofx.ir.program import output_node
from zofx.ir.schema import HIDDEN
from zofx.session import Batch
from zofx.zo.random.noise import Stream, sample, sample_words
from zofx.zo.types import QUERY_BITS, FloatArray, Key, key_words

aten = torch.ops.aten

UNIT = 2.0**-24
ARITHMETIC = 4
"""Roundings of +, ·, /, √ and small powers, also when an engine makes one of two of them."""
FUNCTION = 8
"""Of cos, erf, exp, …: vendors state up to 4 units in the last place, 8 u."""

EXACT = {
    aten._to_copy, aten._unsafe_view, aten.cat, aten.clamp, aten.clone, aten.embedding, aten.expand,
    aten.gather, aten.index, aten.neg, aten.permute, aten.reshape, aten.slice, aten.transpose,
    aten.type_as, aten.unsqueeze, aten.view, aten.where,
}  # fmt: skip
ROUNDED = {aten.add, aten.div, aten.mul, aten.pow, aten.rsqrt, aten.sub}
FUNCTIONS = {aten.cos, aten.erf, aten.gelu, aten.sin, aten.tanh}


Note: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""(value, magnitude, n) → the value, which n roundings of terms of that magnitude made."""


@dataclass
class Rounding:
    """Collects the values at which something was rounded, and by how much at most."""

    values: list[Tensor] = field(default_factory=list)
    local: list[Tensor] = field(default_factory=list)

    def __call__(self, value: Tensor, magnitude: Tensor, roundings: int) -> Tensor:
        """The value, noted with γ_roundings · magnitude."""
        gamma = roundings * UNIT / (1 - roundings * UNIT)
        self.values.append(value)
        self.local.append((gamma * magnitude).detach().expand_as(value))
        return value

    def bound(self, result: Tensor) -> Tensor:
        """Σᵢ |∂result/∂vᵢ| · localᵢ, in the shape of the result."""
        each = torch.eye(result.numel(), dtype=result.dtype).view(-1, *result.shape)
        slopes = torch.autograd.grad(
            result, self.values, each, is_grads_batched=True, allow_unused=True
        )
        parts = [
            (slope.abs() * local).flatten(1).sum(1)
            for slope, local in zip(slopes, self.local, strict=True)
            if slope is not None
        ]
        return torch.stack(parts).sum(0).view(result.shape)


def evaluate(
    folder: Path,
    batch: Batch,
    keys: Sequence[Key],
    coefficients: FloatArray,
    theta: Mapping[str, FloatArray] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What an artifact's graph means on a batch, at θ or the initial θ.

    Returns:
        logprob f64[P, N, C], and the bound on an engine's error, f64[P, N, C].
    """
    result, rounding = trace(folder, batch, keys, coefficients, theta)
    return result.detach().numpy(), rounding.bound(result).numpy()


def trace(
    folder: Path,
    batch: Batch,
    keys: Sequence[Key],
    coefficients: FloatArray,
    theta: Mapping[str, FloatArray] | None = None,
) -> tuple[Tensor, Rounding]:
    """As `evaluate`, with the roundings on the way: they bound any function of the scores."""
    if not keys:
        keys, coefficients = [Key(0, 0)], np.zeros((len(coefficients), 1), np.float32)
    words = key_words(tuple(keys)).view(np.int64)
    trainables = read_trainables(folder) if theta is None else theta
    given = {**batch.named(), **trainables, "keys": words, "coefficients": coefficients}
    inputs = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in given.items()}
    stored = load_file(folder / layout.WEIGHTS)
    rounding = Rounding()
    if (folder / layout.PREFIX_GRAPH).is_file():
        prefix = load_graph(folder / layout.PREFIX_GRAPH)
        inputs[HIDDEN] = run(prefix, {**stored, **inputs}, rounding)
    return run(load_graph(folder / layout.GRAPH), {**stored, **inputs}, rounding), rounding


def run(graph: fx.Graph, given: Mapping[str, Tensor], rounding: Rounding) -> Tensor:
    """The result of a graph in canonical form, its roundings noted."""
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            value = given[str(node.target)]
            values[node] = value.double().requires_grad_() if value.is_floating_point() else value
        elif node.op == "call_function":
            args = map_arg(node.args, values.__getitem__)
            kwargs = map_aggregate(map_arg(node.kwargs, values.__getitem__), _wide)
            values[node] = _call(node.target, args, kwargs, rounding)
    result: Tensor = values[output_node(graph).all_input_nodes[0]]
    return result


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _call(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], rounding: Note) -> Any:
    """One op: spelled out below, or torch's own in float64 and what its kind of op rounds."""
    if target in MEANINGS:
        return MEANINGS[target](rounding, *args, **kwargs)
    value = target(*args, **kwargs)
    if not isinstance(value, Tensor) or not value.is_floating_point() or target is getitem:
        return value
    kind = target.overloadpacket
    if kind in EXACT:
        return value
    if kind in ROUNDED:
        return rounding(value, value.abs(), ARITHMETIC)
    if kind in FUNCTIONS:
        return rounding(value, args[0].abs().clamp(min=1), FUNCTION)
    raise NotImplementedError(f"say what {target} rounds, in {__file__}")


def linear(rounding: Note, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b; one rounding more for a W that is a product itself."""
    size = functional.linear(x.abs(), weight.abs(), None if bias is None else bias.abs())
    return rounding(functional.linear(x, weight, bias), size, weight.shape[1] + 3)


def silu(rounding: Note, x: Tensor) -> Tensor:
    """x·σ(x)."""
    share = rounding(x.sigmoid(), x.sigmoid(), FUNCTION)
    return rounding(x * share, x.abs().clamp(min=1), FUNCTION)


def matmul(rounding: Note, x: Tensor, y: Tensor) -> Tensor:
    """x·y."""
    return rounding(x @ y, x.abs() @ y.abs(), x.shape[-1] + 1)


def linear_nf4(
    rounding: Note, x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None,
    out: int, block: int,
) -> Tensor:  # fmt: skip
    """bitsandbytes' high nibble comes first."""
    levels = nf4.dequantize(nf4.Nf4(torch.arange(16, dtype=torch.uint8), torch.ones(1)), 1, 32)[
        0, 1::2
    ]
    nibbles = torch.stack((codes >> 4, codes & 0xF), -1).view(-1, block)
    weight = levels.double()[nibbles.long()] * absmax[:, None]
    return linear(rounding, x, weight.view(out, -1), bias)


def linear_int(
    rounding: Note, x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor,
    bias: Tensor | None, bits: int,
) -> Tensor:  # fmt: skip
    """scale · (code − zero), the low nibble first."""
    return linear(rounding, x, _scaled(codes, scales, zeros, bits), bias)


def linear_gguf(
    rounding: Note, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, bits: int
) -> Tensor:
    """scale · (code − 8 or 128)."""
    zeros = torch.full_like(codes[..., 0], 0x88 if bits == 4 else 128)
    return linear(rounding, x, _scaled(codes, scales, zeros, bits), bias)


def dequantize_int(
    rounding: Note, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int
) -> Tensor:
    """As above, with scales per probe: code − zero is exact, so it is one product."""
    weight = _scaled(codes, scales, zeros, bits)
    return rounding(weight, weight.abs(), 1)


def _scaled(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    blocks = scales.shape[-1]
    wide, zero = (_nibbles(codes), _nibbles(zeros)[:, :blocks]) if bits == 4 else (codes, zeros)
    return ((wide.double() - zero.double()[..., None]) * scales[..., None]).flatten(-2)


def linear_int8(
    rounding: Note, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None
) -> Tensor:
    """Row r is column r of the codes, times its scale."""
    return linear(rounding, x, (codes.double() * scales).t(), bias)


def row_scales(rounding: Note, x: Tensor) -> Tensor:
    """The largest of a row in 127 steps; of a row of nothing else, the least that there is."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST) / 127
    return rounding(step, step, 2)


def left_over(rounding: Note, x: Tensor, codes: Tensor, steps: Tensor) -> Tensor:
    """x less its codes' meaning, a product, in f32."""
    rounded = rounding((codes.double() - 128) * steps, (codes.double() - 128).abs() * steps, 1)
    return rounding(x - rounded, (x - rounded).abs(), 1)


def linear_rounded(
    rounding: Note, x: Tensor, steps: Tensor, codes: Tensor, scales: Tensor
) -> Tensor:
    """(code − 128)·Ŵᵀ, times the steps of the rows."""
    weight = codes.double() * scales
    levels = x.double() - 128
    size = (levels.abs() @ weight.abs()) * steps.abs()
    return rounding((levels @ weight) * steps, size, len(codes) + 3)


def minus_base(rounding: Note, x: Tensor, base: Tensor) -> Tensor:
    """Every probe's rows less those of the base."""
    value = x - torch.cat([base] * (len(x) // len(base)))
    return rounding(value, value.abs(), 1)


def plus_base(rounding: Note, x: Tensor, base: Tensor) -> Tensor:
    """The rows of the base to every probe's."""
    value = x + torch.cat([base] * (len(x) // len(base)))
    return rounding(value, value.abs(), 1)


def linear_codebook(
    rounding: Note, x: Tensor, codes: Tensor, centroids: Tensor, bias: Tensor | None
) -> Tensor:
    """Row r reads centroid[r, code]."""
    rows = torch.arange(len(codes))[:, None]
    return linear(rounding, x, centroids[rows, _nibbles(codes).long()], bias)


def _nibbles(codes: Tensor) -> Tensor:
    return torch.stack((codes & 0xF, codes >> 4), -1).flatten(-2)


def sparse_linear(
    rounding: Note, x: Tensor, values: Tensor, index: Tensor, out: int, *_: int
) -> Tensor:
    """A dense S, or one per probe."""
    width, values = x.shape[-1], values.reshape(-1, len(index))
    dense = torch.zeros(len(values), out * width, dtype=torch.float64)
    dense = dense.index_copy(1, index.long(), values).view(-1, out, width).transpose(1, 2)
    parts = x.reshape(len(values), -1, width)
    size = parts.abs() @ dense.abs()
    return rounding(parts @ dense, size, width + 2).reshape(*x.shape[:-1], out)


def probe_linear(rounding: Note, x: Tensor, weight: Tensor) -> Tensor:
    """Probe p's rows with its own W."""
    parts, upright = x.reshape(len(weight), -1, x.shape[-1]), weight.transpose(1, 2)
    return matmul(rounding, parts, upright).reshape(*x.shape[:-1], weight.shape[1])


def probe_embedding(rounding: Note, weight: Tensor, ids: Tensor) -> Tensor:
    """Probe p's ids in its own table."""
    parts = ids.chunk(len(weight))
    return torch.cat([table[part] for table, part in zip(weight, parts, strict=True)])


def probe_rows(rounding: Note, values: Tensor, rows: int, dims: int) -> Tensor:
    """Probe p's values for its N rows, with axes to broadcast over."""
    own = values.shape[1:]
    between = [1] * (dims - 1 - len(own))
    return values[:, None].expand(-1, rows, *own).reshape(-1, *between, *own)


def direction(
    rounding: Note, keys: Tensor, table: Tensor | None, name: str, size: list[int], kind: Any
) -> Tensor:
    """Bits, so nothing is rounded."""
    z = np.stack([sample(kind, key, name, tuple(size)) for key in _keys(keys)])
    return torch.from_numpy(z).double()


def mask_random(
    rounding: Note, z: Tensor, keys: Tensor, name: str, keep: int, interval: int
) -> Tensor:
    """Of the first step of the interval; every query has the same."""
    masked = z.clone()
    for row, key in zip(masked, _keys(keys), strict=True):
        first = Key(key.seed, interval * (key.step // interval) if interval else 0)
        words = sample_words(first, name, Stream.MASK, 0, row.numel())
        row[torch.from_numpy(words >= keep).view_as(row)] = 0
    return masked


def mask_turn(rounding: Note, z: Tensor, keys: Tensor, group: int, groups: int, by: str) -> Tensor:
    """The directions of other groups' turns are zero."""
    turns = [getattr(key, by) % groups for key in _keys(keys)]
    return torch.stack([row * (turn == group) for row, turn in zip(z, turns, strict=True)])


def mask_small(rounding: Note, z: Tensor, values: Tensor, limit: float) -> Tensor:
    """The same comparison: θ and the limit are float32."""
    return torch.where(values.abs() <= limit, z, 0)


def _keys(words: Tensor) -> list[Key]:
    pairs = [(seed % 2**64, low % 2**64) for seed, low in words.tolist()]
    return [Key(seed, low >> QUERY_BITS, low % 2**QUERY_BITS) for seed, low in pairs]


def perturb(rounding: Note, values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    """θ + Σ_q c_q·z_q for every probe."""
    size = values.abs() + torch.einsum("pq,q...->p...", coefficients.abs(), z.abs())
    moved = values + torch.einsum("pq,q...->p...", coefficients, z)
    return rounding(moved, size, len(z) + 1)


def combine(rounding: Note, values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    """Σ_q c_q·z_q for every row of coefficients."""
    size = torch.einsum("pq,q...->p...", coefficients.abs(), z.abs())
    return rounding(torch.einsum("pq,q...->p...", coefficients, z), size, len(z))


def replicate(rounding: Note, x: Tensor, coefficients: Tensor) -> Tensor:
    """Probe p in rows p·N … p·N+N−1."""
    return torch.cat([x] * len(coefficients))


def split_probes(rounding: Note, x: Tensor, coefficients: Tensor) -> Tensor:
    """The probes as an axis."""
    return torch.stack(x.chunk(len(coefficients)))


def select_positions(rounding: Note, x: Tensor, positions: Tensor) -> Tensor:
    """Row n at its own positions."""
    return torch.stack([row[place] for row, place in zip(x, positions, strict=True)])


def attention(
    rounding: Note, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, scale: float | None = None
) -> Tensor:
    """softmax(scale · q·kᵀ)·v over what the mask allows, 0 where it allows nothing; 1/√D."""
    assert mask.dtype is torch.bool
    scale = scale or q.shape[-1] ** -0.5
    raw = scale * q @ k.transpose(-1, -2)
    size = scale * q.abs() @ k.abs().transpose(-1, -2)
    score = rounding(raw, size, q.shape[-1] + 2).masked_fill(~mask, -1e9)
    below = score - score.amax(-1, keepdim=True)
    p = torch.softmax(score, -1) * mask
    # exp of a difference d that is off by u·|d|, then a sum over T and a division
    p = rounding(p, p * (1 + below.abs()), FUNCTION + k.shape[-2] + 1)
    return rounding(p @ v, p @ v.abs(), k.shape[-2])


def softmax(rounding: Note, x: Tensor, axis: int) -> Tensor:
    """Exp of a difference d that is off by u·|d|, then a sum and a division."""
    p = torch.softmax(x, axis)
    below = (x.amax(axis, keepdim=True) - x).where(p > 0, 0)
    return rounding(p, p * (1 + below), FUNCTION + x.shape[axis] + 1)


def exponential(rounding: Note, x: Tensor) -> Tensor:
    """Off by units of itself."""
    return rounding(x.exp(), x.exp(), FUNCTION)


def layer_norm(
    rounding: Note, x: Tensor, size: list[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *_: bool,
) -> Tensor:  # fmt: skip
    """Mean and variance may be taken in one pass: E[x²] − E[x]² loses what they have in common."""
    weight, bias = (x.new_tensor(d) if v is None else v for d, v in ((1, weight), (0, bias)))
    n = x.shape[-1]
    mean = rounding(x.mean(-1, keepdim=True), x.abs().mean(-1, keepdim=True), n)
    square = (x**2).mean(-1, keepdim=True)
    variance = rounding(((x - mean) ** 2).mean(-1, keepdim=True), square + mean**2, n + 2)
    scaled = (x - mean) * (variance + eps).rsqrt() * weight
    return rounding(scaled + bias, scaled.abs() + bias.abs(), 2 * ARITHMETIC)


def mean(rounding: Note, x: Tensor, axes: list[int], keep: bool = False) -> Tensor:
    """Over some axes."""
    value, size = x.mean(axes, keep), x.abs().mean(axes, keep)
    return rounding(value, size, x.numel() // value.numel() + 1)


def total(rounding: Note, x: Tensor, axes: list[int], keep: bool = False) -> Tensor:
    """Over some axes; what has no derivative is a count, and exact."""
    value, size = x.sum(axes, keep), x.abs().sum(axes, keep)
    return rounding(value, size, x.numel() // value.numel()) if x.requires_grad else value


def score_targets(rounding: Note, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of log-probabilities over scored positions, 0 where there is none."""
    top = logits.amax(-1, keepdim=True).detach()
    spread = (logits - top).abs().amax(-1, keepdim=True)
    total = rounding(
        logits.logsumexp(-1, keepdim=True), 1 + top.abs() + spread, FUNCTION + logits.shape[-1]
    )
    scored = targets >= 0
    chosen = logits.gather(-1, targets.clamp(min=0)) - total
    chosen = rounding(chosen, chosen.abs(), 1) * scored
    count = scored.sum(1).clamp(min=1)
    return rounding(chosen.sum(1) / count, chosen.abs().sum(1) / count, targets.shape[1] + 1)


MEANINGS: Mapping[Any, Callable[..., Tensor]] = {
    aten.exp.default: exponential,
    aten.layer_norm.default: layer_norm,
    aten.silu.default: silu,
    aten.linear.default: linear,
    aten.matmul.default: matmul,
    aten.mean.dim: mean,
    aten.scaled_dot_product_attention.default: attention,
    aten.softmax.int: softmax,
    aten.sum.dim_IntList: total,
    zofx_ops.combine.default: combine,
    zofx_ops.dequantize_int.default: dequantize_int,
    zofx_ops.direction.default: direction,
    zofx_ops.left_over.default: left_over,
    zofx_ops.linear_codebook.default: linear_codebook,
    zofx_ops.linear_gguf.default: linear_gguf,
    zofx_ops.linear_int.default: linear_int,
    zofx_ops.linear_int8.default: linear_int8,
    zofx_ops.linear_nf4.default: linear_nf4,
    zofx_ops.linear_rounded.default: linear_rounded,
    zofx_ops.mask_random.default: mask_random,
    zofx_ops.mask_small.default: mask_small,
    zofx_ops.mask_turn.default: mask_turn,
    zofx_ops.minus_base.default: minus_base,
    zofx_ops.perturb.default: perturb,
    zofx_ops.plus_base.default: plus_base,
    zofx_ops.probe_embedding.default: probe_embedding,
    zofx_ops.probe_linear.default: probe_linear,
    zofx_ops.probe_rows.default: probe_rows,
    zofx_ops.replicate.default: replicate,
    zofx_ops.row_scales.default: row_scales,
    zofx_ops.score_targets.default: score_targets,
    zofx_ops.select_positions.default: select_positions,
    zofx_ops.sparse_linear.default: sparse_linear,
    zofx_ops.split_probes.default: split_probes,
}

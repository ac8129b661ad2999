"""The zofx:: ops: what aten cannot say; each with a schema, a torch meaning, a rule for shapes.

Axes: N rows, T tokens, S scored positions, C alternatives, V vocabulary, P probes, Q directions, k
entries of a slice. A value that carries probes has them outermost: a slice is [P, k], an activation
is [P·N, …] with probe p in rows p·N … p·N+N−1.

These meanings are what every runtime is tested against; a runtime may replace a kernel, never a
meaning.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.library import custom_op

from zofx import quant
from zofx.zo.laws import RandomMask, Turn
from zofx.zo.noise import Stream, sample, sample_words
from zofx.zo.types import QUERY_BITS, Key


def meaning(op: OpOverload) -> Callable[..., Any]:
    """The torch code that an op of these was defined by: that has a backward, the op has none."""
    definition = globals()[op.__name__.partition(".")[0]]  # a name and an overload
    found: Callable[..., Any] = definition._init_fn  # torch keeps it, under no public name
    return found


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


# Cost of one entry of a dense block, where moving one value of x or y or adding one scattered entry
# costs 1: fitted to ONNX Runtime on a CPU (8.7e-12 s against 1.2e-9 s per row of x).
BLOCK_COST = 1 / 138


def as_block(entries: int, columns: int, out: int, width: int) -> bool:
    """Whether S: [out, width] is best multiplied as a dense block over the columns it touches.

    Sensitive weights share columns (an outlier feature is sensitive for every output), so the block
    is mostly a few percent of the matrix; scattered ones do better entry by entry.
    """
    return columns * out * BLOCK_COST < width + out + entries


def sparse_cost(entries: int, columns: int, out: int, width: int) -> float:
    """What a row of x·Sᵀ costs, in values moved: the product, and adding it to another of its size.

    However few entries there are, all outputs are written and added.
    """
    return out + min(columns * out * BLOCK_COST, width + out + entries)


@custom_op("zofx::sparse_linear", mutates_args=())
def sparse_linear(x: Tensor, values: Tensor, index: Tensor, out: int, columns: int) -> Tensor:
    """x·Sᵀ for S: [out, in] with k entries: [M, …, in], f32[k], i32[k] → [M, …, out].

    Args:
        x: activations; M = P·N if `values` carries probes.
        values: f32[k], or f32[P, k] for a matrix per probe.
        index: i32[k] flat positions row·in + column, ascending.
        out: number of rows of S.
        columns: how many columns of S have entries; says which way is fastest, not what is meant.
    """
    width = x.shape[-1]
    row, column = index.long() // width, index.long() % width
    probes = values.reshape(-1, index.numel())
    parts = x.reshape(probes.shape[0], -1, width)
    way = _times_block if as_block(index.numel(), columns, out, width) else _times_csr
    return way(parts, probes, row, column, out).reshape(*x.shape[:-1], out)


def _times_block(x: Tensor, values: Tensor, row: Tensor, column: Tensor, out: int) -> Tensor:
    """[P, M, in] → [P, M, out] by a dense product over the columns with entries."""
    touched, place = torch.unique(column, return_inverse=True)
    block = values.new_zeros(values.shape[0], touched.numel() * out)
    block[:, place * out + row] = values
    return x[..., touched] @ block.view(values.shape[0], touched.numel(), out)


def _times_csr(x: Tensor, values: Tensor, row: Tensor, column: Tensor, out: int) -> Tensor:
    """[P, M, in] → [P, M, out] by a compressed sparse row matrix per probe."""
    starts = torch.searchsorted(row, torch.arange(out + 1, device=x.device))
    size = (out, x.shape[-1])
    with warnings.catch_warnings():  # that CSR is in beta: torch says so once a process
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        results = [
            torch.sparse_csr_tensor(starts, column, v, size, check_invariants=False).matmul(
                part.t()
            )
            for v, part in zip(values, x, strict=True)
        ]
    return torch.stack(results).transpose(1, 2)


@sparse_linear.register_fake
def _(x: Tensor, values: Tensor, index: Tensor, out: int, columns: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], out))


ROW_ZERO = 128
ROW_STEP = 1 / quant.ROW_TOP


@custom_op("zofx::linear_nf4", mutates_args=())
def linear_nf4(
    x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None, out: int, block: int
) -> Tensor:
    """x·Ŵᵀ + b with Ŵ in NF4 (`quant.Nf4`): [..., in] → [..., out]."""
    weight = quant.dequantize_nf4(quant.Nf4(codes, absmax), out, block)
    return torch.nn.functional.linear(x, weight, bias)


@linear_nf4.register_fake
def _(
    x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None, out: int, block: int
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out))


@custom_op("zofx::linear_int", mutates_args=())
def linear_int(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None, bits: int
) -> Tensor:
    """x·Ŵᵀ + b with Ŵ block-wise affine (`quant.Affine`): [..., in] → [..., out]."""
    weight = quant.dequantize_int(quant.Affine(codes, scales, zeros), bits)
    return torch.nn.functional.linear(x, weight, bias)


@linear_int.register_fake
def _(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None, bits: int
) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@custom_op("zofx::dequantize_int", mutates_args=())
def dequantize_int(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """Ŵ of `quant.Affine`: [out, in]; with scales f32[P, out, blocks] a matrix per probe."""
    return quant.dequantize_int(quant.Affine(codes, scales, zeros), bits)


@dequantize_int.register_fake
def _(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    width = codes.shape[1] * codes.shape[2] * 8 // bits
    return scales.new_empty((*scales.shape[:-1], width))


@custom_op("zofx::linear_int8", mutates_args=())
def linear_int8(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """x·Ŵᵀ + b with Ŵ of one scale per row (`quant.Rows`): [..., in] → [..., out]."""
    return torch.nn.functional.linear(x, quant.dequantize_rows(quant.Rows(codes, scales)), bias)


@linear_int8.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[1]))


@custom_op("zofx::row_scales", mutates_args=())
def row_scales(x: Tensor) -> Tensor:
    """Each row's step of rounding, max |x| / 127, or 1 for a row of zeros: [..., k] → [..., 1]."""
    largest = x.abs().amax(-1, keepdim=True)
    return torch.where(largest == 0, torch.ones_like(largest), largest * ROW_STEP)


@row_scales.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], 1))


@custom_op("zofx::round_rows", mutates_args=())
def round_rows(x: Tensor, scales: Tensor) -> Tensor:
    """Codes 128 + round(x / scale), 1 … 255: [..., k], [..., 1] → u8[..., k]."""
    codes: Tensor = (x / scales).round() + ROW_ZERO
    return codes.clamp(0, 255).to(torch.uint8)


@round_rows.register_fake
def _(x: Tensor, scales: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.uint8)


@custom_op("zofx::linear_rounded", mutates_args=())
def linear_rounded(x: Tensor, steps: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """x̂·Ŵᵀ, a product of integers times both scales: u8[..., in], f32[..., 1] → f32[..., out].

    Args:
        x: of `round_rows`.
        steps: of `row_scales`.
        codes: of `quant.Rows`.
        scales: likewise.
    """
    levels = x.to(torch.float32) - ROW_ZERO
    return (levels @ codes.float()) * scales * steps


@linear_rounded.register_fake
def _(x: Tensor, steps: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return steps.new_empty((*x.shape[:-1], codes.shape[1]))


@custom_op("zofx::difference_probes", mutates_args=())
def difference_probes(x: Tensor, coefficients: Tensor) -> Tensor:
    """Probe 0 as it is, of every other what it differs by: [P·N, …], f32[P, Q] → [P·N, …]."""
    parts = x.reshape(coefficients.shape[0], -1, *x.shape[1:])
    return torch.cat((parts[:1], parts[1:] - parts[:1])).reshape(x.shape)


@difference_probes.register_fake
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    return torch.empty_like(x)


@custom_op("zofx::sum_probes", mutates_args=())
def sum_probes(x: Tensor, coefficients: Tensor) -> Tensor:
    """The inverse of `difference_probes`, up to rounding."""
    parts = x.reshape(coefficients.shape[0], -1, *x.shape[1:])
    return torch.cat((parts[:1], parts[1:] + parts[:1])).reshape(x.shape)


@sum_probes.register_fake
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    return torch.empty_like(x)


@custom_op("zofx::linear_codebook", mutates_args=())
def linear_codebook(x: Tensor, codes: Tensor, centroids: Tensor, bias: Tensor | None) -> Tensor:
    """x·Ŵᵀ + b with Ŵ a code into its row's codebook (`quant.Codebook`): [..., in] → [..., out]."""
    weight = quant.dequantize_codebook(quant.Codebook(codes, centroids))
    return torch.nn.functional.linear(x, weight, bias)


@linear_codebook.register_fake
def _(x: Tensor, codes: Tensor, centroids: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@custom_op("zofx::direction", mutates_args=())
def direction(
    keys: Tensor, table: Tensor | None, name: str, size: Sequence[int], kind: str
) -> Tensor:
    """z(key) for each key: i64[Q, 2] → f32[Q, *size]. See `zofx.zo.noise` for the bits.

    Args:
        keys: the two key words, bit patterns of u64.
        table: f32[65536] quantiles for "gaussian", None for "rademacher".
        name: of the slice; its hash is a counter word.
        size: of the slice.
        kind: the distribution.
    """
    quantiles = None if table is None else table.cpu().numpy()
    samples = [
        torch.from_numpy(sample(kind, key, name, tuple(size), table=quantiles))  # type: ignore[arg-type]  # a schema knows strings only
        for key in _keys(keys)
    ]
    return torch.stack(samples).to(keys.device)


@direction.register_fake
def _(keys: Tensor, table: Tensor | None, name: str, size: Sequence[int], kind: str) -> Tensor:
    return keys.new_empty((keys.shape[0], *size), dtype=torch.float32)


@custom_op("zofx::mask_random", mutates_args=())
def mask_random(z: Tensor, keys: Tensor, name: str, keep: int, interval: int) -> Tensor:
    """z, zero at random places (`RandomMask`): f32[Q, *k], i64[Q, 2] → f32[Q, *k]."""
    mask = RandomMask(keep, interval)
    kept = [
        sample_words(mask.key(key), name, Stream.MASK, 0, z[0].numel()) < keep
        for key in _keys(keys)
    ]
    return z * torch.from_numpy(np.stack(kept)).to(z.device).view(z.shape)


@mask_random.register_fake
def _(z: Tensor, keys: Tensor, name: str, keep: int, interval: int) -> Tensor:
    return torch.empty_like(z)


@custom_op("zofx::mask_turn", mutates_args=())
def mask_turn(z: Tensor, keys: Tensor, group: int, groups: int, by: str) -> Tensor:
    """z, zero where it is not the group's turn (`Turn`): f32[Q, *k], i64[Q, 2] → f32[Q, *k]."""
    turn = Turn(group, groups, by)  # type: ignore[arg-type]  # a schema knows strings only
    has = torch.tensor([turn.has(key) for key in _keys(keys)], device=z.device)
    return z * has.view(-1, *[1] * (z.dim() - 1))


@mask_turn.register_fake
def _(z: Tensor, keys: Tensor, group: int, groups: int, by: str) -> Tensor:
    return torch.empty_like(z)


@custom_op("zofx::mask_small", mutates_args=())
def mask_small(z: Tensor, values: Tensor, limit: float) -> Tensor:
    """Z where |θ| ≤ limit, else zero: f32[Q, *k], f32[*k] → f32[Q, *k]."""
    return z * (values.abs() <= limit)


@mask_small.register_fake
def _(z: Tensor, values: Tensor, limit: float) -> Tensor:
    return torch.empty_like(z)


def _keys(words: Tensor) -> list[Key]:
    """i64[Q, 2] → keys; the words are bit patterns of u64."""
    pairs = [(seed % 2**64, low % 2**64) for seed, low in words.tolist()]
    return [Key(seed, low >> QUERY_BITS, low % 2**QUERY_BITS) for seed, low in pairs]


@custom_op("zofx::perturb", mutates_args=())
def perturb(values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    """θ + Σ_q c_q·z_q: f32[*k], f32[Q, *k], f32[Q] → f32[*k]; with f32[P, Q] → f32[P, *k].

    A row of `coefficients` with one nonzero entry rounds twice, product then sum, exactly as moving
    θ by hand does.
    """
    step = (coefficients @ z.flatten(1)).reshape(*coefficients.shape[:-1], *values.shape)
    return values + step


@perturb.register_fake
def _(values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    return values.new_empty((*coefficients.shape[:-1], *values.shape))


@custom_op("zofx::combine", mutates_args=())
def combine(values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    """Σ_q c_q·z_q, the step of `perturb` alone: f32[*k], f32[Q, *k], f32[P, Q] → f32[P, *k].

    Args:
        values: θ, whose directions these are; nothing of it but the shape is read.
        z: its directions.
        coefficients: C.
    """
    return (coefficients @ z.flatten(1)).reshape(-1, *values.shape)


@combine.register_fake
def _(values: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    return values.new_empty((coefficients.shape[0], *values.shape))


@custom_op("zofx::replicate", mutates_args=())
def replicate(x: Tensor, coefficients: Tensor) -> Tensor:
    """Give an activation its probes: [N, …], f32[P, Q] → [P·N, …], P copies one after the other."""
    return x.repeat(coefficients.shape[0], *[1] * (x.dim() - 1))


@replicate.register_fake
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    return x.new_empty((coefficients.shape[0] * x.shape[0], *x.shape[1:]))


@custom_op("zofx::probe_rows", mutates_args=())
def probe_rows(values: Tensor, rows: int, dims: int) -> Tensor:
    """Give each row of a batch its probe's values: [P, *k] → [P·N, 1, …, 1, *k].

    Args:
        values: of a slice, one set per probe.
        rows: N.
        dims: of the result, so that it broadcasts with activations of as many.
    """
    shape = values.shape[1:]
    return values.repeat_interleave(rows, 0).reshape(-1, *[1] * (dims - 1 - len(shape)), *shape)


@probe_rows.register_fake
def _(values: Tensor, rows: int, dims: int) -> Tensor:
    shape = values.shape[1:]
    return values.new_empty((values.shape[0] * rows, *[1] * (dims - 1 - len(shape)), *shape))


@custom_op("zofx::probe_linear", mutates_args=())
def probe_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ with a weight per probe: [P·N, …, in], f32[P, out, in] → [P·N, …, out]."""
    parts = x.reshape(weight.shape[0], -1, x.shape[-1])
    return (parts @ weight.transpose(1, 2)).reshape(*x.shape[:-1], weight.shape[1])


@probe_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[1]))


@custom_op("zofx::probe_embedding", mutates_args=())
def probe_embedding(weight: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table per probe: f32[P, V, D], i64[P·N, …] → [P·N, …, D]."""
    table = weight.reshape(-1, weight.shape[2])
    first = torch.arange(weight.shape[0], device=ids.device) * weight.shape[1]
    return table[(ids.reshape(weight.shape[0], -1) + first[:, None]).reshape(ids.shape)]


@probe_embedding.register_fake
def _(weight: Tensor, ids: Tensor) -> Tensor:
    return weight.new_empty((*ids.shape, weight.shape[2]))


@custom_op("zofx::split_probes", mutates_args=())
def split_probes(x: Tensor, coefficients: Tensor) -> Tensor:
    """Show the probes of an activation as an axis: [P·N, …], f32[P, Q] → [P, N, …]."""
    return x.reshape(coefficients.shape[0], -1, *x.shape[1:]).clone()


@split_probes.register_fake
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    probes = coefficients.shape[0]
    return x.new_empty((probes, x.shape[0] // probes, *x.shape[1:]))

"""Transposes of the linear ops: what a reverse-mode derivative multiplies cotangents by.

    y = x·Ŵᵀ      →   dx = dy·Ŵ             linear_…_transpose, Ŵ as `zofx.ir.formats` stores it
    y = x·Sᵀ      →   dx = dy·S             sparse_linear_transpose
                      ds_j = Σ_m dy[m, row_j]·x[m, column_j]              sparse_linear_entries
    y = x[n, p]   →   dx[n, p] += dy        select_positions_transpose
    a·b, aᵀ·b, a·bᵀ                         product

Frozen matrices need no derivative of their own. No op here makes a dense derivative of a matrix.
"""

import torch
from torch import Tensor
from torch.library import custom_op

from zofx.ir.formats import block_int, codebook, nf4, row_int8
from zofx.ir.ops.rounding import ROW_ZERO
from zofx.ir.sparse_cost import as_block


@custom_op("zofx::product", mutates_args=())
def product(a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool) -> Tensor:
    """a·b of the last two axes, either transposed first; the axes before them broadcast."""
    a = a.transpose(-2, -1) if transpose_a else a
    return a @ (b.transpose(-2, -1) if transpose_b else b)


@product.register_fake
def _(a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool) -> Tensor:
    before = (a[..., :1, :1] + b[..., :1, :1]).shape[:-2]
    rows, columns = a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1]
    return a.new_empty((*before, rows, columns))


@custom_op("zofx::linear_nf4_transpose", mutates_args=())
def linear_nf4_transpose(
    dy: Tensor, codes: Tensor, absmax: Tensor, width: int, block: int
) -> Tensor:
    """dy·Ŵ with Ŵ in NF4 (`Nf4`): [..., out] → [..., in]."""
    return dy @ nf4.dequantize(nf4.Nf4(codes, absmax), dy.shape[-1], block)


@linear_nf4_transpose.register_fake
def _(dy: Tensor, codes: Tensor, absmax: Tensor, width: int, block: int) -> Tensor:
    return dy.new_empty((*dy.shape[:-1], width))


@custom_op("zofx::linear_int_transpose", mutates_args=())
def linear_int_transpose(
    dy: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int
) -> Tensor:
    """dy·Ŵ with Ŵ block-wise affine (`Affine`): [..., out] → [..., in]."""
    return dy @ block_int.dequantize(block_int.Affine(codes, scales, zeros), bits)


@linear_int_transpose.register_fake
def _(dy: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    return dy.new_empty((*dy.shape[:-1], codes.shape[1] * codes.shape[2] * 8 // bits))


@custom_op("zofx::linear_int8_transpose", mutates_args=())
def linear_int8_transpose(dy: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """dy·Ŵ with Ŵ of one scale per row (`Rows`): [..., out] → [..., in]."""
    return dy @ row_int8.dequantize(row_int8.Rows(codes, scales))


@linear_int8_transpose.register_fake
def _(dy: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return dy.new_empty((*dy.shape[:-1], codes.shape[0]))


@custom_op("zofx::linear_codebook_transpose", mutates_args=())
def linear_codebook_transpose(dy: Tensor, codes: Tensor, centroids: Tensor) -> Tensor:
    """dy·Ŵ with Ŵ a code into its row's codebook (`Codebook`): [..., out] → [..., in]."""
    return dy @ codebook.dequantize(codebook.Codebook(codes, centroids))


@linear_codebook_transpose.register_fake
def _(dy: Tensor, codes: Tensor, centroids: Tensor) -> Tensor:
    return dy.new_empty((*dy.shape[:-1], 2 * codes.shape[1]))


@custom_op("zofx::linear_rounded_transpose", mutates_args=())
def linear_rounded_transpose(dy: Tensor, steps: Tensor, codes: Tensor) -> Tensor:
    """A product of integers with the transposed codes: u8[..., out], f32[..., 1] → f32[..., in].

    Args:
        dy: of `round_rows`, of cotangents that the matrix's scales have been multiplied into.
        steps: of `row_scales`, of the same.
        codes: i8[in, out] of `Rows`.
    """
    levels = dy.to(torch.float32) - ROW_ZERO
    return (levels @ codes.float().t()) * steps


@linear_rounded_transpose.register_fake
def _(dy: Tensor, steps: Tensor, codes: Tensor) -> Tensor:
    return steps.new_empty((*dy.shape[:-1], codes.shape[0]))


@custom_op("zofx::sparse_linear_transpose", mutates_args=())
def sparse_linear_transpose(
    dy: Tensor, values: Tensor, index: Tensor, width: int, columns: int
) -> Tensor:
    """dy·S for S: [out, in] with k entries: [..., out], f32[k], i32[k] → [..., in].

    Args:
        dy: cotangents.
        values: the entries.
        index: i32[k] flat positions row·in + column, ascending.
        width: in.
        columns: how many columns of S have entries.
    """
    row, column = index.long() // width, index.long() % width
    touched, place = torch.unique(column, return_inverse=True)
    block = values.new_zeros(dy.shape[-1], touched.numel())
    block[row, place] = values
    dx = dy.new_zeros(*dy.shape[:-1], width)
    dx[..., touched] = dy @ block
    return dx


@sparse_linear_transpose.register_fake
def _(dy: Tensor, values: Tensor, index: Tensor, width: int, columns: int) -> Tensor:
    return dy.new_empty((*dy.shape[:-1], width))


@custom_op("zofx::sparse_linear_entries", mutates_args=())
def sparse_linear_entries(
    dy: Tensor, x: Tensor, index: Tensor, columns: int, deepest: int
) -> Tensor:
    """Σ_m dy[m, row_j]·x[m, column_j] for every entry j: [..., out], [..., in], i32[k] → f32[k].

    Args:
        dy: cotangents.
        x: what S was multiplied by.
        index: i32[k] flat positions row·in + column, ascending.
        columns: how many columns of S have entries.
        deepest: the most entries in a row of S; these two choose the fastest way.
    """
    width, out = x.shape[-1], dy.shape[-1]
    row, column = index.long() // width, index.long() % width
    dy, x = dy.reshape(-1, out), x.reshape(-1, width)
    if not as_block(index.numel(), columns, deepest, out, width):
        return (dy[:, row] * x[:, column]).sum(0)
    touched, place = torch.unique(column, return_inverse=True)
    products: Tensor = (dy.t() @ x[:, touched])[row, place]
    return products


@sparse_linear_entries.register_fake
def _(dy: Tensor, x: Tensor, index: Tensor, columns: int, deepest: int) -> Tensor:
    return dy.new_empty(index.shape)


@custom_op("zofx::select_positions_transpose", mutates_args=())
def select_positions_transpose(dy: Tensor, positions: Tensor, tokens: int) -> Tensor:
    """dx[n, positions[n, s]] += dy[n, s], zero elsewhere: [N, S, …], i64[N, S] → [N, T, …]."""
    dx = dy.new_zeros(dy.shape[0], tokens, *dy.shape[2:])
    rows = torch.arange(dy.shape[0], device=dy.device)[:, None].expand_as(positions)
    return dx.index_put((rows, positions), dy, accumulate=True)


@select_positions_transpose.register_fake
def _(dy: Tensor, positions: Tensor, tokens: int) -> Tensor:
    return dy.new_empty((dy.shape[0], tokens, *dy.shape[2:]))

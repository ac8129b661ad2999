"""x·Sᵀ of a trainable: few entries, which share columns or do not.

    cost of a row of x = out + min(columns · (out · BLOCK_COST + PICKED),
                                   (width + out + entries) · SCATTERED)

One S, or one per probe; which way is taken changes the speed, never the result. However few
entries there are, all outputs are written and added.
"""

import warnings

import torch
from torch import Tensor
from torch.library import custom_op

from zofx.ir.ops.probes import by_probe
from zofx.ir.sparse_cost import as_block


@custom_op("zofx::sparse_linear", mutates_args=())
def sparse_linear(
    x: Tensor, values: Tensor, index: Tensor, out: int, columns: int, deepest: int
) -> Tensor:
    """x·Sᵀ for S: [out, in] with k entries: [M, …, in], f32[k], i32[k] → [M, …, out].

    Args:
        x: activations; M = P·N if `values` carries probes.
        values: f32[k], or f32[P, k] for a matrix per probe.
        index: i32[k] flat positions row·in + column, ascending.
        out: number of rows of S.
        columns: how many columns of S have entries; a hint that changes the speed alone.
        deepest: the most entries in a row of S; a hint as `columns` is.
    """
    width = x.shape[-1]
    row, column = index.long() // width, index.long() % width
    probes = values if values.dim() > 1 else values[None]
    parts = by_probe(x, probes.shape[0])
    way = _times_block if as_block(index.numel(), columns, deepest, out, width) else _times_csr
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
    y = x.new_empty(x.shape[0], out, x.shape[1])
    with warnings.catch_warnings():  # that CSR is in beta: torch says so once a process
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        for probe, own in enumerate(values):
            matrix = torch.sparse_csr_tensor(starts, column, own, size, check_invariants=False)
            y[probe] = matrix.matmul(x[probe].t())
    return y.transpose(1, 2)


@sparse_linear.register_fake
def _(x: Tensor, values: Tensor, index: Tensor, out: int, columns: int, deepest: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], out))

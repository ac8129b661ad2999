"""x·Sᵀ of a slice: few entries, which share columns or do not.

    cost of a row of x = out + min(columns · (out · BLOCK_COST + PICKED),
                                   (width + out + entries) · SCATTERED)

One S, or one per probe; which way is taken says how fast it is, never what it means. However few
entries there are, all outputs are written and added.
"""

import warnings

import torch
from torch import Tensor
from torch.library import custom_op

from zofx.ops.probes import by_probe

# Cost of one entry of a dense block, of picking one value of x for it, and of adding one entry by
# itself or moving a value for that, where writing one output and adding it to others costs 1:
# fitted to ONNX Runtime on a thread of a CPU (9e-12, 2.5e-9 and 1.2e-9 s against 3.6e-10 s per row
# of x, in forwards of some hundred rows).
BLOCK_COST = 1 / 40
PICKED = 7
SCATTERED = 3.3

DEEPEST = 64
"""Entries by entry are taken one of every row at a time: at most so many times."""

BLOCK_ENTRIES = 1 << 22
"""The most that a dense block has for each probe, if a row has no more."""


def as_block(entries: int, columns: int, deepest: int, out: int, width: int) -> bool:
    """Whether S: [out, width] is best multiplied as a dense block over the columns it touches.

    Sensitive weights share columns (an outlier feature is sensitive for every output), so the block
    is mostly a few percent of the matrix; scattered ones do better entry by entry, unless a row has
    very many.
    """
    block = columns * (out * BLOCK_COST + PICKED)
    return deepest > DEEPEST or block < (width + out + entries) * SCATTERED


def rows_at_once(columns: int, out: int) -> int:
    """Of how many rows of S: [out, width] ONNX Runtime makes a dense block at a time.

    A mask of 0.1 % of a model of 7 billion weights may touch most columns of a matrix with 11,008
    rows: its blocks for two probes would take 334 MB.
    """
    return max(1, min(out, BLOCK_ENTRIES // columns))


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
        columns: how many columns of S have entries; says which way is fastest, not what is meant.
        deepest: the most entries in a row of S; likewise.
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

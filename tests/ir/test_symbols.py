"""Symbolic sizes: what they are made of, and what they are of some numbers."""

import torch

from zofx.ir.symbols import expression, new_mode, new_size, op_names, size_at, symbols


def test_a_size_is_an_expression_of_its_symbols() -> None:
    """Two sizes of one world differ; a product with a number has the same symbol."""
    mode = new_mode()
    rows, tokens = new_size(mode, "rows"), new_size(mode, "tokens")
    (row,), (token,) = symbols(rows), symbols(tokens)
    assert row != token
    assert symbols(rows * tokens + 1) == {row, token}
    assert expression(2 * rows) == 2 * row
    assert size_at(rows * tokens + 1, {row: 3, token: 5}) == 16


def test_a_number_is_itself() -> None:
    """It has no symbol."""
    assert (expression(7), symbols(7), size_at(7, {})) == (7, frozenset(), 7)


def test_a_new_size_is_free() -> None:
    """A tensor of that many rows keeps the symbol through ops."""
    mode = new_mode()
    rows = new_size(mode, "rows")
    with mode:
        x = torch.empty(rows, 4)
    assert expression((x + 1).shape[0]) == expression(rows)
    assert (x + 1).shape[1] == 4


def test_ops_have_names() -> None:
    """Those that torch registers, and those of zofx."""
    assert {"aten::add.Tensor", "zofx::cut"} <= set(op_names())

"""What every format promises, by its row in the table."""

import pytest
import torch

from tests.ir.formats.normal import normal
from zofx.ir import ops
from zofx.ir.formats import FORMATS, format_of
from zofx.ir.formats.format import pack_nibbles, unpack_nibbles

OUT, IN = 6, 128


def test_nibbles_come_low_first() -> None:
    """The layout MatMulNBits reads, and its inverse."""
    values = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    assert pack_nibbles(values).tolist() == [[0x21, 0x0F]]
    assert torch.equal(unpack_nibbles(pack_nibbles(values)), values)


@pytest.mark.parametrize("name", tuple(FORMATS))
def test_a_format_keeps_its_promises(name: str) -> None:
    """Parts as announced, Ŵ by the op as by the object, 0 where it says so, bits as stored."""
    stored = FORMATS[name]
    weight = normal(OUT, IN)
    weight[:, ::7] = 0
    importance = torch.ones(OUT, IN) if stored.needs_scores else None
    data = stored.quantize(weight, stored.block, importance)
    parts = stored.parts((OUT, IN), stored.block)
    assert stored.name == name
    assert parts[0].name == "codes"
    assert [(p.shape, p.dtype) for p in parts] == [(tuple(t.shape), t.dtype) for t in data]
    back = stored.dequantize(data, (OUT, IN))
    assert bool(back[weight == 0].any()) is not stored.keeps_zero
    made = stored.op(torch.eye(IN), *data, None, *stored.numbers((OUT, IN), stored.block))
    assert torch.equal(made, back.t())
    bits = 8 * sum(t.numel() * t.element_size() for t in data) / weight.numel()
    assert stored.bits_per_weight((OUT, IN), stored.block) == bits >= stored.bits
    assert all(stored.block_error(block) is None for block in stored.blocks)
    assert stored.block_error(3)
    assert ops.meaning(stored.op)


@pytest.mark.parametrize("name", tuple(FORMATS))
def test_a_product_tells_its_format(name: str) -> None:
    """Also of two formats that share an op."""
    stored, graph = FORMATS[name], torch.fx.Graph()
    x, *parts = (
        graph.placeholder(part) for part in ("x", *"abc"[: len(stored.parts((8, 64), 32))])
    )
    product = graph.call_function(stored.op, (x, *parts, None, *stored.numbers((8, 64), 32)))
    assert format_of(product) is stored
    assert format_of(x) is None

"""Rules of forward-mode AD: each alone against torch's own forward mode, on tensors and in a graph.

    carry(op, d, y, args)[p]  =  jvp(op, args, d(args)[p])        in float64, within 64 roundings

Every set of operands that may have a tangent is tried, so a rule that forgets one, or the shape of
a result that broadcasts one, is caught.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.proxy import GraphAppendingTracer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree  # noqa: TID251

from tests.runtimes import reference
from zofx.ir.formats import block_int, codebook, gguf_block, nf4, row_int8
from zofx.ir.ops import zofx_ops
from zofx.ir.tangents import RULES, Tangents, carry

aten = torch.ops.aten

# torch loads its forward formulas with what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

P = 3
ROUNDINGS = 64
"""Sums here have up to 8 terms of size 1, behind at most a dozen roundings more."""

random = torch.Generator().manual_seed(0)


def x(*shape: int) -> Tensor:
    """Normal, in float64."""
    return torch.randn(shape, generator=random, dtype=torch.float64)


def positive(*shape: int) -> Tensor:
    """Away from zero."""
    return x(*shape).abs() + 0.5


def f32(*shape: int) -> Tensor:
    """Normal, as frozen codes multiply it."""
    return x(*shape).float()


def below(top: int, *shape: int) -> Tensor:
    """Integers."""
    return torch.randint(0, top, shape, generator=random)


@dataclass(frozen=True)
class Case:
    """One call of an op."""

    op: Any
    args: Sequence[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shapes = pytree.tree_map(lambda a: list(a.shape) if isinstance(a, Tensor) else a, self.args)
        return f"{self.op}{shapes}"

    @property
    def carriers(self) -> list[Any]:
        """What may have a tangent, as the rule says."""
        places = [self.args[place] for place in RULES[self.op].operands if place < len(self.args)]
        values = places if self.op is getitem else pytree.tree_leaves(places)
        return [value for value in values if isinstance(value, (Tensor, tuple))]


def case(op: Any, *args: Any, **kwargs: Any) -> Case:
    """A row of the table."""
    return Case(op, args, kwargs)


WEIGHT = f32(5, 32)
NF4 = nf4.quantize(WEIGHT, 32)
INT8 = block_int.quantize(WEIGHT, 8, 32)
ROWS = row_int8.quantize(WEIGHT)
Q8_0 = gguf_block.quantize(WEIGHT, 8)
CODEBOOK = codebook.Codebook(below(256, 5, 16).to(torch.uint8), f32(5, 16))
SEEN = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
INFINITE = torch.zeros(3, 3, dtype=torch.float64).masked_fill(~SEEN, -math.inf)
INDEX = torch.tensor([1, 6, 7, 19], dtype=torch.int32)

CASES = [
    # entry by entry
    case(aten._to_copy.default, x(2, 3), dtype=torch.float32),
    case(aten.abs.default, x(2, 3)),
    case(aten.add.Scalar, x(2, 3), 1.5),
    case(aten.add.Tensor, x(2, 3), x(2, 3)),
    case(aten.add.Tensor, x(4, 2, 3), x(3)),
    case(aten.add.Tensor, x(4, 1, 3), x(2, 1)),
    case(aten.add.Tensor, x(2, 3), x(2, 3), alpha=-2.5),
    case(aten.add.Tensor, x(2, 3), 1.5),
    case(aten.clamp.default, x(4, 5), -0.5, 0.5),
    case(aten.clamp.default, x(4, 5), None, 0.5),
    case(aten.clamp.default, x(4, 5), 0.5),
    case(aten.clone.default, x(2, 3)),
    case(aten.contiguous.default, x(2, 3)),
    case(aten.cos.default, x(2, 3)),
    case(aten.div.Scalar, x(2, 3), 3.0),
    case(aten.div.Tensor, x(4, 2, 3), positive(3)),
    case(aten.div.Tensor, x(3), positive(4, 2, 3)),
    case(aten.div.Tensor, x(2, 3), 3.0),
    case(aten.erf.default, x(2, 3)),
    case(aten.exp.default, x(2, 3)),
    case(aten.gelu.default, x(4, 5)),
    case(aten.gelu.default, x(4, 5), approximate="tanh"),
    case(aten.log.default, positive(2, 3)),
    case(aten.masked_fill.Scalar, x(2, 3), below(2, 4, 2, 3).bool(), -1.0),
    case(aten.mul.Scalar, x(2, 3), 3.0),
    case(aten.mul.Tensor, x(4, 2, 3), x(3)),
    case(aten.mul.Tensor, x(3), x(4, 2, 3)),
    case(aten.mul.Tensor, x(2, 3), 1.5),
    case(aten.neg.default, x(2, 3)),
    case(aten.pow.Scalar, 2.5, x(2, 3)),
    case(aten.pow.Tensor_Scalar, x(2, 3), 2),
    case(aten.pow.Tensor_Scalar, x(2, 3), 3.0),
    case(aten.reciprocal.default, positive(2, 3)),
    case(aten.relu.default, x(4, 5)),
    case(aten.rsqrt.default, positive(2, 3)),
    case(aten.rsub.Scalar, x(2, 3), 1.0),
    case(aten.rsub.Scalar, x(2, 3), 1.0, 2.0),
    case(aten.sigmoid.default, x(2, 3)),
    case(aten.silu.default, x(2, 3)),
    case(aten.sin.default, x(2, 3)),
    case(aten.sqrt.default, positive(2, 3)),
    case(aten.sub.Tensor, x(4, 2, 3), x(3)),
    case(aten.sub.Tensor, x(3), x(4, 2, 3), alpha=2),
    case(aten.tanh.default, x(2, 3)),
    case(aten.to.dtype, x(2, 3), torch.float32),
    case(aten.type_as.default, x(2, 3), x(1)),
    case(aten.where.self, below(2, 4, 2, 3).bool(), x(2, 3), x(3)),
    # moving entries
    case(aten._unsafe_view.default, x(2, 6), [3, 4]),
    case(aten.cat.default, [x(2, 3), x(2, 1)], 1),
    case(aten.cat.default, [x(2, 3), x(1, 3)]),
    case(aten.cumsum.default, x(2, 3), 1),
    case(aten.embedding.default, x(5, 3), below(5, 2, 4), 1),
    case(aten.expand.default, x(3, 1), [2, -1, 4]),
    case(aten.flatten.using_ints, x(2, 3, 4), 0, 1),
    case(aten.flatten.using_ints, x(2, 3, 4)),
    case(aten.full_like.default, x(2, 3), 0.5),
    case(aten.gather.default, x(2, 5), 1, below(5, 2, 3)),
    case(aten.index.Tensor, x(5, 3), [below(5, 2, 4)]),
    case(aten.index.Tensor, x(5, 3, 4), [None, below(3, 2), below(4, 2)]),
    case(aten.index_select.default, x(2, 5), 1, below(5, 3)),
    case(aten.mean.dim, x(2, 3, 4), [-1], True),
    case(aten.mean.dim, x(2, 3, 4), None),
    case(aten.new_full.default, x(2, 3), [2], 0.5),
    case(aten.new_ones.default, x(2, 3), [2]),
    case(aten.new_zeros.default, x(2, 3), [2]),
    case(aten.ones_like.default, x(2, 3)),
    case(aten.permute.default, x(2, 3, 4), [2, 0, -2]),
    case(aten.repeat.default, x(2, 3), [2, 1, 3]),
    case(aten.reshape.default, x(2, 6), [3, -1]),
    case(aten.select.int, x(2, 3), 1, -1),
    case(aten.slice.Tensor, x(2, 6), 1, 1, 5, 2),
    case(aten.slice.Tensor, x(4, 2)),
    case(aten.split.Tensor, x(2, 6), 2, 1),
    case(aten.split.Tensor, x(6, 2), 4),
    case(aten.split_with_sizes.default, x(2, 6), [1, 5], -1),
    case(aten.squeeze.dim, x(2, 1, 3), 1),
    case(aten.squeeze.dims, x(1, 2, 1), [0, -1]),
    case(aten.stack.default, [x(2, 3), x(2, 3)], 1),
    case(aten.sum.dim_IntList, x(2, 3, 4), [0, -1]),
    case(aten.sum.dim_IntList, x(2, 3), [], True, dtype=torch.float32),
    case(aten.t.default, x(2, 3)),
    case(aten.t.default, x(3)),
    case(aten.transpose.int, x(2, 3, 4), 0, -1),
    case(aten.unbind.int, x(2, 3), 1),
    case(aten.unflatten.int, x(2, 6), 1, [3, 2]),
    case(aten.unsqueeze.default, x(2, 3), 0),
    case(aten.unsqueeze.default, x(2, 3), -1),
    case(aten.view.default, x(2, 6), [3, 4]),
    case(aten.zeros_like.default, x(2, 3)),
    case(getitem, (x(2, 3), x(4)), 1),
    case(zofx_ops.select_positions.default, x(2, 5, 3), below(5, 2, 4)),
    # products
    case(aten.bmm.default, x(4, 2, 3), x(4, 3, 5)),
    case(aten.linear.default, x(4, 2, 3), x(5, 3), x(5)),
    case(aten.linear.default, x(2, 3), x(5, 3)),
    case(aten.matmul.default, x(4, 2, 3), x(3, 5)),
    case(aten.matmul.default, x(2, 3), x(4, 3, 5)),
    case(aten.matmul.default, x(4, 1, 2, 3), x(6, 3, 5)),
    case(aten.mm.default, x(2, 3), x(3, 5)),
    case(aten.scaled_dot_product_attention.default, x(2, 3, 4), x(2, 3, 4), x(2, 3, 5)),
    case(aten.scaled_dot_product_attention.default, x(2, 3, 4), x(2, 3, 4), x(2, 3, 5), scale=0.3),
    case(aten.scaled_dot_product_attention.default, x(2, 3, 4), x(2, 3, 4), x(2, 3, 5), SEEN),
    case(aten.scaled_dot_product_attention.default, x(2, 3, 4), x(2, 3, 4), x(2, 3, 5), INFINITE),
    case(
        aten.scaled_dot_product_attention.default, x(2, 3, 4), x(2, 5, 4), x(2, 5, 5), None, 0.0,
        True,
    ),
    case(zofx_ops.linear_codebook.default, f32(2, 32), *CODEBOOK, f32(5)),
    case(zofx_ops.linear_gguf.default, f32(2, 32), *Q8_0, f32(5), 8),
    case(zofx_ops.linear_int.default, f32(4, 2, 32), *INT8, f32(5), 8),
    case(zofx_ops.linear_int8.default, f32(4, 2, 32), *ROWS, f32(5)),
    case(zofx_ops.linear_nf4.default, f32(2, 32), *NF4, f32(5), 5, 32),
    case(zofx_ops.sparse_linear.default, x(2, 3, 4), x(4), INDEX, 5, 1, 1),
    case(zofx_ops.sparse_linear.default, x(2, 3, 4), x(4), INDEX, 5, 1000, 1),
    # norms
    case(aten.layer_norm.default, x(4, 2, 6), [6], x(6), x(6), 1e-5, False),
    case(aten.layer_norm.default, x(4, 2, 3), [2, 3], x(2, 3), x(2, 3)),
    case(aten.layer_norm.default, x(4, 6), [6]),
    case(aten.log_softmax.int, x(2, 3, 4), 1),
    case(aten.rms_norm.default, x(4, 2, 6), [6], x(6), 1e-6),
    case(aten.rms_norm.default, x(4, 6), [6]),
    case(aten.softmax.int, x(2, 3, 4), 1),
    case(aten.softmax.int, x(2, 3), -1, torch.float32),
    case(
        zofx_ops.score_targets.default, x(2, 3, 5),
        torch.tensor([[[0, 4], [1, -100], [-100, 2]], [[3, -100], [2, -100], [1, -100]]]),
    ),
]  # fmt: skip


def exactly(value: Tensor, *_: Any) -> Tensor:
    """In place of what notes roundings."""
    return value


# What torch cannot differentiate forward, spelled out.
MEANINGS: dict[Any, Callable[..., Any]] = {
    zofx_ops.linear_codebook.default: lambda v, codes, centroids, bias: torch.nn.functional.linear(
        v, codebook.dequantize(codebook.Codebook(codes, centroids)), bias
    ),
    zofx_ops.linear_gguf.default: lambda v, codes, scales, bias, bits: torch.nn.functional.linear(
        v, gguf_block.dequantize(gguf_block.Blocks(codes, scales), bits), bias
    ),
    zofx_ops.linear_int.default: lambda v, codes, scales, zeros, bias, bits: (
        torch.nn.functional.linear(
            v, block_int.dequantize(block_int.Affine(codes, scales, zeros), bits), bias
        )
    ),
    zofx_ops.linear_int8.default: lambda v, codes, scales, bias: torch.nn.functional.linear(
        v, row_int8.dequantize(row_int8.Rows(codes, scales)), bias
    ),
    zofx_ops.linear_nf4.default: lambda v, codes, absmax, bias, out, block: (
        torch.nn.functional.linear(v, nf4.dequantize(nf4.Nf4(codes, absmax), out, block), bias)
    ),
    zofx_ops.score_targets.default: partial(reference.score_targets, exactly),
    zofx_ops.select_positions.default: partial(reference.select_positions, exactly),
    zofx_ops.sparse_linear.default: lambda v, values, *rest: reference.sparse_linear(
        exactly, v, values[None], *rest
    ),
}


def replaced(case: Case, old: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
    """The operands with some values in place of others."""
    table = {id(a): b for a, b in zip(old, new, strict=True)}
    is_leaf = lambda value: id(value) in table  # noqa: E731
    args: tuple[Any, ...] = pytree.tree_map(
        lambda value: table.get(id(value), value), case.args, is_leaf=is_leaf
    )
    return args


def jvp(case: Case, primals: Sequence[Any], tangents: Sequence[Any]) -> list[Tensor]:
    """torch's derivative of the op along one direction."""
    meaning = MEANINGS.get(case.op, case.op)

    def function(*moved: Any) -> Any:
        return meaning(*replaced(case, primals, moved), **case.kwargs)

    with sdpa_kernel(SDPBackend.MATH):
        _, slope = torch.func.jvp(function, tuple(primals), tuple(tangents))
    leaves: list[Tensor] = pytree.tree_leaves(slope)
    return leaves


def sets(values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Every choice of one or more."""
    return [s for size in range(1, len(values) + 1) for s in combinations(values, size)]


def tangent_of(value: Any) -> Any:
    """P random tangents of a value, or of each in a list."""
    if isinstance(value, Tensor):
        return torch.randn((P, *value.shape), generator=random, dtype=value.dtype)
    return [tangent_of(v) for v in value]


def direction(tangents: Sequence[Any], p: int) -> Any:
    return pytree.tree_map(lambda tangent: tangent[p], tuple(tangents))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_is_the_derivative_of_its_op(case: Case) -> None:
    """Along every direction, for every set of operands with tangents; zero where it says none."""
    y = case.op(*case.args, **case.kwargs)
    results = [y] if isinstance(y, Tensor) else list(y)
    for moving in sets(case.carriers):
        tangents = [tangent_of(value) for value in moving]
        d = Tangents(P, {id(value): t for value, t in zip(moving, tangents, strict=True)})
        actual = carry(case.op, d, y, case.args, case.kwargs)
        if actual is None:
            actual = [result.new_zeros(P, *result.shape) for result in results]
        actual = [actual] if isinstance(actual, Tensor) else list(actual)
        for p in range(P):
            primals = [tuple(v) if isinstance(v, tuple) else v for v in moving]
            expected = jvp(case, primals, [
                tuple(t) if isinstance(t, list) else t for t in direction(tangents, p)
            ])  # fmt: skip
            for got, want, result in zip(actual, expected, results, strict=True):
                assert got.shape == (P, *result.shape)
                assert got.dtype == result.dtype
                unit = torch.finfo(result.dtype).eps / 2
                bound = ROUNDINGS * unit * max(1.0, float(want.abs().max()))
                assert (got[p] - want).abs().max() <= bound


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_writes_what_it_computes(case: Case) -> None:
    """On values of a graph a rule makes nodes, and these compute what it does on tensors."""
    y = case.op(*case.args, **case.kwargs)
    tangents = [tangent_of(value) for value in case.carriers]
    by_id = {id(value): t for value, t in zip(case.carriers, tangents, strict=True)}
    expected = carry(case.op, Tangents(P, by_id), y, case.args, case.kwargs)
    graph, fed = fx.Graph(), []
    tracer = GraphAppendingTracer(graph)

    def proxy(value: Any) -> fx.Proxy:
        node = graph.placeholder(f"input{len(fed)}")
        node.meta["val"] = value
        fed.append(value)
        return fx.Proxy(node, tracer)

    whole = case.carriers if case.op is getitem else pytree.tree_leaves(case.args)
    values = [v for v in whole if isinstance(v, (Tensor, tuple))]
    proxies = [proxy(value) for value in values]
    known = {
        p.node: proxy(by_id[id(v)]) for v, p in zip(values, proxies, strict=True) if id(v) in by_id
    }
    args = replaced(case, values, proxies)
    actual = carry(case.op, Tangents(P, known), proxy(y), args, case.kwargs)
    if expected is None:
        assert actual is None
        return
    graph.output(actual.node)
    (got,) = [fx.Interpreter(fx.GraphModule({}, graph)).run(*fed)]
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_every_rule_has_a_case() -> None:
    """The two tables have the same ops."""
    assert {case.op for case in CASES} == set(RULES)


Q, K, V = x(2, 4, 3, 4), x(2, 2, 3, 4), x(2, 2, 3, 4)
attention = aten.scaled_dot_product_attention.default


@pytest.mark.parametrize(
    ("case", "moving", "why"),
    [
        (case(aten.erfinv.default, V), [V], "no rule"),
        (case(attention, V, V, V, INFINITE), [INFINITE], "no rule for a tangent of its attn_mask"),
        (case(attention, V, V, V, None, 0.1), [V], "dropout"),
        (
            case(attention, Q, K, V, enable_gqa=True),
            [K],
            "fewer key heads than query heads",
        ),
        (case(aten.matmul.default, Q, V[0, 0, 0]), [Q], "a product with a vector"),
        (
            case(aten.index.Tensor, V, [below(2, 3), None, below(3, 3)]),
            [V],
            "indices with an axis between them",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_rule_is_refused(case: Case, moving: list[Tensor], why: str) -> None:
    """An op, an operand or a form that would be differentiated wrongly."""
    d = Tangents(P, {id(value): tangent_of(value) for value in moving})
    with pytest.raises(NotImplementedError) as caught:
        carry(case.op, d, None, case.args, case.kwargs)
    assert str(caught.value) == why

"""Op traits: every row of the table against what the op computes, in float64 within 64 roundings.

ALONG_AXES is checked beside: the derivative of such an op is the op with its axes shifted by one
(test_tangents).
"""

from collections.abc import Callable
from functools import partial
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree  # noqa: TID251

from tests.ir.test_tangents import CASES, INT8, ROUNDINGS, ROWS, Case, below, case, x
from zofx.ir.ops import zofx_ops
from zofx.ir.tangents import RULES, elementwise
from zofx.ir.traits import TRAITS, Trait, has, ops_with

aten = torch.ops.aten

RANDOM = torch.Generator().manual_seed(1)
INTO = torch.zeros(5, 3, dtype=torch.float64)
# Ops without a rule for tangents, or that a case of test_tangents shows in another form only.
OTHERS = [
    case(aten.alias.default, x(2, 3)),
    case(aten.detach.default, x(2, 3)),
    case(aten.detach_.default, x(2, 3)),
    case(aten.dropout.default, x(2, 3), 0.5, False),
    case(aten.lift_fresh_copy.default, x(2, 3)),
    case(aten._assert_scalar.default, True, ""),
    case(aten._assert_tensor_metadata.default, x(2, 3), [2, 3]),
    case(aten.to.device, x(2, 3), "cpu", torch.float32),
    case(aten.to.dtype_layout, x(2, 3), dtype=torch.float32),
    case(aten.index_add.default, INTO, 0, below(5, 4), x(4, 3)),
    case(aten.index_put.default, INTO, [below(5, 4)], x(4, 3)),
    case(aten.scatter.src, INTO, 0, below(5, 4, 3), x(4, 3)),
    case(zofx_ops.cut.default, x(2, 3, 4)),
    case(zofx_ops.replicate.default, x(2, 3), x(3, 1)),
    case(zofx_ops.dequantize_int.default, *INT8, 8),
    case(
        zofx_ops.linear_rounded.default, below(256, 2, 32).to(torch.uint8), x(2, 1).float(), *ROWS
    ),
    case(zofx_ops.probe_linear.default, x(4, 2, 3), x(2, 5, 3)),
]
ALL = [*(c for c in CASES if c.op in TRAITS), *OTHERS]


def cases(trait: Trait, *but: Any) -> list[Case]:
    """The cases whose op has a trait."""
    return [c for c in ALL if trait in TRAITS[c.op] and c.op not in but]


def each(trait: Trait, *but: Any) -> Callable[..., Any]:
    return pytest.mark.parametrize("case", cases(trait, *but), ids=str)


def leaves(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def run(case: Case, first: Any) -> Any:
    """The op of a case on another first operand."""
    return case.op(first, *case.args[1:], **case.kwargs)


def assert_close(y: Any, wanted: Any) -> None:
    for got, want in zip(leaves(y), leaves(wanted), strict=True):
        assert got.dtype == want.dtype
        bound = ROUNDINGS * torch.finfo(want.dtype).eps / 2 * max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got, want, rtol=0, atol=bound)


def test_every_row_has_a_case() -> None:
    """No op has a trait that nothing here looks at."""
    assert {c.op for c in ALL} == set(TRAITS)


@each(Trait.ELEMENTWISE)
def test_elementwise(case: Case) -> None:
    """Entries in another order give results in that order, whatever shape they are laid out in."""
    y = case.op(*case.args, **case.kwargs)
    order = torch.randperm(y.numel(), generator=RANDOM)

    def laid_out(value: Any) -> Any:
        return value.expand(y.shape).flatten()[order] if isinstance(value, Tensor) else value

    mixed = case.op(*map(laid_out, case.args), **case.kwargs)
    assert_close(mixed, y.flatten()[order])


def test_the_derivatives_of_elementwise_ops_are_complete() -> None:
    """One table has the trait, the other the derivative; what passes move through has rules."""
    assert set(elementwise.RULES) == ops_with(Trait.ELEMENTWISE)
    assert set(RULES) >= ops_with(Trait.NORM)


def unbiased(case: Case) -> Case:
    """The case without its bias, where its op has one."""
    names = [a.name for a in getattr(case.op, "_schema", ()) and case.op._schema.arguments]
    if "bias" not in names:
        return case
    place = names.index("bias")
    return Case(case.op, (*case.args[:place], None, *case.args[place + 1 :]), case.kwargs)


@each(Trait.LINEAR)
def test_linear(case: Case) -> None:
    """Of 2x − 3x′ it makes twice that of x less thrice that of x′."""
    case = unbiased(case)
    first = case.args[0]
    other = pytree.tree_map(lambda v: torch.randn(v.shape, generator=RANDOM, dtype=v.dtype), first)
    mix = partial(pytree.tree_map, lambda a, b: 2 * a - 3 * b)
    assert_close(run(case, mix(first, other)), mix(run(case, first), run(case, other)))


@each(Trait.MOVES)
def test_moves(case: Case) -> None:
    """Numbered entries come out with their numbers, none twice unless it is repeated."""
    sizes = leaves(case.args[0])
    total = sum(part.numel() for part in sizes)
    numbers = iter(torch.arange(total).split([part.numel() for part in sizes]))
    first = pytree.tree_map(lambda part: next(numbers).view(part.shape), case.args[0])
    y = torch.cat([part.flatten() for part in leaves(run(case, first))])
    assert set(y.tolist()) <= set(range(total))


@each(Trait.VIEW, zofx_ops.cut.default)
def test_view(case: Case) -> None:
    """Torch gives the memory of the operand; a custom op may not, so `cut` copies there."""
    parts = [case.args[0][case.args[1]]] if case.op is getitem else leaves(case.args[0])
    y = case.op(*case.args, **case.kwargs)
    assert [y.untyped_storage().data_ptr()] == [p.untyped_storage().data_ptr() for p in parts]


@each(Trait.FLAT, getitem)
def test_flat(case: Case) -> None:
    """The entries read from first to last stay as they are."""
    assert torch.equal(case.op(*case.args, **case.kwargs).flatten(), case.args[0].flatten())


@each(Trait.SIZED)
def test_sized(case: Case) -> None:
    """The second operand is the shape, and its own shape changes nothing."""
    value = case.args[0]
    assert torch.equal(case.op(value, list(value.shape)), value)
    shape = case.op(*case.args).shape
    assert all(size in (-1, got) for got, size in zip(shape, case.args[1], strict=True))


@each(Trait.IDENTITY)
def test_identity(case: Case) -> None:
    """Nothing changes."""
    assert torch.equal(case.op(*case.args, **case.kwargs), case.args[0])


@each(Trait.CAST)
def test_cast(case: Case) -> None:
    """Every value as f32, and as it is if it is one."""
    value = case.args[0]
    assert torch.equal(case.op(*case.args, **case.kwargs), value.float())
    assert torch.equal(run(case, value.float()), value.float())


@each(Trait.ASSERTION)
def test_assertion(case: Case) -> None:
    """There is no result."""
    assert case.op(*case.args, **case.kwargs) is None


@each(Trait.FILL)
def test_fill(case: Case) -> None:
    """Other entries give the same result."""
    assert torch.equal(case.op(*case.args, **case.kwargs), run(case, case.args[0] * 2 + 1))


@each(Trait.JOIN)
def test_join(case: Case) -> None:
    """It takes a list, and loses nothing of it."""
    assert isinstance(case.args[0], list)
    total = sum(part.numel() for part in case.args[0])
    assert case.op(*case.args, **case.kwargs).numel() == total


@each(Trait.ADDRESSES)
def test_addresses(case: Case) -> None:
    """Another table of numbers gives another result."""
    places = [a for a in leaves(case.args[1:]) if not a.is_floating_point()]
    assert places
    other = {id(place): (place + 1) % 2 for place in places}
    swap = partial(pytree.tree_map, lambda value: other.get(id(value), value))
    assert not torch.equal(case.op(*swap(case.args)), case.op(*case.args))


@each(Trait.NORM)
def test_norm(case: Case) -> None:
    """Over the axes it is given, the mean square of the result is 1, whatever the scale of x."""
    value, sizes = case.args[0] * 1000, case.args[1]
    y = case.op(value, sizes)
    axes = list(range(-len(sizes), 0))
    square = (y * y).mean(axes)
    torch.testing.assert_close(square, torch.ones_like(square), rtol=1e-4, atol=0)


@each(Trait.MATMUL)
def test_matmul(case: Case) -> None:
    """It is Python's @."""
    assert_close(case.op(*case.args), case.args[0] @ case.args[1])


@each(Trait.WEIGHT_PRODUCT)
def test_weight_product(case: Case) -> None:
    """Every row of x gives one row of results, and a row of zeros gives the bias, or zero."""
    zero = 128 if case.args[0].dtype is torch.uint8 else 0
    y = run(unbiased(case), torch.full_like(case.args[0], zero))
    assert y.shape[:-1] == case.args[0].shape[:-1]
    assert not y.any()


@each(Trait.QUANTIZED_PRODUCT)
def test_quantized_product(case: Case) -> None:
    """Codes follow x, and the bias is added after all."""
    names = [a.name for a in case.op._schema.arguments]
    bias = case.args[names.index("bias")]
    assert names[:2] == ["x", "codes"]
    assert_close(case.op(*case.args), case.op(*unbiased(case).args) + bias)


@each(Trait.BATCHED)
def test_batched(case: Case) -> None:
    """Three in front of its floating-point operands make the three results."""
    floats = [a for a in case.args if isinstance(a, Tensor) and a.is_floating_point()]
    many = {id(a): torch.stack((a, a * 2, a * 3)) for a in floats}
    stacked = case.op(*(many.get(id(a), a) for a in case.args))
    for p, y in enumerate(stacked):
        assert torch.equal(y, case.op(*(many[id(a)][p] if id(a) in many else a for a in case.args)))


def test_whoever_asks() -> None:
    """All of the traits, and only of calls; an op without a row has none."""
    graph = fx.Graph()
    value = graph.placeholder("x")
    view = graph.call_function(aten.view.default, (value, [2, 3]))
    unknown = graph.call_function(aten.sort.default, (view,))
    assert has(view, Trait.RESHAPE | Trait.SIZED)
    assert has(view, Trait.MOVES)
    assert not has(view, Trait.RESHAPE | Trait.ALONG_AXES)
    assert not has(value, Trait.MOVES)
    assert not has(unknown, Trait.MOVES)
    assert not has("view", Trait.MOVES)
    assert aten.flatten.using_ints in ops_with(Trait.RESHAPE) - ops_with(Trait.SIZED)

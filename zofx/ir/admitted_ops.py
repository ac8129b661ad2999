"""The ops that graph.json may name: an allow-list, and the kinds of arguments they take.

    name ─listed?─▶ overload ─schema─▶ arguments of the right number and kind, sizes within bounds

An artifact may come from anyone. Every op here is a function of its arguments: it checks the
indices that it is given, writes to none of its arguments, and touches no file and no state of the
process. What the compiler emits must be listed (`graph_json.dump_graph` refuses other ops), so a
model with a new op gets a new name here, after a look at what that op does with a wrong argument.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import fx

import zofx.ir.ops  # noqa: F401  # registers torch.ops.zofx
from zofx.ir.symbols import OpOverload, op_names

ELEMENTWISE: Final = """
    __and__.Tensor __or__.Tensor abs acos add.Scalar add.Tensor atan bitwise_and.Tensor bitwise_not
    bitwise_or.Tensor ceil clamp clamp.Tensor clamp_max clamp_min cos div.Scalar div.Tensor
    div.Tensor_mode elu eq.Scalar eq.Tensor erf exp expm1 floor fmod.Scalar ge.Scalar ge.Tensor gelu
    gt.Scalar gt.Tensor hardsigmoid hardswish hardtanh isfinite isinf isnan le.Scalar le.Tensor
    leaky_relu log log1p log2 logical_and logical_not logical_or logical_xor lt.Scalar lt.Tensor
    masked_fill.Scalar masked_fill.Tensor max.other maximum min.other minimum mish mul.Scalar
    mul.Tensor nan_to_num ne.Scalar ne.Tensor neg pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor
    reciprocal relu relu6 remainder.Scalar remainder.Tensor round rsqrt rsub.Scalar sigmoid sign
    silu sin softplus sqrt square sub.Scalar sub.Tensor tan tanh where.Scalar where.ScalarOther
    where.ScalarSelf where.self
"""
SAME_VALUES: Final = """
    _to_copy alias clone contiguous copy detach dropout lift_fresh_copy to.device to.dtype
    to.dtype_layout type_as
"""
OTHER_PLACES: Final = """
    _unsafe_view broadcast_to cat chunk constant_pad_nd diagonal expand expand_as flatten.using_ints
    flip gather index.Tensor index_add index_put index_select movedim.int narrow numpy_T pad permute
    repeat repeat_interleave.self_int reshape reshape_as roll scatter.src scatter.value scatter_add
    select.int slice.Tensor split.Tensor split_with_sizes squeeze squeeze.dim squeeze.dims stack t
    transpose.int tril triu unbind.int unflatten.int unfold unsqueeze view view_as
"""
REDUCTIONS: Final = """
    _softmax all amax amin any any.dim argmax argmin cumprod cumsum group_norm layer_norm
    linalg_vector_norm log_softmax.int logsumexp max.dim mean mean.dim min.dim native_layer_norm
    prod.dim_int rms_norm
    softmax.int sort std.correction sum sum.dim_IntList topk var.correction
"""
PRODUCTS: Final = """
    addmm baddbmm bmm conv1d conv2d convolution einsum embedding linear matmul mm outer
    scaled_dot_product_attention
"""
NEW: Final = """
    arange arange.start arange.start_step full full_like new_full new_ones new_zeros ones ones_like
    one_hot scalar_tensor zeros zeros_like
"""
SIZES: Final = """
    _assert_scalar _assert_tensor_metadata sym_numel sym_size.int
"""
MOST_ELEMENTS: Final = 1 << 32
"""Of a tensor whose sizes a graph writes out: 16 GB in f32, more than any table of a program."""

COUNTS: Final = ("num_classes", "out")
"""Arguments that are a number of entries."""

KIND_OF: Final = {torch.dtype: "int", torch.layout: "int", torch.memory_format: "int"}
"""How TorchScript's schemas call the arguments of these types."""


@cache
def admitted_ops() -> frozenset[str]:
    """The names, such as "aten.add.Tensor"; every op of zofx's own is among them."""
    listed = " ".join((ELEMENTWISE, SAME_VALUES, OTHER_PLACES, REDUCTIONS, PRODUCTS, NEW, SIZES))
    own = {name.removeprefix("zofx::") for name in _registered() if name.startswith("zofx::")}
    return frozenset(_full("aten", name) for name in listed.split()) | frozenset(
        _full("zofx", name) for name in own
    )


def _registered() -> Sequence[str]:
    names: list[str] = op_names()
    return names


def _full(namespace: str, name: str) -> str:
    return f"{namespace}.{name}" if "." in name else f"{namespace}.{name}.default"


def overload(name: str) -> OpOverload:
    """The overload of a listed name.

    Raises:
        ValueError: it is not listed.
    """
    if name not in admitted_ops():
        raise ValueError(f"'{name}' is no op that a program of zofx calls")
    namespace, op, kind = name.split(".")
    target: OpOverload = getattr(getattr(getattr(torch.ops, namespace), op), kind)
    return target


def check_arguments(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check number, names, kinds and sizes of the arguments of a call.

    Raises:
        ValueError: the first that does not fit the op.
    """
    declared = target._schema.arguments
    positional = [a for a in declared if not a.kwarg_only]
    if len(args) > len(positional):
        raise ValueError(f"{target} takes {len(positional)} arguments, not {len(args)}")
    given = {a.name: value for a, value in zip(positional, args, strict=False)}
    if twice := given.keys() & kwargs.keys():
        raise ValueError(f"{target} is given '{min(twice)}' twice")
    given |= kwargs
    kinds = {a.name: a for a in declared}
    for name, value in given.items():
        if name not in kinds:
            raise ValueError(f"{target} has no argument '{name}'")
        if not _fits(str(kinds[name].type), value):
            raise ValueError(f"{target}: '{name}' is no {kinds[name].type}")
        _check_size(target, name, value)
    absent = [a.name for a in declared if a.name not in given and not a.has_default_value()]
    if absent:
        raise ValueError(f"{target} lacks its argument '{absent[0]}'")


def _fits(kind: str, value: Any) -> bool:
    """Whether a value is of a kind as schemas spell it: "Optional[List[int]]"."""
    outer, _, inner = kind.partition("[")
    inner = inner.removesuffix("]")
    if outer == "Optional":
        return value is None or _fits(inner, value)
    if outer == "List":
        # A single number stands for a list of it, where the op says how long the list is.
        several = value if isinstance(value, (list, tuple)) else [value]
        return all(_fits(inner, item) for item in several)
    if isinstance(value, fx.Node):
        return kind in ("Tensor", "int", "float", "number", "bool")
    if type(value) in KIND_OF:
        return kind == KIND_OF[type(value)]
    accepted: dict[str, tuple[type, ...]] = {
        "int": (int,), "float": (int, float), "number": (int, float), "bool": (bool,),
        "str": (str,), "Device": (torch.device,), "Tensor": (int, float),
    }  # fmt: skip
    return isinstance(value, accepted.get(kind, ()))


def _check_size(target: OpOverload, name: str, value: Any) -> None:
    """What a graph writes out in numbers is no more than `MOST_ELEMENTS`."""
    if isinstance(value, (list, tuple)) and name in ("size", "shape", "repeats", "pad"):
        count = math.prod(abs(v) for v in value if isinstance(v, int) and v)
    elif isinstance(value, int) and (name in COUNTS or str(target).startswith("aten.arange")):
        count = abs(value)
    else:
        return
    if count > MOST_ELEMENTS:
        raise ValueError(f"{target}: '{name}' asks for more than {MOST_ELEMENTS} elements")

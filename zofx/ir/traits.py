"""Op traits: what passes may rely on about an op, in one table. Whoever asks, asks this table.

    TRAITS[aten.view.default] = RESHAPE | SIZED      RESHAPE ⊂ FLAT ⊂ VIEW ⊂ MOVES ⊂ LINEAR

A trait is a statement about the meaning of an op, so `tests/ir/test_traits.py` checks every row on
numbers. An op without a row has no traits: passes leave it alone.
Source: the traits of MLIR operations (Lattner et al. 2021, MLIR: Scaling Compiler Infrastructure
for Domain Specific Computation, CGO).
"""

from collections.abc import Mapping
from enum import Flag, auto
from functools import cache
from operator import getitem
from typing import Any, Final

import torch
from torch import fx

from zofx.ir.formats import FORMATS
from zofx.ir.ops import zofx_ops

aten = torch.ops.aten


class Trait(Flag):
    """A statement about an op y = op(x, …)."""

    ELEMENTWISE = auto()
    """y[i] depends on entry i of the operands alone; operands broadcast."""

    LINEAR = auto()
    """op(x + x′, …) = op(x, …) + op(x′, …), so its tangent is the op itself."""

    ALONG_AXES = auto()
    """It acts along the axes of x that its operands number, alike at every index of the others."""

    CAST = auto()
    """The values of x as another type or on another device; the same value if the type stays."""

    IDENTITY = auto()
    """y = x, in a forward without gradients."""

    ASSERTION = auto()
    """It has no result that anything reads."""

    FILL = auto()
    """It takes the shape and type of x and none of its entries."""

    JOIN = auto()
    """x is a list of tensors, laid side by side along an axis."""

    SIZED = auto()
    """Its second operand is the shape of y; y = x if x has that shape already."""

    _MOVES = auto()
    _VIEW = auto()
    _FLAT = auto()
    _RESHAPE = auto()

    MOVES = LINEAR | _MOVES
    """Every entry of y is one of x, at a place that follows from the shapes."""

    VIEW = MOVES | _VIEW
    """The one result y is in the memory of x, by strides: torch copies nothing."""

    FLAT = VIEW | _FLAT
    """Its entries are also in the same row-major order: no engine copies."""

    RESHAPE = FLAT | _RESHAPE
    """The entries of x in the same row-major order, axes joined or taken apart."""

    ADDRESSES = auto()
    """Places are numbers that the graph computes, so it may mix the rows of a batch."""

    NORM = auto()
    """Normalizes over the trailing axes that its second operand gives; weight and bias follow."""

    MATMUL = auto()
    """A product of two values, x: [..., k]."""

    WEIGHT_PRODUCT = auto()
    """A product of x: [..., in] with a matrix of the tensor table."""

    _QUANTIZED = auto()

    QUANTIZED_PRODUCT = WEIGHT_PRODUCT | LINEAR | _QUANTIZED
    """Of x with a matrix stored as codes, which follow x; linear where `bias` is None."""

    BATCHED = auto()
    """An axis in front of its floating-point operands is one in front of y."""


STORED: Final = [FORMATS[name] for name in FORMATS]
ENTRY: Final = Trait.ELEMENTWISE
ALONG: Final = Trait.ALONG_AXES | Trait.LINEAR

TRAITS: Final[Mapping[Any, Trait]] = {
    aten.abs.default: ENTRY,
    aten.add.Scalar: ENTRY,
    aten.add.Tensor: ENTRY,
    aten.clamp.default: ENTRY,
    aten.cos.default: ENTRY,
    aten.div.Scalar: ENTRY | Trait.LINEAR,
    aten.div.Tensor: ENTRY,
    aten.erf.default: ENTRY,
    aten.exp.default: ENTRY,
    aten.gelu.default: ENTRY,
    aten.log.default: ENTRY,
    aten.masked_fill.Scalar: ENTRY,
    aten.mul.Scalar: ENTRY | Trait.LINEAR,
    aten.mul.Tensor: ENTRY,
    aten.neg.default: ENTRY | Trait.LINEAR,
    aten.pow.Scalar: ENTRY,
    aten.pow.Tensor_Scalar: ENTRY,
    aten.reciprocal.default: ENTRY,
    aten.relu.default: ENTRY,
    aten.rsqrt.default: ENTRY,
    aten.rsub.Scalar: ENTRY,
    aten.sigmoid.default: ENTRY,
    aten.silu.default: ENTRY,
    aten.sin.default: ENTRY,
    aten.sqrt.default: ENTRY,
    aten.sub.Tensor: ENTRY,
    aten.tanh.default: ENTRY,
    aten.where.self: ENTRY,
    # the same values
    aten._to_copy.default: ENTRY | Trait.LINEAR | Trait.CAST,
    aten.to.device: Trait.CAST,
    aten.to.dtype: ENTRY | Trait.LINEAR | Trait.CAST,
    aten.to.dtype_layout: Trait.CAST,
    aten.type_as.default: ENTRY | Trait.LINEAR,
    aten.clone.default: ENTRY | Trait.LINEAR,
    aten.contiguous.default: ENTRY | Trait.LINEAR | Trait.IDENTITY,
    aten.alias.default: Trait.FLAT | Trait.IDENTITY,
    aten.detach.default: Trait.FLAT | Trait.IDENTITY,
    aten.detach_.default: Trait.IDENTITY,
    aten.dropout.default: Trait.IDENTITY,
    aten.lift_fresh_copy.default: Trait.IDENTITY,
    zofx_ops.cut.default: Trait.FLAT,
    aten._assert_scalar.default: Trait.ASSERTION,
    aten._assert_tensor_metadata.default: Trait.ASSERTION,
    # entries at other places
    aten._unsafe_view.default: Trait.RESHAPE | Trait.SIZED,
    aten.reshape.default: Trait.RESHAPE | Trait.SIZED,
    aten.view.default: Trait.RESHAPE | Trait.SIZED,
    aten.flatten.using_ints: Trait.RESHAPE | ALONG,
    aten.unflatten.int: Trait.RESHAPE | ALONG,
    aten.squeeze.dim: Trait.FLAT | ALONG,
    aten.squeeze.dims: Trait.FLAT | ALONG,
    aten.unsqueeze.default: Trait.FLAT | ALONG,
    getitem: Trait.FLAT,
    aten.expand.default: Trait.VIEW | Trait.SIZED,
    aten.permute.default: Trait.VIEW,
    aten.select.int: Trait.VIEW | ALONG,
    aten.slice.Tensor: Trait.VIEW | ALONG,
    aten.t.default: Trait.VIEW,
    aten.transpose.int: Trait.VIEW | ALONG,
    aten.split.Tensor: Trait.MOVES | ALONG,
    aten.split_with_sizes.default: Trait.MOVES | ALONG,
    aten.unbind.int: Trait.MOVES | ALONG,
    aten.cat.default: Trait.MOVES | Trait.JOIN,
    aten.stack.default: Trait.MOVES | Trait.JOIN,
    aten.repeat.default: Trait.MOVES,
    zofx_ops.replicate.default: Trait.MOVES,
    # sums along axes
    aten.cumsum.default: ALONG,
    aten.mean.dim: ALONG,
    aten.sum.dim_IntList: ALONG,
    aten.full_like.default: Trait.FILL,
    aten.new_full.default: Trait.FILL,
    aten.new_ones.default: Trait.FILL,
    aten.new_zeros.default: Trait.FILL,
    aten.ones_like.default: Trait.FILL,
    aten.zeros_like.default: Trait.FILL,
    # places that the graph computes
    aten.index.Tensor: Trait.ADDRESSES,
    aten.index_add.default: Trait.ADDRESSES,
    aten.index_put.default: Trait.ADDRESSES,
    aten.index_select.default: Trait.ADDRESSES | ALONG,
    aten.scatter.src: Trait.ADDRESSES,
    aten.layer_norm.default: Trait.NORM,
    aten.rms_norm.default: Trait.NORM,
    # products
    aten.bmm.default: Trait.MATMUL,
    aten.matmul.default: Trait.MATMUL,
    aten.mm.default: Trait.MATMUL,
    aten.linear.default: Trait.WEIGHT_PRODUCT,
    **{stored.op: Trait.QUANTIZED_PRODUCT for stored in STORED},
    zofx_ops.linear_rounded.default: Trait.WEIGHT_PRODUCT,
    zofx_ops.probe_linear.default: Trait.WEIGHT_PRODUCT,
    **{stored.dequantize_op: Trait.BATCHED for stored in STORED if stored.dequantize_op},
}


def has(node: Any, trait: Trait) -> bool:
    """Whether a node is a call of an op with these traits, all of them."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return False
    return trait in TRAITS.get(node.target, Trait(0))


@cache
def ops_with(trait: Trait) -> frozenset[Any]:
    """The ops that have these traits, all of them."""
    return frozenset(op for op, traits in TRAITS.items() if trait in traits)

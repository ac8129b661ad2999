"""How far an exact gradient in float32 may be from the gradient: its rounding, and nothing else.

    g = ∂f/∂θ    f is computed forwards, value by value, then g backwards, from every adjoint v̄
    |⟨w, g₃₂ − g⟩| ≤ Σᵢ |∂⟨w, g⟩/∂vᵢ|·localᵢ + Σᵢ |∂⟨w, g⟩/∂v̄ᵢ|·localᵢ + O(u²)

The backward pass is a program, too, so the derivation of `tests.runtimes.reference` goes on through
it: what each of its ops rounds is noted beside what the forward pass rounded, and the derivative of
the gradient weighs both. Autograd writes that pass as ops that multiply and add; an op whose
longest path has n roundings is off by γₙ of what it adds up, absolutely. For each tensor this takes
one second derivative along w, a sign for every component; all components would take one each.

An error above the bound in any component is seen by half of all w at least: of two w that differ
in that sign alone, one gives an inner product as large as the error. With w drawn anew at each of
20 steps, one that is there at each of them is missed with a probability of 2⁻²⁰ at most.

A fused kernel forms the same terms in an order of its own, with two exceptions. That of a layer
norm multiplies out x − mean, and `FUSED` is what this may add where a row's mean is not above its
deviation. That of attention makes the probabilities again from q·kᵀ, whose terms add up to 1 at
most here, as is asserted: what those are off is counted once more.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.methods.bounds import cross_entropy
from tests.methods.reference import Tensors
from tests.runtimes import reference
from tests.runtimes.reference import ARITHMETIC, FUNCTION, UNIT, Rounding
from zofx.artifact import layout
from zofx.ir.graph_json import load_graph
from zofx.ir.symbols import TorchDispatchMode
from zofx.tasks.rows import Encoded
from zofx.zo.types import FloatArray, Key, key_words

aten = torch.ops.aten

FUSED = 3
"""|x| + |mean| ≤ |x − mean| + 2·|mean|, over |x − mean|."""
SCORE = 40
"""Roundings of two scores, of up to 18 operations each, and of their differences from log Σ exp."""


def rounding_of_gradient(
    folder: Path, theta: Mapping[str, FloatArray], encoded: Encoded, signs: Tensors
) -> Tensors:
    """How far a session's gradient of the cross-entropy at θ may be from the gradient.

    Args:
        folder: the artifact.
        theta: what moves, as it is.
        encoded: the batch.
        signs: w of each tensor that has an exact gradient.

    Returns:
        The bound of ⟨w, ∂f/∂θ[name]⟩, f64[], by name.
    """
    given = {
        **encoded.batch.named(),
        **theta,
        "keys": key_words((Key(0, 0),)).view(np.int64),
        "coefficients": np.zeros((1, 1), np.float32),
    }
    inputs = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in given.items()}
    leaves = {name: inputs[name].double().requires_grad_() for name in signs}
    inputs = {**load_file(folder / layout.WEIGHTS), **inputs, **leaves}
    rounding = SmallScores()
    scores = reference.run(load_graph(folder / layout.GRAPH), inputs, rounding)
    gradient = noted_gradient(cross_entropy(scores, encoded).sum(), leaves, rounding)
    along = torch.stack([(signs[name] * slope).sum() for name, slope in gradient.items()])
    return dict(zip(signs, rounding.bound(along), strict=True))


def noted_gradient(result: Tensor, leaves: Tensors, rounding: Rounding) -> Tensors:
    """∂result/∂leaf, itself with a derivative; what its ops round is noted."""
    one = torch.ones_like(result).requires_grad_()  # so that constants of the pass are values, too
    with Noted(rounding):
        gradients = torch.autograd.grad(result, list(leaves.values()), one, create_graph=True)
    return dict(zip(leaves, gradients, strict=True))


class SmallScores(Rounding):
    """Sees to what the module says of attention."""

    def __call__(self, value: Tensor, magnitude: Tensor, roundings: int) -> Tensor:
        """Of what is square in its last axes: scores and probabilities."""
        if value.dim() == 4 and value.shape[-1] == value.shape[-2]:
            assert magnitude.max() <= 1, "scores too large for the bound of their backward pass"
        return super().__call__(value, magnitude, roundings)


class Noted(TorchDispatchMode):
    """Notes what every op below autograd rounds.

    Args:
        rounding: where.
    """

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._rounding = rounding

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The op itself; autograd makes its value one that has a derivative afterwards."""
        value, kind = op(*args, **(kwargs or {})), op.overloadpacket
        if kind in EXACT:
            return value
        if kind not in RULES:
            raise NotImplementedError(f"say what {op} rounds in a backward pass, in {__file__}")
        self._rounding.values.append(value)
        self._rounding.local.append(FUSED * RULES[kind](op, value, *args).expand_as(value))
        return value


Rule: TypeAlias = Callable[..., Tensor]
"""(op, value, its arguments) → how far it may be off for its own rounding, over its shape."""


def _gamma(roundings: int) -> float:
    return roundings * UNIT / (1 - roundings * UNIT)


def _sizes(args: tuple[Any, ...]) -> list[Any]:
    """Absolute values of numbers; an index is what it is."""
    return [abs(x) if _is_real(x) else x for x in args]


def _is_real(x: Any) -> bool:
    return x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, float)


def summed(roundings: Callable[..., int], absolutely: Callable[..., Tensor] | None = None) -> Rule:
    """Sums of products.

    Args:
        roundings: (value, arguments) → n.
        absolutely: the op with plus for every minus, where it is not the op itself.
    """

    def rule(op: Any, value: Tensor, *args: Any) -> Tensor:
        return _gamma(roundings(value, *args)) * (absolutely or op)(*_sizes(args))

    return rule


def few(*_: Any) -> int:
    """Of an op on pairs of values."""
    return ARITHMETIC


def terms(value: Tensor, x: Tensor, *_: Any) -> int:
    """Of a sum over some axes."""
    return x.numel() // value.numel()


def inner(value: Tensor, x: Tensor, *_: Any) -> int:
    """Of a product of matrices."""
    return x.shape[-1] + 1


def collided(value: Tensor, *args: Any) -> int:
    """Of values that are added where they meet: all of the last, at most."""
    return [x for x in args if _is_real(x)][-1].numel()


def collided_rows(op: Any, value: Tensor, g: Tensor, ids: Tensor, *sizes: Any) -> Tensor:
    """Rows that are added where their ids are the same: all of them, at most."""
    return _gamma(ids.numel()) * op(g.abs(), ids, *sizes)


def itself(roundings: int) -> Rule:
    """Units of the value."""
    return lambda op, value, *_: _gamma(roundings) * value.abs()


def gelu_back(op: Any, value: Tensor, g: Tensor, x: Tensor, *_: Any) -> Tensor:
    """g·(Φ(x) + x·φ(x)): both functions are off by units of 1."""
    return _gamma(2 * FUNCTION) * g.abs() * (1 + x.abs())


def tanh_back(op: Any, value: Tensor, g: Tensor, y: Tensor) -> Tensor:
    """g·(1 − y²), with y as it was off by units of 1."""
    return _gamma(2 * FUNCTION) * g.abs() * (1 + y * y)


def softmax_back(op: Any, value: Tensor, g: Tensor, p: Tensor, axis: int, *_: Any) -> Tensor:
    """p·(g − Σ p·g), with p as exp(x − log Σ exp x) again: off by units of 1 + |log p|."""
    again = SCORE + FUNCTION + p.shape[axis]
    own = p * (1 + p.clamp(min=torch.finfo(p.dtype).tiny).log().abs())
    mean = (p * g.abs()).sum(axis, keepdim=True)
    other = (own * g.abs()).sum(axis, keepdim=True)
    return _gamma(again + p.shape[axis] + 3) * (own * (g.abs() + mean) + p * other)


def log_softmax_back(op: Any, value: Tensor, g: Tensor, y: Tensor, axis: int, *_: Any) -> Tensor:
    """g − exp(y)·Σ g."""
    total = y.exp() * g.abs().sum(axis, keepdim=True)
    return _gamma(FUNCTION + y.shape[axis] + 2) * (g.abs() + total)


EXACT = {
    aten._unsafe_view, aten.alias, aten.cat, aten.clone, aten.detach, aten.expand, aten.masked_fill,
    aten.gather, aten.index, aten.index_select, aten.neg, aten.new_zeros, aten.ones_like,
    aten.permute, aten.select, aten.select_backward, aten.slice, aten.slice_backward,
    aten.squeeze, aten.stack, aten.t,
    aten.transpose, aten.unsqueeze, aten.view, aten.where, aten.zeros, aten.zeros_like,
}  # fmt: skip
RULES: Mapping[Any, Rule] = {
    aten._log_softmax_backward_data: log_softmax_back,
    aten._softmax_backward_data: softmax_back,
    aten.add: summed(few),
    aten.bmm: summed(inner),
    aten.div: summed(few),
    aten.embedding_dense_backward: collided_rows,
    aten.exp: itself(FUNCTION),
    aten.gelu_backward: gelu_back,
    aten.index_put: summed(collided),
    aten.mm: summed(inner),
    aten.mul: summed(few),
    aten.pow: itself(ARITHMETIC),
    aten.rsub: summed(few, lambda x, y, *_: x + y),
    aten.scatter_add: summed(collided),
    aten.sigmoid_backward: itself(ARITHMETIC),
    aten.sub: summed(few, torch.add),
    aten.sum: summed(terms),
    aten.tanh_backward: tanh_back,
}

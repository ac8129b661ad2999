"""The diagonal of the empirical Fisher: how much losses depend on each linear weight.

    losses ─one backward each─▶ F(W) = Σ_losses (∂L/∂W)²

W are the matrices of linear layers; embeddings, and a head tied to one, have no scores.
Memory: the model in f32, F, and one layer's gradient: a gradient is squared and freed on arrival.
Source: Guo et al. 2024, arXiv 2406.02913; Sung et al. 2021 (FISH mask), arXiv 2111.09839.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zofx.errors import UsageError
from zofx.ir.program import Loader
from zofx.models.checkpoint import Checkpoint, build_on_meta

T = TypeVar("T")
BatchLoss: TypeAlias = Callable[[PreTrainedModel], Tensor]  # → a scalar that has a backward
Progress: TypeAlias = Callable[[int, int], None]  # (batches done, of how many)


def squared_gradients(
    checkpoint: Checkpoint,
    losses: Sequence[BatchLoss],
    name: str,
    progress: Progress | None = None,
) -> dict[str, Loader]:
    """Square and add the gradients of some losses.

    Args:
        checkpoint: whose weights.
        losses: one per batch, called once, in order.
        name: of what they measure, for messages.
        progress: called after each batch.

    Returns:
        Parameter name → recipe of its scores, f32 in the parameter's shape.

    Raises:
        UsageError: a loss is not finite.
    """
    model = _load(checkpoint)
    squares = _collect_squares(model)
    for done, loss_on in enumerate(losses, 1):
        loss = loss_on(model)
        if not loss.isfinite():
            raise UsageError(
                f"the loss of {checkpoint.source} on batch {done} of '{name}' is {loss}: "
                "its weights are damaged, or not made for float32"
            )
        torch.autograd.backward(loss)
        if progress:
            progress(done, len(losses))
    return {weight: _constant(total) for weight, total in squares.items()}


def in_parts(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """So many parts of equal number, to within one; in order."""
    edges = [len(items) * place // count for place in range(count + 1)]
    return [items[start:stop] for start, stop in pairwise(edges)]


def _load(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model with its weights in f32; tied ones stay one parameter."""
    model = build_on_meta(checkpoint.config, checkpoint.architecture)
    recipes = checkpoint.resolve(model)
    names = {id(t): n for n, t in model.state_dict(keep_vars=True).items()}
    made: dict[str, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for key, old in table.items():
                name = names.get(id(old))
                if name is None:
                    continue
                if name not in made:
                    value = recipes[name]().to(old.dtype)
                    made[name] = nn.Parameter(value) if isinstance(old, nn.Parameter) else value
                table[key] = made[name]
    return model


def _collect_squares(model: PreTrainedModel) -> dict[str, Tensor]:
    """Let every backward add the squares of its gradients here, and keep no gradient."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    squares: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        scored = parameter.dim() == 2 and id(parameter) not in embeddings
        parameter.requires_grad_(scored)
        if scored:
            squares[name] = torch.zeros_like(parameter, requires_grad=False)
            parameter.register_post_accumulate_grad_hook(_adder(squares[name]))
    return squares


def _constant(total: Tensor) -> Loader:
    return lambda: total


def _adder(total: Tensor) -> Callable[[Tensor], None]:
    def add(parameter: Tensor) -> None:
        if parameter.grad is not None:
            total.add_(parameter.grad.square_())
            parameter.grad = None

    return add
